//! Contains the code that the programs share for their communication, such as the command grammar
//! of the registry's console, the spelling of flags, and the ssh and sftp client.

#[cfg(feature = "client")]
pub mod client;
pub mod command;
pub mod exit;
pub mod flags;
pub mod fleet;
pub mod image;
pub mod path;
pub mod wildcard;

/// A variable in the environment of a channel. A client sets the variable to request progress on
/// standard error. The value is the number of columns of the client's terminal, or 0 for no
/// progress.
pub const PROGRESS: &str = "DEPLOY_PROGRESS";
/// A variable in the environment of a channel. An agent sets the variable to the name of its host
/// before it reads over sftp. The registry then offers the agent the configuration that this host
/// should run.
pub const HOST: &str = "DEPLOY_HOST";
