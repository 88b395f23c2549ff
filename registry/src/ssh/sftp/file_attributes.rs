//! Makes the attributes and long names of the files that clients see.

use deploy_store::{BlobInfo, escape};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use russh_sftp::protocol::{File, FileAttributes};

use crate::view::items::Item;

const DIRECTORY: u32 = 0o040_750;
const CONFIGURATION: u32 = 0o100_644;
const BLOB: u32 = 0o100_600;

/// An item with its attributes, in the form in which readdir returns items.
pub(super) fn file(item: Item, now: Timestamp) -> File {
    let (filename, attrs) = match item {
        Item::Directory(name) => (name, directory()),
        Item::Document { name, size, modified } => (name, configuration(size, modified)),
        Item::Version { name, size, created: time } | Item::Upload { name, size, time } => {
            (name, blob(size, time.as_second()))
        }
        Item::Blob(BlobInfo { digest, bytes, modified }) => {
            let modified = Timestamp::try_from(modified).map_or(0, Timestamp::as_second);
            (digest.to_string(), blob(bytes, modified))
        }
    };
    let longname = long_name(&filename, &attrs, now);
    File { filename, longname, attrs }
}

/// Attributes of a directory.
pub(super) fn directory() -> FileAttributes {
    attributes(0, DIRECTORY, Timestamp::now().as_second())
}

/// Attributes of a configuration's document.
pub(super) fn configuration(size: u64, modified: Timestamp) -> FileAttributes {
    attributes(size, CONFIGURATION, modified.as_second())
}

/// Attributes of a blob.
pub(super) fn blob(size: u64, modified: i64) -> FileAttributes {
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

/// The line of a file in `ls -l`. Clients print the line unchanged.
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
