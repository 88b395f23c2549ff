//! Runs all integration tests of this crate in one program. If each file were a separate program,
//! each program would have to link all libraries.

mod image;
mod program;
mod progress;
mod refused_images;
mod rig;
