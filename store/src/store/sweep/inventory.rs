//! The contents of an agent's directory, as a sweep sees them.

use std::ffi::CString;
use std::path::PathBuf;

use crate::config::Configuration;
use crate::digest::Digest;

/// A file under one of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct File {
    /// Device and number.
    pub inode: (u64, u64),
    /// The number of the file's names.
    pub links: u64,
    /// The bytes; 0 if the file shares extents with an object.
    pub bytes: u64,
    /// The time from which the age of the file counts, in seconds.
    pub changed: i64,
}

/// The record of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Record {
    /// There is no record.
    None,
    /// The index cannot be read.
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
    /// The files, the record and the mark. Listed only for roots that may be removed, and only if
    /// bytes are counted.
    pub files: Vec<File>,
    /// Why a root that may be removed cannot be removed: something is mounted there.
    pub mounted: Option<String>,
}

/// A directory among the roots that is not a published root.
#[derive(Debug)]
pub(in crate::store) struct Aside {
    pub path: PathBuf,
    /// Whether another root replaced this one, so that a service may run in it.
    pub replaced: bool,
    /// Why the directory cannot be removed: something is mounted there.
    pub mounted: Option<String>,
    pub files: Vec<File>,
}

/// Everything in the directory.
#[derive(Debug, Default)]
pub(in crate::store) struct Inventory {
    pub roots: Vec<FoundRoot>,
    pub layers: Vec<(Digest, File)>,
    pub objects: Vec<(CString, File)>,
    pub blobs: Vec<(Digest, File)>,
    /// Whether the download cannot be resumed.
    pub downloads: Vec<(CString, File, bool)>,
    pub leftovers: Vec<(PathBuf, Vec<File>)>,
    pub asides: Vec<Aside>,
    /// When the file was quarantined.
    pub quarantine: Vec<(CString, i64, Vec<File>)>,
    pub spare: Option<CString>,
}
