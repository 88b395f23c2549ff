//! Where an import goes: a directory, or a registry over ssh.

pub mod directory;
#[cfg(feature = "program")]
pub mod registry;
