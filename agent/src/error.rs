//! Defines the errors of a cycle, a rollback or a repair.

use std::path::{Path, PathBuf};

use deploy_store::{Configuration, Size};
use deploy_wire::client::ClientError;
use deploy_wire::exit;

use crate::script;

/// Result of a step of a cycle.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a cycle, a rollback or a repair failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry cannot be reached, or refuses the request.
    #[error(transparent)]
    Registry(#[from] ClientError),
    /// The registry does not have the tracked configuration.
    #[error(
        "no configuration \"{name}\" in the registry at {addr}; create it with addconf, or check \
         -name"
    )]
    UnknownConfiguration {
        /// Name of the configuration.
        name: String,
        /// Address of the registry.
        addr: String,
    },
    /// The registry's answer is not a valid configuration, or has another configuration's name.
    #[error("configuration \"{name}\" from the registry cannot be used: {reason}")]
    BadConfiguration {
        /// Name of the configuration.
        name: String,
        /// What is wrong with the configuration.
        reason: String,
    },
    /// A layer's blob cannot be downloaded.
    #[error("cannot download layer {layer}: {cause}{}", hint(cause))]
    Download {
        /// Component and version of the layer.
        layer: String,
        /// The cause.
        cause: ClientError,
    },
    /// The agent downloaded the blob of a layer twice, and received wrong bytes both times.
    #[error("blob of layer {layer}: {cause}; the registry or the network damages data")]
    WrongBytes {
        /// Component and version of the layer.
        layer: String,
        /// The mismatch of the digests.
        cause: deploy_store::Error,
    },
    /// A layer cannot be extracted.
    #[error("cannot extract layer {layer}: {cause}")]
    Layer {
        /// Component and version of the layer.
        layer: String,
        /// The cause.
        cause: deploy_store::Error,
    },
    /// An error in the agent's directory or in its state file.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The configuration does not fit in the script's environment.
    #[error(transparent)]
    BadScriptEnvironment(script::Error),
    /// A download is needed, but no registry was given.
    #[error(
        "a download is needed, but no registry was named; give -addr, -fp and -key, or \
         start the agent"
    )]
    NoRegistry,
    /// No configuration is deployed.
    #[error("nothing is deployed, so there is nothing to roll back from")]
    NothingDeployed,
    /// There is no configuration to roll back to.
    #[error("nothing to roll back to: {}", no_previous(held.as_deref()))]
    NothingBefore {
        /// Id of the configuration that the hold of the last rollback names, if there is such a
        /// hold.
        held: Option<String>,
    },
    /// There is not enough room in addition to the bytes that `-min-free` keeps free.
    #[error(
        "not enough room for {what}: it needs {}, {} are free, and -min-free keeps {} free; the \
         deployed root stays unchanged; {FREE_SOME}, or lower -min-free",
        Size(*need),
        Size(*free),
        Size(*floor)
    )]
    NoRoom {
        /// The step or the data that needs the room.
        what: String,
        /// Number of bytes that are needed.
        need: u64,
        /// Number of bytes that are free.
        free: u64,
        /// Number of bytes that `-min-free` keeps free.
        floor: u64,
    },
    /// The filesystem is full, or a quota is used up.
    #[error("{cause}; the deployed root stays unchanged; {}{}; {FREE_SOME}", lack.text(), still(*need))]
    Full {
        /// The error of the failed write.
        cause: String,
        /// The resource that is used up.
        lack: Lack,
        /// If a download failed, the number of bytes that remain to be downloaded.
        need: Option<u64>,
    },
    /// The script did not succeed.
    #[error("script {cause}; {} is not deployed; the state file is unchanged{}", target.id(), after(cause, log))]
    Script {
        /// The configuration that was not deployed.
        target: Box<Configuration>,
        /// The cause.
        cause: script::Error,
        /// The file with the end of the script's output.
        log: PathBuf,
    },
}

impl Error {
    /// Whether the filesystem is full, or a quota is used up.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Store(cause) | Self::Layer { cause, .. } => cause.is_no_space(),
            _ => false,
        }
    }

    /// Whether a quota is used up.
    pub fn is_over_quota(&self) -> bool {
        match self {
            Self::Store(cause) | Self::Layer { cause, .. } => cause.is_over_quota(),
            _ => false,
        }
    }
}

/// The resource that is used up on a full filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// Bytes. The value is the number of free bytes.
    Bytes(u64),
    /// Inodes: no more files can be created.
    Files,
    /// A quota of the agent's user.
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

/// Advice on how to free room.
const FREE_SOME: &str = "to free room: deploy-agent gc removes unused data, -keep-roots 1 \
    keeps no older root, -no-spare makes no spare root";

fn still(need: Option<u64>) -> String {
    need.map_or_else(String::new, |need| format!(", and {} remain to be downloaded", Size(need)))
}

/// A warning that the script may have made changes, with the path of the script's output. The text
/// is empty if the script has not run.
fn after(cause: &script::Error, log: &Path) -> String {
    if !cause.has_run() {
        return String::new();
    }
    let log = log.display();
    format!(", but the script may have made changes; its output is in {log} and in the agent's log")
}

/// Advice about a blob that the registry lists but does not have.
fn hint(cause: &ClientError) -> &'static str {
    if cause.code() == exit::NOT_FOUND {
        ": the registry does not have that archive; upload the same archive again"
    } else {
        ""
    }
}

fn no_previous(held: Option<&str>) -> String {
    match held {
        Some(held) => format!("the last rollback was from {held}, which is held"),
        None => "no earlier configuration is recorded".to_owned(),
    }
}
