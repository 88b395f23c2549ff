//! The tests of this crate in one program: each would link all libraries once more.

mod certificates;
mod cli;
mod completion;
mod get_cut;
mod progress;
mod rig;
