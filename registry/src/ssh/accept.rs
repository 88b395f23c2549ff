//! Connections: how many there may be, and one from accept to its end.

pub(super) mod admission;
pub(super) mod algorithms;
pub(super) mod connection;
mod greeting;
