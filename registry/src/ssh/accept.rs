//! Connections: limits on their number, and one connection from its acceptance to its end.

pub(super) mod admission;
pub(super) mod algorithms;
pub(super) mod connection;
mod greeting;
