//! Runs all integration tests of this crate in one program. If each file were a separate program,
//! each program would have to link all libraries.

mod environment;
mod pipeline_example;
mod stage;
mod transcripts;
