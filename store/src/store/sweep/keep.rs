//! What a sweep keeps, and what else it removes.

use std::time::SystemTime;

use crate::config::Configuration;
use crate::digest::Digest;

/// What a sweep keeps, and what else it removes.
#[expect(clippy::struct_excessive_bools, reason = "each says of one thing whether it goes")]
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Configurations whose layers are kept, each with the reason.
    pub configurations: Vec<(Configuration, &'static str)>,
    /// Roots that are kept, each with the reason; `None`: all.
    pub roots: Option<Vec<(Digest, &'static str)>>,
    /// Whether replaced roots are removed. Before that, a script must have succeeded, so that its
    /// service could leave these roots.
    pub replaced: bool,
    /// Whether roots without a record, which another program made, are removed like other roots.
    /// Otherwise they are kept.
    pub taken_over: bool,
    /// The age of cached data to remove; `None`: the sweep removes no cached data.
    pub cache: Option<Ages>,
    /// Whether blobs of extracted layers are kept.
    pub keep_blobs: bool,
    /// Whether bytes of roots are counted, which needs a look at each of their files.
    pub weigh: bool,
}

/// Unneeded things stay if they changed at or after this time. `None` removes them whatever their
/// age.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ages {
    /// Blobs, layers and objects.
    pub cache: Option<SystemTime>,
    /// Interrupted downloads.
    pub downloads: Option<SystemTime>,
    /// Quarantined files.
    pub quarantine: Option<SystemTime>,
    /// Whether unfinished work is removed: only while nothing is running.
    pub leftovers: bool,
}
