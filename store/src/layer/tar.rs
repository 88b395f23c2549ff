//! Reads the tar format: the container, the headers of members, and extended headers.

pub mod acl;
pub mod foreign;
pub mod header;
pub mod pax;
pub mod sparse;
pub mod tarball;
