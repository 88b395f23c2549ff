//! Code that the programs share on the wire: the command grammar of the registry's console, the
//! spelling of flags, and the ssh/sftp client.

#[cfg(feature = "client")]
pub mod client;
pub mod command;
pub mod exit;
pub mod flags;
pub mod fleet;
pub mod image;
pub mod path;
pub mod wildcard;

/// Variable of a channel's environment with which a client asks for progress on standard error: the
/// columns of the client's terminal, or 0 for no progress.
pub const PROGRESS: &str = "DEPLOY_PROGRESS";
