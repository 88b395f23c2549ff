//! The integration tests of this crate, as one program. One program per file would link all libraries
//! each time.

mod environment;
mod pipeline_example;
mod stage;
mod transcripts;
