//! What an agent works with: its directory, its store and its settings.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use deploy_store::{ConfigurationName, Digest, Store};

use crate::fetch::throttle::Throttle;
use crate::records::agent_report::Reporter;
use crate::sandbox::Confinement;
use crate::script::Script;
use crate::stop::Stop;

/// What an agent works with.
#[derive(Debug)]
pub struct Agent {
    /// Configuration to track.
    pub name: ConfigurationName,
    /// The agent's directory, as it was given.
    pub dir: PathBuf,
    /// The store in it.
    pub store: Arc<Store>,
    /// What confines the threads that read archives and build roots.
    pub confinement: Confinement,
    /// The state file.
    pub state: PathBuf,
    /// What to run, if anything.
    pub script: Option<Script>,
    /// What it leaves for `status`.
    pub report: Reporter,
    /// Symlink to the current root.
    pub current: Option<PathBuf>,
    /// Roots to keep, at least 1.
    pub keep_roots: usize,
    /// Whether roots of another program count among them.
    pub count_taken_over: bool,
    /// Whether blobs of extracted layers stay in the cache.
    pub keep_blobs: bool,
    /// Bytes to keep free; 0 for none.
    pub min_free: u64,
    /// Makes spare roots, if any are to be made.
    pub spares: Option<Spares>,
    /// Holds downloads back.
    pub throttle: Throttle,
    /// Whether to log no progress.
    pub quiet: bool,
    /// Tells when to end.
    pub stop: Stop,
}

/// Makes spares, one at a time.
#[derive(Debug, Default)]
pub struct Spares {
    pub(crate) busy: Arc<AtomicBool>,
    /// What the last one was made for, or was to be made for when that failed.
    pub(crate) wanted: Mutex<Option<Digest>>,
}

/// That one is being made, until this is dropped: also by a panic, or `gc` would wait for ever.
pub(crate) struct Busy(pub(crate) Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
