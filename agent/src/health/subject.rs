//! Defines the subject of a health gate.

use std::path::PathBuf;

use deploy_store::Configuration;

use crate::fetch::registry_session::Session;

/// A deployed configuration, and the data that its checks need.
#[derive(Debug)]
pub struct Subject {
    /// The deployed configuration.
    pub configuration: Configuration,
    /// The root of the configuration.
    pub root: PathBuf,
    /// The file with variables for the script. The programs of checks get these variables, too.
    pub env_file: Option<PathBuf>,
    /// The session with which the check `registry` connects to the registry.
    pub session: Session,
}
