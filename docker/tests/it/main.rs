//! The integration tests of this crate in one program. Separate programs for the files would each
//! link all libraries.

mod image;
mod program;
mod progress;
mod refused_images;
mod rig;
