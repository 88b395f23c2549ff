//! What can go wrong in a cycle.

use std::path::{Path, PathBuf};

use deploy_store::{Configuration, Size};
use deploy_wire::client::ClientError;
use deploy_wire::exit;

use crate::script;

/// Result of a step of a cycle.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong in a cycle.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry cannot be reached, or it refused.
    #[error(transparent)]
    Registry(#[from] ClientError),
    /// The registry has no such configuration.
    #[error(
        "no configuration \"{name}\" in the registry at {addr}; make it with addconf, or check -name"
    )]
    UnknownConfiguration {
        /// The configuration.
        name: String,
        /// The registry.
        addr: String,
    },
    /// What the registry sent for a configuration is none.
    #[error("configuration \"{name}\" from the registry cannot be used: {reason}")]
    BadConfiguration {
        /// The configuration.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A layer's blob cannot be had.
    #[error("download of layer {layer}: {cause}{}", hint(cause))]
    Download {
        /// Component and version.
        layer: String,
        /// Why.
        cause: ClientError,
    },
    /// A layer's blob did not come with the right bytes, twice.
    #[error("blob of layer {layer}: {cause}; the registry or the way to it is damaging data")]
    WrongBytes {
        /// Component and version.
        layer: String,
        /// What came.
        cause: deploy_store::Error,
    },
    /// A layer cannot be extracted.
    #[error("layer {layer}: {cause}")]
    Layer {
        /// Component and version.
        layer: String,
        /// Why.
        cause: deploy_store::Error,
    },
    /// The agent's directory or state file.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The configuration cannot be deployed with a script.
    #[error(transparent)]
    BadScriptEnvironment(script::Error),
    /// There is no registry to ask.
    #[error(
        "not everything is in the cache, and no registry was named; give -addr, -fp and -key, or start the agent"
    )]
    NoRegistry,
    /// There is no state to roll back from.
    #[error("nothing is deployed, so there is nothing to roll back from")]
    NothingDeployed,
    /// There is nothing to roll back to.
    #[error("nothing to roll back to: {}", nothing_before(held.as_deref()))]
    NothingBefore {
        /// What was rolled back from, last.
        held: Option<String>,
    },
    /// The filesystem is too full.
    #[error(
        "not enough room for {what}: it needs {}, {} are free, and -min-free keeps {}; what is deployed stays as it is; {FREE_SOME}, or lower -min-free",
        Size(*need),
        Size(*free),
        Size(*floor)
    )]
    NoRoom {
        /// What there is no room for.
        what: String,
        /// Bytes that it takes.
        need: u64,
        /// Bytes that are free.
        free: u64,
        /// Bytes that stay free.
        floor: u64,
    },
    /// The filesystem is full.
    #[error("{cause}; what is deployed stays as it is; {}{}; {FREE_SOME}", lack.text(), still(*need))]
    Full {
        /// What could not be written.
        cause: String,
        /// What there is none of.
        lack: Lack,
        /// Bytes that are still to be downloaded, if that was under way.
        need: Option<u64>,
    },
    /// The script did not do its work.
    #[error("script {cause}; {} is not deployed, and the old state stays{}", target.id(), after(cause, log))]
    Script {
        /// What was to be deployed.
        target: Box<Configuration>,
        /// Why.
        cause: script::Error,
        /// Where the end of its output is.
        log: PathBuf,
    },
}

impl Error {
    /// Whether the disk is full, or a quota used up.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Store(cause) | Self::Layer { cause, .. } => cause.is_no_space(),
            _ => false,
        }
    }

    /// Whether it is a quota that is used up.
    pub fn is_over_quota(&self) -> bool {
        match self {
            Self::Store(cause) | Self::Layer { cause, .. } => cause.is_over_quota(),
            _ => false,
        }
    }
}

/// What there is none of on a full filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// So many bytes are free, and they do not suffice.
    Bytes(u64),
    /// There are bytes, and there is no room for more files.
    Files,
    /// A quota of the agent's user is used up.
    Quota,
}

impl Lack {
    fn text(self) -> String {
        match self {
            Self::Bytes(free) => format!("{} are free", Size(free)),
            Self::Files => "the filesystem has no room for more files (inodes)".to_owned(),
            Self::Quota => "a quota is used up".to_owned(),
        }
    }
}

/// How to come to more room.
const FREE_SOME: &str = "to free some: deploy-agent gc removes what nothing needs, -keep-roots 1 \
    keeps no older root, -no-spare no spare one";

fn still(need: Option<u64>) -> String {
    need.map_or_else(String::new, |need| format!(", and {} are still to come", Size(need)))
}

/// What a script may have done, and where to read about it.
fn after(cause: &script::Error, log: &Path) -> String {
    if !cause.has_run() {
        return String::new();
    }
    let log = log.display();
    format!(", but the script may have changed things; what it printed is in {log} and in the log")
}

/// What to do about a file that the registry lists and does not have.
fn hint(cause: &ClientError) -> &'static str {
    if cause.code() == exit::NOT_FOUND {
        ": the registry does not have it; upload the same archive there again"
    } else {
        ""
    }
}

fn nothing_before(held: Option<&str>) -> String {
    match held {
        Some(held) => format!("{held} was rolled back from already, and is held"),
        None => "nothing was deployed before the current configuration".to_owned(),
    }
}
