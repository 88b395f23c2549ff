//! What the health gate checks.

use std::path::PathBuf;

use deploy_store::Configuration;

use crate::fetch::registry_session::Session;

/// A deployed configuration, and what its checks need.
#[derive(Debug)]
pub struct Subject {
    /// The deployed configuration.
    pub configuration: Configuration,
    /// The root of the configuration.
    pub root: PathBuf,
    /// File with variables for the script. The programs of checks get these variables, too.
    pub env_file: Option<PathBuf>,
    /// How to connect to the registry.
    pub session: Session,
}
