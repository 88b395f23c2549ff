//! The integration tests of this crate, as one program. Separate programs for the files would each
//! link all libraries.

mod environment;
mod pipeline_example;
mod stage;
mod transcripts;
