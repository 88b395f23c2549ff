//! The integration tests of this crate, as one program. One program per file would link all libraries
//! each time.

mod image;
mod program;
mod progress;
mod refused_images;
mod rig;
