//! What clients send and read, and the limits on both.

pub mod announced;
pub mod downloads;
pub mod open_files;
pub mod recent;
pub mod slots;
pub mod upload;
pub mod upload_quota;
