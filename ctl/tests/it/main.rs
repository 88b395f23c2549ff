//! The integration tests of this crate, as one program. One program per file would link all libraries
//! each time.

mod certificates;
mod cli;
mod completion;
mod get_cut;
mod progress;
mod rig;
