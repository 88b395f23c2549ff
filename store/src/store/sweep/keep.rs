//! The rules of a sweep: what it keeps and what it removes.

use std::time::SystemTime;

use crate::config::Configuration;
use crate::digest::Digest;

/// The rules of a sweep: what it keeps and what it removes.
#[expect(clippy::struct_excessive_bools, reason = "each flag concerns one kind of data")]
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// The configurations whose layers are kept, each with the reason.
    pub configurations: Vec<(Configuration, &'static str)>,
    /// The roots that are kept, each with the reason. `None` keeps all roots.
    pub roots: Option<Vec<(Digest, &'static str)>>,
    /// Whether replaced roots are removed. Set this flag only after a script has succeeded, because
    /// until then a service may run in a replaced root.
    pub replaced: bool,
    /// Whether roots without a record are removed like other roots. Another program made these
    /// roots. If the flag is not set, these roots are kept.
    pub taken_over: bool,
    /// The age of cached data to remove. `None` keeps all cached data.
    pub cache: Option<Ages>,
    /// Whether blobs of extracted layers are kept.
    pub keep_blobs: bool,
    /// Whether the bytes of roots are counted. The sweep must then read the metadata of each of
    /// their files.
    pub weigh: bool,
}

/// A time for each kind of data. The sweep keeps unneeded data of a kind if the data changed at or
/// after this time. With `None`, the sweep removes the data regardless of age.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ages {
    /// Blobs, layers and objects.
    pub cache: Option<SystemTime>,
    /// Interrupted downloads.
    pub downloads: Option<SystemTime>,
    /// Quarantined files.
    pub quarantine: Option<SystemTime>,
    /// Whether unfinished work is removed. Set this flag only while no work is running.
    pub leftovers: bool,
}
