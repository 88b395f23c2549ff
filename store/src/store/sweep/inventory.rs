//! Defines the inventory: the contents of an agent's directory, as a sweep needs them.

use std::ffi::CString;
use std::path::PathBuf;

use crate::config::Configuration;
use crate::digest::Digest;

/// A file under one of its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct File {
    /// The device and the number of the inode.
    pub inode: (u64, u64),
    /// The number of names that the file has.
    pub links: u64,
    /// The size in bytes; 0 if the file shares extents with an object or is not a regular file.
    pub bytes: u64,
    /// The time from which the age of the file counts, in seconds since the Unix epoch.
    pub changed: i64,
}

/// The record of a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) enum Record {
    /// There is no record.
    None,
    /// The record cannot be read.
    Unreadable,
    /// The root was built from this configuration.
    Of(Configuration),
}

/// A root, a record of a root, or both.
#[derive(Debug)]
pub(in crate::store) struct FoundRoot {
    pub id: Digest,
    pub record: Record,
    pub record_file: Vec<File>,
    /// Whether the directory exists.
    pub is_there: bool,
    /// The files of the root, the record and the mark. These files are listed only if the root may
    /// be removed and bytes are counted.
    pub files: Vec<File>,
    /// The message that names the mount, if a mount prevents an allowed removal of the root.
    pub mounted: Option<String>,
}

/// A directory among the roots that is not a published root.
#[derive(Debug)]
pub(in crate::store) struct Aside {
    pub path: PathBuf,
    /// Whether the directory is a root that another root replaced. A service may still run in such
    /// a root.
    pub replaced: bool,
    /// The reason why the directory cannot be removed, if something is mounted in the directory.
    pub mounted: Option<String>,
    pub files: Vec<File>,
}

/// The files and directories in an agent's directory that a sweep may remove.
#[derive(Debug, Default)]
pub(in crate::store) struct Inventory {
    pub roots: Vec<FoundRoot>,
    pub layers: Vec<(Digest, File)>,
    pub objects: Vec<(CString, File)>,
    pub blobs: Vec<(Digest, File)>,
    /// The downloads, each with its name. The flag is set if the download cannot be resumed.
    pub downloads: Vec<(CString, File, bool)>,
    pub leftovers: Vec<(PathBuf, Vec<File>)>,
    pub asides: Vec<Aside>,
    /// The quarantined files and directories. Each has its name, the time of the quarantine in
    /// seconds since the Unix epoch, and the files at and below the name.
    pub quarantine: Vec<(CString, i64, Vec<File>)>,
    pub spare: Option<CString>,
}
