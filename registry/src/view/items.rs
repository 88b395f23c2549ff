//! Attributes and long names of what clients see.

use deploy_store::{BlobInfo, Configuration, escape};
use deploy_wire::path::encode;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use russh_sftp::protocol::{File, FileAttributes};

const DIRECTORY: u32 = 0o040_750;
const CONFIGURATION: u32 = 0o100_644;
const BLOB: u32 = 0o100_600;

/// One name in a directory.
#[derive(Debug)]
pub enum Item {
    /// A directory.
    Directory(String),
    /// A configuration's document.
    Document {
        /// Its file name.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// When the configuration was changed.
        modified: Timestamp,
    },
    /// A blob.
    Blob(BlobInfo),
    /// A blob under the name of a version.
    Version {
        /// Its file name.
        name: String,
        /// Its size in bytes, as far as that is known.
        size: u64,
        /// When the version was made.
        created: Timestamp,
    },
    /// An upload that is no version.
    Upload {
        /// Its file name.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// When it was whole.
        time: Timestamp,
    },
}

impl Item {
    /// The directory of what is called `name`.
    pub fn directory(name: &str) -> Self {
        Self::Directory(encode(name))
    }

    /// The document of a configuration.
    pub fn configuration(configuration: &Configuration) -> Self {
        Self::Document {
            name: format!("{}.json", configuration.name().as_str()),
            size: configuration.to_json().len() as u64,
            modified: configuration.modified(),
        }
    }

    /// The name that clients see.
    pub fn name(&self) -> String {
        match self {
            Self::Directory(name)
            | Self::Document { name, .. }
            | Self::Version { name, .. }
            | Self::Upload { name, .. } => name.clone(),
            Self::Blob(info) => info.digest.to_string(),
        }
    }

    /// The name with its attributes, as readdir returns it.
    pub fn file(self, now: Timestamp) -> File {
        let (filename, attrs) = match self {
            Self::Directory(name) => (name, directory()),
            Self::Document { name, size, modified } => (name, configuration(size, modified)),
            Self::Version { name, size, created: time } | Self::Upload { name, size, time } => {
                (name, blob(size, time.as_second()))
            }
            Self::Blob(BlobInfo { digest, bytes, modified }) => {
                let modified = Timestamp::try_from(modified).map_or(0, Timestamp::as_second);
                (digest.to_string(), blob(bytes, modified))
            }
        };
        let longname = long_name(&filename, &attrs, now);
        File { filename, longname, attrs }
    }
}

/// Attributes of a directory.
pub fn directory() -> FileAttributes {
    attributes(0, DIRECTORY, Timestamp::now().as_second())
}

/// Attributes of a configuration's document.
pub fn configuration(size: u64, modified: Timestamp) -> FileAttributes {
    attributes(size, CONFIGURATION, modified.as_second())
}

/// Attributes of a blob.
pub fn blob(size: u64, modified: i64) -> FileAttributes {
    attributes(size, BLOB, modified)
}

fn attributes(size: u64, permissions: u32, modified: i64) -> FileAttributes {
    let time = Some(u32::try_from(modified).unwrap_or(0));
    FileAttributes {
        size: Some(size),
        uid: Some(rustix::process::geteuid().as_raw()),
        gid: Some(rustix::process::getegid().as_raw()),
        permissions: Some(permissions),
        atime: time,
        mtime: time,
        ..FileAttributes::empty()
    }
}

/// The line of `ls -l`, which clients print as it is.
fn long_name(name: &str, attrs: &FileAttributes, now: Timestamp) -> String {
    let mode = attrs.permissions.unwrap_or(0);
    let kind = if mode & 0o040_000 != 0 { 'd' } else { '-' };
    let bits: String = (0..9)
        .rev()
        .map(|bit| if mode >> bit & 1 == 0 { '-' } else { ['x', 'w', 'r'][bit % 3] })
        .collect();
    let modified = Timestamp::from_second(attrs.mtime.unwrap_or(0).into()).unwrap_or(now);
    let recent = now.checked_sub((24 * 182).hours()).is_ok_and(|then| modified > then);
    let format = if recent { "%b %e %H:%M" } else { "%b %e  %Y" };
    let time = modified.to_zoned(TimeZone::system()).strftime(format);
    format!(
        "{kind}{bits}    0 {:<8} {:<8} {:>8} {time} {}",
        attrs.uid.unwrap_or(0),
        attrs.gid.unwrap_or(0),
        attrs.size.unwrap_or(0),
        escape(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_look_like_ls() {
        let now: Timestamp = "2026-11-23T03:49:03Z".parse().unwrap();
        let mut attrs = configuration(42, now);
        (attrs.uid, attrs.gid) = (Some(0), Some(7));
        let line = long_name("a\n.json", &attrs, now);
        assert!(line.starts_with("-rw-r--r--    0 0        7              42 Nov 2"), "{line}");
        assert!(line.ends_with("a\\n.json"), "{line}");
        let old = long_name("x", &blob(1, 0), now);
        assert!(old.starts_with("-rw-------") && old.contains("19"), "{old}");
        assert!(long_name("files", &directory(), now).starts_with("drwxr-x---"));
    }
}
