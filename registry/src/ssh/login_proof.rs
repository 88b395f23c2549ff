//! Describes the login of a client. With this description, the server can check the login again.

use crate::ssh::auth::keyring::Proof;

/// The login of a client. The server checks the login again every few seconds, and when the key
/// files change.
#[derive(Debug)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The key or certificate.
    pub proof: Proof,
    /// Whether the client has an agent's rights.
    pub is_agent: bool,
}
