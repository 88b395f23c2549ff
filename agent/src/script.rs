//! Running the script: who it is told about, how it ends, what its failure means.
//!
//! The script is started at least once for every change: should the agent die after the
//! script and before the state file is replaced, it is started again. Processes that it
//! leaves in the background live on.

pub mod env_file;
mod environment;
pub mod executable;
pub mod output;
mod process;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use deploy_store::{Configuration, Digest};

pub use crate::script::environment::{MAX_ENVIRONMENT, PASSED, check_environment, environment};
use crate::script::executable::Missing;
pub use crate::script::process::run;

/// From TERM to KILL when a script is ended.
pub const KILL_AFTER: Duration = Duration::from_secs(10);
/// How long a script may go on when the agent is to end.
pub const STOP_GRACE: Duration = Duration::from_secs(60);

/// What is run after a root is ready.
#[derive(Debug, Clone)]
pub struct Script {
    /// A path, or a name to be found in `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// A file with variables of its own.
    pub env_file: Option<PathBuf>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// How long it may go on when the agent is to end.
    pub grace: Duration,
    /// From TERM to KILL when it is ended.
    pub kill_after: Duration,
}

/// What the script is told: the change it is run for.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What was deployed before, with its root; `None` on the first run.
    pub old: Option<(Digest, &'a Path)>,
    /// What is deployed now.
    pub new: &'a Configuration,
    /// Its root.
    pub new_root: &'a Path,
}

/// Why a script did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be started as it is.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The configuration cannot be told to a script.
    #[error("configuration \"{name}\" cannot be told to a script: {reason}")]
    Environment {
        /// The configuration.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system did not start it.
    #[error("{program:?}: cannot {action}: {cause}")]
    System {
        /// The script.
        program: String,
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        cause: io::Error,
    },
    /// It was started, and its end cannot be waited for.
    #[error("{program:?}: cannot wait for it: {cause}")]
    Unwatched {
        /// The script.
        program: String,
        /// Why not.
        cause: io::Error,
    },
    /// A file for it, or the record that it is about to start, cannot be written.
    #[error("{program:?}: cannot {cause}")]
    Unready {
        /// The script.
        program: String,
        /// What failed, and why.
        cause: deploy_store::Error,
    },
    /// The file with its own variables cannot be used.
    #[error(transparent)]
    Variables(#[from] env_file::Error),
    /// It said that it failed.
    #[error("{program:?} call failure: {}", describe(*status))]
    Failed {
        /// The script.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It was ended because it took too long.
    #[error("{program:?} call failure: ended after {after:?}, {why}")]
    Ended {
        /// The script.
        program: String,
        /// How long it had run.
        after: Duration,
        /// What limit it crossed.
        why: &'static str,
    },
}

impl Script {
    /// The file to run.
    pub fn find(&self) -> Result<PathBuf, Missing> {
        executable::program(&self.program, std::env::var_os("PATH").as_deref())
    }
}

impl Error {
    /// Whether the script was started: nobody knows what it did then.
    pub fn has_run(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Ended { .. } | Self::Unwatched { .. })
    }
}

/// How a process ended, in the Go tool's words.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
