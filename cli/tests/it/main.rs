//! The integration tests of this crate, as one program. One program per file would link all libraries
//! each time.

mod environment;
mod stage;
mod transcripts;
