//! Accepts connections, limits their number, and serves each connection until the connection ends.

pub(super) mod admission;
pub(super) mod algorithms;
pub(super) mod connection;
mod greeting;
mod shared_socket;
