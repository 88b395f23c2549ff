//! Decides from key files and certificates who may log in, and reads the server's own host key.

pub mod authorized_keys;
pub(super) mod host_key;
pub(super) mod keyring;
pub(super) mod shared_host_key;
mod source_patterns;
mod user_certificate;
