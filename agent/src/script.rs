//! Defines the deploy script: its inputs, and the reasons why the script may fail.
//!
//! The agent starts the script at least once for every change that the agent deploys. If the agent
//! dies after the end of the script, but before it replaces the state file, the next agent starts
//! the script again. Processes that the script leaves in the background continue to run.

pub mod env_file;
mod environment;
pub mod executable;
mod process;
pub mod script_output;

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

/// Time between the signals TERM and KILL, if the agent ends a script.
pub const KILL_AFTER: Duration = Duration::from_secs(10);
/// Maximum time that a script may continue after the agent was asked to stop.
pub const STOP_GRACE: Duration = Duration::from_secs(60);

/// The deploy script, which runs when a root is ready.
#[derive(Debug, Clone)]
pub struct Script {
    /// A path, or the name of a program in a directory of `PATH`.
    pub program: String,
    /// The arguments.
    pub arguments: Vec<OsString>,
    /// File with variables for the script.
    pub env_file: Option<PathBuf>,
    /// Maximum time that the script may run; `None` for no limit.
    pub timeout: Option<Duration>,
    /// Maximum time that the script may continue after the agent was asked to stop.
    pub grace: Duration,
    /// Time between the signals TERM and KILL, if the agent ends the script.
    pub kill_after: Duration,
}

/// The change for which the script runs.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The old configuration and its root; `None` if the script gets no old root, as on the first
    /// deploy.
    pub old: Option<(Digest, &'a Path)>,
    /// The new configuration.
    pub new: &'a Configuration,
    /// The root of the new configuration.
    pub new_root: &'a Path,
}

/// Why a script did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is missing or cannot be executed.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The configuration does not fit in the script's environment.
    #[error("configuration \"{name}\" cannot be passed to a script: {reason}")]
    Environment {
        /// Name of the configuration.
        name: String,
        /// What is wrong with the configuration.
        reason: String,
    },
    /// The system did not start the script.
    #[error("{program:?}: cannot {action}: {cause}")]
    System {
        /// The script.
        program: String,
        /// The action that failed.
        action: &'static str,
        /// Why the action failed.
        cause: io::Error,
    },
    /// The script was started, but the agent cannot wait for its end.
    #[error("{program:?}: cannot wait for the script's end: {cause}")]
    Unwatched {
        /// The script.
        program: String,
        /// The cause.
        cause: io::Error,
    },
    /// The agent cannot write the script's state file, or the record of the start.
    #[error("{program:?}: cannot {cause}")]
    Unready {
        /// The script.
        program: String,
        /// The failed action and its cause.
        cause: Box<deploy_store::Error>,
    },
    /// The file with variables for the script cannot be used.
    #[error(transparent)]
    Variables(#[from] env_file::Error),
    /// The script exited with an error, or a signal ended it.
    #[error("{program:?} call failure: {}", describe(*status))]
    Failed {
        /// The script.
        program: String,
        /// How the process ended.
        status: ExitStatus,
    },
    /// The agent ended the script because the script took too long.
    #[error("{program:?} call failure: the agent ended the script after {after:.1?}, {why}")]
    Ended {
        /// The script.
        program: String,
        /// How long the script had run.
        after: Duration,
        /// Why the agent ended the script, as the end of a sentence.
        why: &'static str,
    },
}

impl Script {
    /// Finds the file to run.
    pub fn find(&self) -> Result<PathBuf, Missing> {
        executable::program(&self.program, std::env::var_os("PATH").as_deref())
    }
}

impl Error {
    /// Whether the script was started. If so, it is unknown what the script has changed.
    pub fn has_run(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::Ended { .. } | Self::Unwatched { .. })
    }
}

/// Describes how a process ended. For an exit code, the text is the Go tool's text.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
