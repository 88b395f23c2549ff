//! Defines the rules that state what a sweep keeps and what a sweep removes.

use std::time::SystemTime;

use crate::config::Configuration;
use crate::digest::Digest;

/// The rules that state what a sweep keeps and what a sweep removes.
#[expect(clippy::struct_excessive_bools, reason = "each flag concerns one kind of data")]
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// The configurations whose layers are kept, each with the reason.
    pub configurations: Vec<(Configuration, &'static str)>,
    /// The roots that are kept, each with the reason. `None` keeps all roots.
    pub roots: Option<Vec<(Digest, &'static str)>>,
    /// Whether replaced roots are removed. Set this flag only after the script of a deployment has
    /// succeeded. Before that, a service may still run in a replaced root.
    pub replaced: bool,
    /// Whether roots without a record are removed like other roots. Usually, another program made
    /// these roots. If the flag is not set, these roots are kept.
    pub taken_over: bool,
    /// The ages from which cached data is removed. `None` keeps all cached data.
    pub cache: Option<Ages>,
    /// Whether blobs of extracted layers are kept.
    pub keep_blobs: bool,
    /// Whether the bytes of roots are counted. To count bytes, the sweep must read the metadata of
    /// each file in the roots.
    pub weigh: bool,
}

/// A time for each kind of data. The sweep keeps unneeded data of a kind if the data changed at or
/// after this time. If the time is `None`, the sweep removes unneeded data regardless of its age.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ages {
    /// The time for blobs, layers and objects.
    pub cache: Option<SystemTime>,
    /// The time for interrupted downloads.
    pub downloads: Option<SystemTime>,
    /// The time for quarantined files.
    pub quarantine: Option<SystemTime>,
    /// Whether unfinished work is removed. Set this flag only while no work is running.
    pub leftovers: bool,
}
