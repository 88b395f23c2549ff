//! The tests of this crate in one program: each would link all libraries once more.

mod image;
mod program;
mod progress;
mod refused_images;
mod rig;
