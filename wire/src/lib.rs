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

/// A variable in the environment of a channel. The value is the number of columns of the client's
/// terminal. If the client sets the variable, the registry sends progress for a terminal of this
/// width on standard error. If the value is 0, the registry sends no progress.
pub const PROGRESS: &str = "DEPLOY_PROGRESS";
/// A variable in the environment of a channel. An agent sets the variable to the name of its host
/// before it reads over sftp. The registry then lets the agent read the configuration that this
/// host should run.
pub const HOST: &str = "DEPLOY_HOST";
