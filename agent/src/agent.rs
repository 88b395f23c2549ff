//! The `Agent`: the directory, the store and the settings that an agent works with.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use deploy_store::{Digest, Store};
use tokio::sync::watch;

use crate::fetch::throttle::Throttle;
use crate::fleet::offers::Offers;
use crate::fleet::reporter::Reports;
use crate::health::gate::Gate;
use crate::records::agent_report::Reporter;
use crate::sandbox::Confinement;
use crate::script::Script;
use crate::stop::Stop;

/// The directory, the store and the settings of an agent.
#[derive(Debug)]
pub struct Agent {
    /// The agent's directory, as given on the command line.
    pub dir: PathBuf,
    /// The store in the agent's directory.
    pub store: Arc<Store>,
    /// How to confine the threads that read archives and build roots.
    pub confinement: Confinement,
    /// The state file.
    pub state: PathBuf,
    /// The deploy script, if any.
    pub script: Option<Script>,
    /// Writes `agent.json` for `status`.
    pub report: Reporter,
    /// Symlink to the current root.
    pub current: Option<PathBuf>,
    /// Number of roots to keep, at least 1.
    pub keep_roots: usize,
    /// Whether roots that another program made count among the roots to keep.
    pub count_taken_over: bool,
    /// Whether blobs of extracted layers stay in the cache.
    pub keep_blobs: bool,
    /// Bytes to keep free; 0 for none.
    pub min_free: u64,
    /// Makes spare roots; `None` with `-no-spare`, with `-once` and in subcommands.
    pub spares: Option<Spares>,
    /// Limits the rate of downloads.
    pub throttle: Throttle,
    /// The health gate, if there are checks.
    pub health: Option<Gate>,
    /// What the agent reports to the registry.
    pub reports: Reports,
    /// The offers that the registry has sent.
    pub offers: Offers,
    /// Announces that the registry may have another configuration. The announcement ends a health
    /// gate early.
    pub superseded: watch::Sender<()>,
    /// Whether to show no progress.
    pub quiet: bool,
    /// Signals that the agent must stop.
    pub stop: Stop,
}

/// Makes spares, one at a time.
#[derive(Debug, Default)]
pub struct Spares {
    pub(crate) busy: Arc<AtomicBool>,
    /// Id of the configuration for which the agent last began to make a spare. The agent may have
    /// failed to make that spare.
    pub(crate) wanted: Mutex<Option<Digest>>,
}

/// While this value exists, a spare is being made, and `gc` waits. A panic also drops the value, so
/// that `gc` does not wait forever.
pub(crate) struct Busy(pub(crate) Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
