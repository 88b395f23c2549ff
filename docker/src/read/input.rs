//! Reads the input of an import, which is a directory, or an archive that is read from start to
//! end. Both kinds of input are sequences of named files and links.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use deploy_store::layer::archive::entry_of;
use deploy_store::layer::decode::Decoder;
use deploy_store::layer::entry::{EntryPath, Kind};
use deploy_store::layer::tar::tarball::{Piece, Tarball};
use deploy_store::{Error as StoreError, Limits};

use crate::error::{Error, Result};

/// The maximum number of entries in an image archive, including directories.
pub const MAX_ITEMS: usize = 100_000;
/// The maximum number of nested directories.
const MAX_DEPTH: usize = 8;

/// One item of the input.
pub enum Found<'a> {
    /// A file: its length in bytes, and a reader of its contents.
    File(u64, &'a mut dyn Read),
    /// A link. The value is its target.
    Link(String),
}

/// Reads a whole archive: a tar, with or without compression.
pub fn read_archive(
    input: impl Read,
    limits: Limits,
    mut each: impl FnMut(&str, Found<'_>) -> Result<()>,
) -> Result<()> {
    let decoder = Decoder::new(input, limits).map_err(of_archive)?;
    let framed = decoder.is_framed();
    let mut tarball = Tarball::new(decoder, framed, limits);
    let (mut count, mut bytes) = (0, 0_u64);
    loop {
        let member = match tarball.next_member() {
            Ok(Some(member)) => member,
            Ok(None) => return Ok(()),
            Err(StoreError::BadArchive { .. }) if !tarball.is_tar() => {
                let other =
                    tarball.foreign().unwrap_or("is not a tar, with or without compression");
                return Err(Error::archive(other));
            }
            Err(err) => return Err(of_archive(err)),
        };
        let (size, span) = (member.size, tarball.span());
        bytes = bytes.saturating_add(size);
        if bytes > limits.bytes {
            let limit = limits.bytes;
            return Err(Error::archive(format!("unpacks to more than the {limit} bytes allowed")));
        }
        let entry = entry_of(member, limits).map_err(of_archive)?;
        check_count(&mut count)?;
        let name = String::from_utf8_lossy(entry.path.as_bytes()).into_owned();
        match entry.kind {
            // Holes take time to read, and no tool makes an image archive with holes. So files with
            // holes are refused.
            Kind::File { .. } if size > span.end - span.start => {
                let reason = "is a sparse file, which is not allowed: pack the archive without -S";
                return Err(Error::item(name, reason));
            }
            Kind::File { .. } => {
                let mut body = Body { tarball: &mut tarball, hole: 0 };
                each(&name, Found::File(size, &mut body))?;
            }
            Kind::Hardlink(target) => {
                let target = String::from_utf8_lossy(target.as_bytes()).into_owned();
                each(&name, Found::Link(format!("/{target}")))?;
            }
            Kind::Symlink(target) => {
                each(&name, Found::Link(String::from_utf8_lossy(&target).into_owned()))?;
            }
            Kind::Directory | Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) => {}
        }
    }
}

/// Reads a directory, as `skopeo copy … oci:DIR` makes it. Symlinks in the directory become links
/// between names of the input. The function follows no symlink out of the directory.
pub fn read_directory(
    top: &Path,
    mut each: impl FnMut(&str, Found<'_>) -> Result<()>,
) -> Result<()> {
    let mut waiting = vec![(top.to_owned(), String::new(), 0)];
    let mut count = 0;
    while let Some((dir, prefix, depth)) = waiting.pop() {
        let fail = |cause| Error::Input { what: dir.display().to_string(), cause };
        let mut paths: Vec<PathBuf> = fs::read_dir(&dir)
            .and_then(|items| items.map(|item| Ok(item?.path())).collect::<io::Result<_>>())
            .map_err(fail)?;
        paths.sort();
        for path in paths {
            let fail = |cause| Error::Input { what: path.display().to_string(), cause };
            check_count(&mut count)?;
            let last = path.file_name().unwrap_or_default().to_string_lossy();
            let name = format!("{prefix}{last}");
            let kind = fs::symlink_metadata(&path).map_err(fail)?.file_type();
            if kind.is_dir() && depth < MAX_DEPTH {
                waiting.push((path, format!("{name}/"), depth + 1));
            } else if kind.is_symlink() {
                let target = fs::read_link(&path).map_err(fail)?;
                each(&name, Found::Link(target.to_string_lossy().into_owned()))?;
            } else if kind.is_file() {
                let mut file = File::open(&path).map_err(fail)?;
                let size = file.metadata().map_err(fail)?.len();
                each(&name, Found::File(size, &mut file))?;
            }
        }
    }
    Ok(())
}

/// The name that a link at `name` leads to. Returns `None` if the link leads out of the input.
pub fn target_of(name: &str, target: &str) -> Option<String> {
    let dir =
        if target.starts_with('/') { "" } else { name.rsplit_once('/').map_or("", |(d, _)| d) };
    let mut parts: Vec<&str> = dir.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn check_count(count: &mut usize) -> Result<()> {
    *count += 1;
    if *count > MAX_ITEMS {
        return Err(Error::archive(format!("has more than {MAX_ITEMS} entries")));
    }
    Ok(())
}

fn of_archive(err: StoreError) -> Error {
    match err {
        StoreError::BadArchive { reason } => Error::Archive { reason },
        StoreError::BadEntry { entry, reason } => Error::item(entry, reason),
        other => Error::archive(format!("cannot be imported: {other}")),
    }
}

/// A reader of a member's contents.
struct Body<'a, R> {
    tarball: &'a mut Tarball<R>,
    hole: u64,
}

impl<R: Read> Read for Body<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.hole == 0 && !buffer.is_empty() {
            match self
                .tarball
                .next_piece(buffer)
                .map_err(|err| io::Error::other(err.to_string()))?
            {
                Piece::Data(n) => return Ok(n),
                Piece::Hole(length) => self.hole = length,
                Piece::End => return Ok(0),
            }
        }
        let n = usize::try_from(self.hole).unwrap_or(usize::MAX).min(buffer.len());
        buffer[..n].fill(0);
        self.hole -= n as u64;
        Ok(n)
    }
}

/// Converts a name in a manifest to the form of the input's names. Returns `None` if the name is
/// invalid.
pub fn name_of(text: &str) -> Option<String> {
    let path = EntryPath::from_archive(text.as_bytes(), Limits::STANDARD).ok()?;
    Some(String::from_utf8_lossy(path.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        for (name, target, want) in [
            ("a/layer.tar", "../b/layer.tar", Some("b/layer.tar")),
            ("a/layer.tar", "./x", Some("a/x")),
            ("layer.tar", "x", Some("x")),
            ("a/b/c", "/d", Some("d")),
            ("a/layer.tar", "../../etc/passwd", None),
            ("layer.tar", "..", None),
        ] {
            assert_eq!(target_of(name, target).as_deref(), want, "{name} -> {target}");
        }
    }

    #[test]
    fn files_and_links_are_read_and_non_tar_is_refused() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        builder.append_data(&mut header, "./a", &b"abc"[..]).unwrap();
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Symlink);
        builder.append_link(&mut header, "b/c", "../a").unwrap();
        let tar = builder.into_inner().unwrap();
        let mut seen = Vec::new();
        read_archive(&tar[..], Limits::STANDARD, |name, found| {
            seen.push(match found {
                Found::File(size, body) => {
                    let mut text = String::new();
                    body.read_to_string(&mut text).unwrap();
                    format!("{name} {size} {text}")
                }
                Found::Link(target) => format!("{name} -> {target}"),
            });
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, ["a 3 abc", "b/c -> ../a"]);
        for (bad, want) in
            [(&b""[..], "empty"), (&[b'x'; 900][..], "not a tar"), (&tar[..700], "cut off")]
        {
            let refused = read_archive(bad, Limits::STANDARD, |_, _| Ok(())).unwrap_err();
            assert!(refused.to_string().contains(want), "{refused}");
        }
    }
}
