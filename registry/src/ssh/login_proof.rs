//! The login of a client, which the server checks again later.

use crate::ssh::auth::keyring::Proof;

/// The login of a client. The server checks the key again when the key files change.
#[derive(Debug)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The key or certificate.
    pub proof: Proof,
    /// Whether the client has an agent's rights.
    pub is_agent: bool,
}
