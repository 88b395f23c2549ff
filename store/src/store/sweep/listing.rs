//! What a sweep sees of an agent's directory.

use std::ffi::CString;
use std::path::PathBuf;

use crate::config::Configuration;
use crate::digest::Digest;

/// A file under one of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct File {
    /// Device and number.
    pub inode: (u64, u64),
    /// Its names.
    pub links: u64,
    /// Its bytes; none where it shares extents with an object.
    pub bytes: u64,
    /// The time that its age counts from, in seconds.
    pub changed: i64,
}

/// What is known of a root by its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Record {
    /// There is none.
    None,
    /// It cannot be read.
    Unreadable,
    /// It was built from this.
    Of(Configuration),
}

/// A root that an agent made, or the record of one.
#[derive(Debug)]
pub(in crate::store) struct FoundRoot {
    pub id: Digest,
    pub record: Record,
    pub record_file: Vec<File>,
    /// Whether there is a directory.
    pub is_there: bool,
    /// What is in it, and its record and mark; of roots that may go, and are weighed.
    pub files: Vec<File>,
    /// Why one that may go cannot: something is mounted there.
    pub mounted: Option<String>,
}

/// A directory among the roots that is none, or none any more.
#[derive(Debug)]
pub(in crate::store) struct Aside {
    pub path: PathBuf,
    /// Whether another was built in its place, so that a service may run in it.
    pub replaced: bool,
    /// Why it cannot go: something is mounted there.
    pub mounted: Option<String>,
    pub files: Vec<File>,
}

/// What there is.
#[derive(Debug, Default)]
pub(in crate::store) struct Listing {
    pub roots: Vec<FoundRoot>,
    pub layers: Vec<(Digest, File)>,
    pub objects: Vec<(CString, File)>,
    pub blobs: Vec<(Digest, File)>,
    /// Also whether it cannot be gone on with.
    pub downloads: Vec<(CString, File, bool)>,
    pub leftovers: Vec<(PathBuf, Vec<File>)>,
    pub asides: Vec<Aside>,
    /// Also when it was set aside.
    pub quarantine: Vec<(CString, i64, Vec<File>)>,
    pub spare: Option<CString>,
}
