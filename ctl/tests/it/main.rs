//! The integration tests of this crate, as one program. Separate programs for the files would each
//! link all libraries.

mod certificates;
mod cli;
mod completion;
mod get_cut;
mod progress;
mod rig;
