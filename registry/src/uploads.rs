//! Counts and limits the uploads and downloads of clients. All keys share the slots and the limit
//! on open files. These modules ensure that one key cannot use them up.
//!
//! ```text
//! upload         one upload, from its first byte to the staged blob
//! upload_room    all limits on uploads, for every protocol
//! upload_quota   staged bytes of each key        announced   bytes that clients have yet to send
//! slots          slots for uploads and imports   open_files  files and lists that are being read
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
