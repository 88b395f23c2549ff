//! Accepts connections: the limits on their number, and each connection from its acceptance to its
//! end.

pub(super) mod admission;
pub(super) mod algorithms;
pub(super) mod connection;
mod greeting;
mod shared_socket;
