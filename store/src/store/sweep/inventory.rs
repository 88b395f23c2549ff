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
    /// The number of its names.
    pub links: u64,
    /// Its bytes; 0 if it shares extents with an object.
    pub bytes: u64,
    /// The time from which its age counts, in seconds.
    pub changed: i64,
}

/// The record of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Record {
    /// There is no record.
    None,
    /// It cannot be read.
    Unreadable,
    /// The root was built from this configuration.
    Of(Configuration),
}

/// A root that an agent made, or the record of one.
#[derive(Debug)]
pub(in crate::store) struct FoundRoot {
    pub id: Digest,
    pub record: Record,
    pub record_file: Vec<File>,
    /// Whether the directory exists.
    pub is_there: bool,
    /// Its files, record and mark; only of roots that may be removed, if bytes are counted.
    pub files: Vec<File>,
    /// Why a root cannot be removed although it may: something is mounted there.
    pub mounted: Option<String>,
}

/// A directory among the roots that is not a published root.
#[derive(Debug)]
pub(in crate::store) struct Aside {
    pub path: PathBuf,
    /// Whether it was replaced by another root, so that a service may run in it.
    pub replaced: bool,
    /// Why it cannot be removed: something is mounted there.
    pub mounted: Option<String>,
    pub files: Vec<File>,
}

/// What exists in the directory.
#[derive(Debug, Default)]
pub(in crate::store) struct Inventory {
    pub roots: Vec<FoundRoot>,
    pub layers: Vec<(Digest, File)>,
    pub objects: Vec<(CString, File)>,
    pub blobs: Vec<(Digest, File)>,
    /// Also whether it cannot be resumed.
    pub downloads: Vec<(CString, File, bool)>,
    pub leftovers: Vec<(PathBuf, Vec<File>)>,
    pub asides: Vec<Aside>,
    /// Also when it was set aside.
    pub quarantine: Vec<(CString, i64, Vec<File>)>,
    pub spare: Option<CString>,
}
