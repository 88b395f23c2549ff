//! `addver -dir`: packs a directory as a tar.gz. The same files give the same bytes on every
//! machine: names are sorted, and all owners are root. All times are 0, unless the user asks to
//! keep the times.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

/// The value "unknown" for the operating system in the gzip header.
const NO_SYSTEM: u8 = 255;

/// Packs the contents of `dir` into `into`.
pub fn pack(dir: &Path, times: bool, into: impl Write) -> Result<()> {
    let gzip = GzBuilder::new().mtime(0).operating_system(NO_SYSTEM);
    let mut packer = Packer {
        tar: Builder::new(gzip.write(into, Compression::default())),
        times,
        links: HashMap::new(),
    };
    packer.directory(dir, Path::new(""))?;
    let written = packer.tar.into_inner().and_then(flate2::write::GzEncoder::finish);
    written.map(drop).with_context(|| format!("pack {}", dir.display()))
}

struct Packer<W: Write> {
    tar: Builder<W>,
    times: bool,
    /// The first name of each file that has several hard links, by device and inode.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, dir: &Path, name: &Path) -> Result<()> {
        let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut entries = entries.with_context(|| format!("read {}", dir.display()))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (path, name) = (entry.path(), name.join(entry.file_name()));
            self.entry(&path, &name).with_context(|| format!("pack {}", path.display()))?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &Path) -> Result<()> {
        let meta = fs::symlink_metadata(path)?;
        let mut header = self.header(&meta);
        let kind = meta.file_type();
        if kind.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.tar.append_data(&mut header, name, io::empty())?;
            return self.directory(path, name);
        }
        if meta.nlink() > 1 {
            let file = (meta.dev(), meta.ino());
            if let Some(first) = self.links.get(&file) {
                header.set_entry_type(EntryType::Link);
                return Ok(self.tar.append_link(&mut header, name, first)?);
            }
            self.links.insert(file, name.to_owned());
        }
        if kind.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = fs::read_link(path)?;
            if target.as_os_str().as_bytes().contains(&0) {
                bail!("its target contains a NUL byte");
            }
            self.tar.append_link(&mut header, name, target)?;
        } else if kind.is_file() {
            let mut whole = Whole { file: File::open(path)?, left: meta.len() };
            header.set_entry_type(EntryType::Regular);
            header.set_size(meta.len());
            self.tar.append_data(&mut header, name, &mut whole)?;
        } else if kind.is_fifo() {
            header.set_entry_type(EntryType::Fifo);
            self.tar.append_data(&mut header, name, io::empty())?;
        } else {
            bail!("it is a socket or a device, which -dir cannot pack; pack devices with tar");
        }
        Ok(())
    }

    fn header(&self, meta: &Metadata) -> Header {
        let mut header = Header::new_gnu();
        header.set_mode(meta.mode() & 0o7777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(if self.times { u64::try_from(meta.mtime()).unwrap_or(0) } else { 0 });
        header
    }
}

/// A file whose length must not change while it is packed.
struct Whole {
    file: File,
    left: u64,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        let changed = || io::Error::other("it changed while it was being packed; try again");
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(changed());
        }
        self.left = self.left.checked_sub(read as u64).ok_or_else(changed)?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::process::Command;

    use super::*;

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&long).unwrap();
        for name in names {
            fs::write(dir.path().join(name), name.trim_end_matches(['1', '2'])).unwrap();
        }
        fs::write(long.join("deep"), "deep").unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("hard")).unwrap();
        symlink("a/../b", dir.path().join("soft")).unwrap();
        fs::set_permissions(dir.path().join("b"), fs::Permissions::from_mode(0o4751)).unwrap();
        dir
    }

    fn packed(dir: &Path, times: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(dir, times, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn packing_is_reproducible() {
        let (one, other) = (tree(&["a", "b", "c"]), tree(&["c", "b", "a"]));
        let mut touch = Command::new("touch");
        assert!(touch.args(["-d", "@7"]).arg(other.path().join("c")).status().unwrap().success());
        let bytes = packed(one.path(), false);
        assert!(bytes == packed(other.path(), false));
        assert!(packed(one.path(), true) != packed(other.path(), true));
        deploy_store::check_archive(&bytes[..], deploy_store::Limits::STANDARD).unwrap();
    }

    #[test]
    fn packed_directory_unpacks_with_tar() {
        let dir = tree(&["a", "b"]);
        let out = tempfile::tempdir().unwrap();
        fs::write(out.path().join("x.tgz"), packed(dir.path(), false)).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["xpzf", "x.tgz"]).current_dir(out.path());
        assert!(tar.status().unwrap().success());
        fs::remove_file(out.path().join("x.tgz")).unwrap();
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference"]).args([dir.path(), out.path()]);
        assert!(diff.status().unwrap().success());
        let [a, hard, b] =
            ["a", "hard", "b"].map(|name| fs::metadata(out.path().join(name)).unwrap());
        assert_eq!(a.ino(), hard.ino());
        assert_eq!((b.mode() & 0o7777, b.mtime()), (0o4751, 0));
    }

    #[test]
    fn error_names_the_unsupported_file() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let err = pack(dir.path(), false, io::sink()).unwrap_err();
        assert!(format!("{err:#}").contains("/s: it is a socket"), "{err:#}");
        let err = pack(&dir.path().join("none"), false, io::sink()).unwrap_err();
        assert!(format!("{err:#}").starts_with("read "), "{err:#}");
    }
}
