//! deployctl
fn main() {}
