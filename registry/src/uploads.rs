//! Uploads and downloads of clients, and their limits. Keys share each limit, so that no single
//! client can use up a limit.
//!
//! ```text
//! upload         one upload: bytes in any order, at last a staged blob
//! upload_room    all uploads: it alone decides whether one more, or more bytes, fit
//! upload_quota   staged bytes of each key        announced   bytes that clients still have to send
//! slots          places of uploads and imports   open_files  files and lists that are being read
//! downloads      blobs that are being read       recent      uploads by their paths
//! ```

pub mod announced;
pub mod downloads;
pub mod open_files;
pub mod recent;
pub mod slots;
pub mod upload;
pub mod upload_quota;
pub mod upload_room;
