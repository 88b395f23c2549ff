//! The tests of this crate in one program: each would link all libraries once more.

mod environment;
mod stage;
mod transcripts;
