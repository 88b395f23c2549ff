//! Reads any bytes as an archive. The store's reader must refuse the bytes, or find the same
//! entries as another reader of tar, the `tar` crate. If the crate stops early, the entries up to
//! this point must agree.
#![no_main]

mod forge;

use std::io::Read as _;

use deploy_store::layer::archive::{self, Body};
use deploy_store::layer::entry::{Content, Entry, EntryPath, Kind};
use deploy_store::layer::tar::tarball::Piece;
use deploy_store::{Limits, Result, check_archive};
use libfuzzer_sys::fuzz_target;
use tar::EntryType;

const LIMITS: Limits = Limits { entries: 10_000, bytes: 64 << 20, ..Limits::STANDARD };

/// The properties on which both readers must agree.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: Vec<u8>,
    what: String,
    mode: u32,
    contents: Option<Content>,
}

fn ours(plain: &[u8]) -> Result<Vec<Seen>> {
    let mut all = Vec::new();
    archive::read(plain, false, LIMITS, |entry: Entry, body: Option<Body<'_, _>>| {
        let contents = body.map(contents).transpose()?;
        let what = match &entry.kind {
            Kind::Directory => "directory".to_owned(),
            Kind::File { size, .. } => format!("file {size}"),
            Kind::Hardlink(target) => format!("hardlink {target:?}"),
            Kind::Symlink(target) => format!("symlink {target:?}"),
            Kind::Fifo => "fifo".to_owned(),
            Kind::CharDevice(device) => format!("char {device:?}"),
            Kind::BlockDevice(device) => format!("block {device:?}"),
        };
        let path = entry.path.as_bytes().to_vec();
        all.push(Seen { path, what, mode: entry.meta.mode, contents });
        Ok(())
    })?;
    Ok(all)
}

fn contents(mut body: Body<'_, &[u8]>) -> Result<Content> {
    let mut buffer = vec![0; 8 << 10];
    while body.next_piece(&mut buffer)? != Piece::End {}
    Ok(body.content())
}

/// The entries that the `tar` crate finds, up to the first entry that it cannot read. Returns
/// `None` if the crate interprets a part of the archive differently from the store's reader. The
/// comments below explain these differences.
fn theirs(plain: &[u8]) -> Option<Vec<Seen>> {
    let mut all = Vec::new();
    let mut archive = tar::Archive::new(plain);
    let Ok(entries) = archive.entries() else { return Some(all) };
    for entry in entries {
        let Ok(mut entry) = entry else { break };
        let header = entry.header().clone();
        let kind = match header.entry_type() {
            // A volume label has no effect on the tree.
            other if other.as_byte() == b'V' => continue,
            // The store's reader applies a global header to the whole archive. The crate returns
            // the header as an entry.
            EntryType::XGlobalHeader => return None,
            other => other,
        };
        // If a header has the magic bytes of ustar but a version other than `00`, the crate reads
        // the header as v7. The store's reader and GNU tar rely on the magic.
        let magic = &header.as_bytes()[257..265];
        if !agrees(&mut entry) || (magic.starts_with(b"ustar\0") && magic != b"ustar\x0000") {
            return None;
        }
        let name = entry.path_bytes().into_owned();
        // The crate reads a body after every header with a size. The store's reader may find no
        // body after such a header, unless the member is a regular file or a GNU directory (`D`).
        // So the target does not compare such archives.
        let is_file = matches!(kind.as_byte(), b'0' | 0 | b'7' | b'S') && !name.ends_with(b"/");
        if !is_file && kind.as_byte() != b'D' && entry.size() > 0 {
            return None;
        }
        let Ok(path) = EntryPath::from_archive(&name, LIMITS) else { break };
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        let numbers = || {
            let number = |n: std::io::Result<Option<u32>>| n.ok().flatten().unwrap_or(0);
            let (major, minor) = (number(header.device_major()), number(header.device_minor()));
            deploy_store::layer::entry::Device { major, minor }
        };
        let mut contents = None;
        let what = match kind.as_byte() {
            b'0' | 0 if name.ends_with(b"/") => "directory".to_owned(),
            b'5' | b'D' => "directory".to_owned(),
            b'0' | 0 | b'7' | b'S' => {
                let mut bytes = Vec::new();
                if entry.by_ref().take(1 << 26).read_to_end(&mut bytes).is_err() {
                    break;
                }
                contents = Some(Content::of(&bytes));
                format!("file {}", bytes.len())
            }
            b'1' => match EntryPath::from_archive(&link, LIMITS) {
                Ok(target) => format!("hardlink {target:?}"),
                Err(_) => break,
            },
            b'2' => format!("symlink {:?}", link.into_boxed_slice()),
            b'6' => "fifo".to_owned(),
            b'3' => format!("char {:?}", numbers()),
            b'4' => format!("block {:?}", numbers()),
            _ => break,
        };
        // If a mode has more than 32 bits, the store's reader uses only the lowest bits.
        let Ok(mode) = header.mode().map(|mode| mode & 0o7777) else { return None };
        all.push(Seen { path: path.as_bytes().to_vec(), what, mode, contents });
    }
    Some(all)
}

/// Whether both readers interpret this entry's extended headers in the same way. The crate differs
/// from the store's reader in six cases. The crate does not support PAX sparse files, splits
/// records at newlines, and truncates names at a NUL byte. In the crate, an empty value does not
/// cancel the value of a global header. If a record occurs twice, the crate takes the first record,
/// while POSIX takes the last. If an entry has both a GNU name and a PAX name, the crate takes the
/// GNU name.
fn agrees(entry: &mut tar::Entry<'_, &[u8]>) -> bool {
    let mut seen = Vec::new();
    let Ok(Some(records)) = entry.pax_extensions() else { return true };
    for record in records {
        let Ok(record) = record else { return false };
        let (key, value) = (record.key_bytes().to_owned(), record.value_bytes().to_owned());
        if key.starts_with(b"GNU.sparse.") || value.is_empty() || value.contains(&b'\n') {
            return false;
        }
        if seen.iter().any(|(before, _)| *before == key) {
            return false;
        }
        seen.push((key, value));
    }
    let said = |key: &[u8]| seen.iter().find(|(name, _)| name == key).map(|(_, value)| &value[..]);
    said(b"path").is_none_or(|path| *entry.path_bytes() == *path)
        && said(b"linkpath").is_none_or(|link| entry.link_name_bytes().as_deref() == Some(link))
}

fuzz_target!(|data: &[u8]| {
    for archive in forge::archives(data) {
        // The check may accept or refuse the archive. A panic, a hang or an unlimited allocation is
        // a defect.
        let whole = check_archive(&archive[..], LIMITS);
        let read = ours(&archive);
        if !archive.starts_with(&[0x1f, 0x8b]) && !archive.starts_with(&[0x28, 0xb5]) {
            // The reader alone must accept every archive that the whole check accepts.
            assert!(whole.is_err() || read.is_ok(), "{whole:?}, {read:?}");
        }
        let (Ok(read), Some(other)) = (&read, theirs(&archive)) else { continue };
        let both = read.len().min(other.len());
        assert_eq!(read[..both], other[..both], "the two readers disagree");
        assert!(
            other.len() <= read.len(),
            "the `tar` crate finds more entries: {:?}",
            &other[both..]
        );
    }
});
