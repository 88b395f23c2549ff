//! Defines [`Agent`], the settings and the state that the modules of the agent share.

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
    /// Path of the state file.
    pub state: PathBuf,
    /// The deploy script, if any.
    pub script: Option<Script>,
    /// Writes `agent.json` for `status`.
    pub report: Reporter,
    /// Path of the symlink to the current root (`-current`), if any.
    pub current: Option<PathBuf>,
    /// The number of roots that sweeps keep, at least 1.
    pub keep_roots: usize,
    /// Whether roots of another program count towards `keep_roots`.
    pub count_taken_over: bool,
    /// Whether the cache keeps the blob of a layer after the layer is extracted.
    pub keep_blobs: bool,
    /// The number of bytes that `-min-free` keeps free on the filesystem; 0 without the flag.
    pub min_free: u64,
    /// The state of the spare builder. The value is `None` if the agent makes no spare: with
    /// `-no-spare`, with `-once` and in subcommands.
    pub spares: Option<Spares>,
    /// Limits the rate of downloads.
    pub throttle: Throttle,
    /// The health gate, if there are checks.
    pub health: Option<Gate>,
    /// The reports that the agent sends to the registry.
    pub reports: Reports,
    /// The offers that the registry has sent.
    pub offers: Offers,
    /// Announces that the registry's configuration may have changed. Such an announcement ends a
    /// health gate early.
    pub superseded: watch::Sender<()>,
    /// Whether to suppress the display of progress.
    pub quiet: bool,
    /// Becomes set when a signal asks the agent to stop.
    pub stop: Stop,
}

/// The state of the spare builder, which makes one spare root at a time.
#[derive(Debug, Default)]
pub struct Spares {
    pub(crate) busy: Arc<AtomicBool>,
    /// Id of the configuration for which the agent last began to make a spare. The agent may have
    /// failed to make that spare.
    pub(crate) wanted: Mutex<Option<Digest>>,
}

/// While this value exists, a spare is being made, and work such as `gc` waits. A panic also drops
/// the value, so such work never waits forever.
pub(crate) struct Busy(pub(crate) Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
