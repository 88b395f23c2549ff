//! What a sweep leaves, and how far it goes.

use std::time::SystemTime;

use crate::config::Configuration;
use crate::digest::Digest;

/// What a sweep leaves, and how far it goes.
#[expect(clippy::struct_excessive_bools, reason = "each says of one thing whether it goes")]
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Configurations whose layers stay, each with the reason.
    pub configurations: Vec<(Configuration, &'static str)>,
    /// Roots that stay, each with the reason; `None`: all do.
    pub roots: Option<Vec<(Digest, &'static str)>>,
    /// Whether roots go that others were built in the place of: not before a script has
    /// succeeded that could have left them.
    pub replaced: bool,
    /// Whether roots without a record, which another program made, go as others do. Else they
    /// stay: nobody said that they may go.
    pub taken_over: bool,
    /// What goes from the cache; `None`: nothing does.
    pub cache: Option<Ages>,
    /// Whether blobs of extracted layers stay.
    pub keep_blobs: bool,
    /// Whether bytes of roots are counted, which takes a look at each of their files.
    pub weigh: bool,
}

/// From when on things stay that nothing needs. `None` takes them whatever their age.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ages {
    /// Blobs, layers and objects.
    pub cache: Option<SystemTime>,
    /// Downloads that were cut off.
    pub downloads: Option<SystemTime>,
    /// What was set aside as damaged.
    pub quarantine: Option<SystemTime>,
    /// Whether what was left half done goes: only while nobody is at work.
    pub leftovers: bool,
}
