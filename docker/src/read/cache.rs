//! Caches the listings of layers from earlier imports. If a layer is imported again, the importer
//! only hashes it, and need not decompress and list it. The cache is optional, because the importer
//! recreates missing and damaged entries.

use std::ffi::{CStr, CString};
use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deploy_store::disk::{Dir, TempFile};
use deploy_store::{Digest, Error as StoreError, Result as StoreResult};

use super::budget::Budget;
use super::image_layer::{Listed, Tar};
use super::listing::Listing;
use crate::error::{Error, Result};

/// The first bytes of an entry's file. The version of the program and a newline follow.
const MAGIC: &[u8] = b"deploy-from-docker layer 1 ";
/// The name of the directory with the entries' files. Outside this directory, the cache only
/// creates missing parent directories.
const NAME: &CStr = c"image-layers";
/// The maximum total size of all files after an import. Above this size, the least recently used
/// files are removed.
const MOST: u64 = 256 << 20;
/// The maximum size of one file, enough for about 300,000 members. The limit saves memory, because
/// a listing is in memory twice for a short time.
const MOST_OF_ONE: usize = 32 << 20;
/// An unfinished file that is older than this counts as abandoned by its writer.
const ABANDONED: Duration = Duration::from_secs(86_400);
/// The prefix of the names of unfinished files.
const UNFINISHED: &str = "new";
/// The file that makes backup programs skip the directory (Cache Directory Tagging Specification
/// 0.6).
const TAG: (&CStr, &[u8]) = (
    c"CACHEDIR.TAG",
    b"Signature: 8a477f597d28d172789f06886806bc55\n# A cache of deploy-from-docker.\n",
);

/// The cache, which has one file for each layer. The file's name consists of the layer's sha256 as
/// received and a hash of the program's version. The version is part of the name, because another
/// version may refuse a layer that this version lists. A user who can change a file of the cache
/// controls the result of an import. So the cache uses only files that no other user can change.
#[derive(Debug, Clone)]
pub struct Cache {
    place: PathBuf,
    version: String,
    /// `None` if the directory does not exist or cannot be used.
    dir: Option<Arc<Dir>>,
}

impl Cache {
    /// Opens the cache in `place`. A missing directory is created.
    pub fn named(place: &Path, version: &str) -> Result<Self> {
        let dir = make(place).map_err(|err| cannot(place, &err))?;
        let (place, version) = (place.to_owned(), version.to_owned());
        Ok(Self { place, version, dir: Some(Arc::new(dir)) })
    }

    /// Opens the default cache (XDG Base Directory Specification 0.8). Returns `None` unless the
    /// user owns the cache's directory or, if this directory is missing, its nearest existing
    /// parent. This condition keeps root from using the home directory of another user. A missing
    /// directory is created when the first listing is kept.
    pub fn usual(version: &str) -> Option<Self> {
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        let place = base?.join("deploy-from-docker");
        let nearest = place.ancestors().find_map(|path| fs::metadata(path).ok())?;
        if !nearest.is_dir() || nearest.uid() != user() {
            return None;
        }
        let dir = Dir::open(&place).and_then(|dir| own(&dir)).ok().map(Arc::new);
        Some(Self { place, version: version.to_owned(), dir })
    }

    /// Finds the listing of the layer in the input file `name`, which has `size` bytes. Returns
    /// `None` if there is no such listing, or if the name does not state the digest of the file.
    /// The names in the listing count towards `budget`.
    pub fn find_named(&self, name: &str, size: u64, budget: &Budget) -> Option<(Digest, Listed)> {
        let digest = announced(name)?;
        Some((digest, self.find(digest, size, budget)?))
    }

    fn find(&self, digest: Digest, size: u64, budget: &Budget) -> Option<Listed> {
        let dir = self.dir.as_ref()?;
        let name = self.name_of(digest);
        let (file, stat) = dir.open_file_and_stat(&name).ok()?;
        if why_not(stat.st_uid, stat.st_mode).is_some() {
            return None;
        }
        let mut bytes = Vec::new();
        (&file).take(MOST_OF_ONE as u64 + 1024).read_to_end(&mut bytes).ok()?;
        let Some(body) = unseal(&bytes, &self.version) else {
            // The entry will be written again after the layer is listed.
            self.forget(digest);
            return None;
        };
        let found = decode(body, digest, size, budget)?;
        // An error is ignored, because its only effect is that the entry is removed earlier.
        let _ = file.set_modified(SystemTime::now());
        Some(found)
    }

    /// Removes the entry of a layer.
    pub fn forget(&self, digest: Digest) {
        if let Some(dir) = &self.dir {
            // Another import may have removed the entry already.
            let _ = dir.remove_file(&self.name_of(digest));
        }
    }

    /// Writes entries for these layers, and removes old entries if the cache is too large.
    pub fn keep<'a>(&self, tars: impl Iterator<Item = &'a Tar>) -> Result<()> {
        let mut tars = tars.filter(|tar| tar.listing.bytes() <= MOST_OF_ONE).peekable();
        if tars.peek().is_none() {
            return Ok(());
        }
        let dir = match &self.dir {
            Some(dir) => Arc::clone(dir),
            None => Arc::new(make(&self.place).map_err(|err| cannot(&self.place, &err))?),
        };
        let kept = tars.try_for_each(|tar| self.keep_one(&dir, tar));
        // Even if an entry could not be written, the sweep makes room for later entries.
        kept.and(sweep(&dir, MOST)).map_err(|err| cannot(&self.place, &err))
    }

    fn keep_one(&self, dir: &Arc<Dir>, tar: &Tar) -> StoreResult<()> {
        let name = self.name_of(tar.digest);
        if dir.contains(&name)? {
            return Ok(());
        }
        let file = TempFile::create(dir, UNFINISHED)?;
        let written = file.file().write_all(&seal(tar, &self.version));
        written.map_err(|err| file.error("write", err))?;
        // The entry is not synced, because a checksum reveals an entry that a crash damaged.
        file.publish(dir, &name)
    }

    fn name_of(&self, digest: Digest) -> CString {
        let version = &Digest::of(self.version.as_bytes()).to_string()[..8];
        CString::new(format!("{digest}-{version}")).expect("hex has no NUL")
    }
}

/// The digest that a file's name in the OCI image layout states.
pub fn announced(name: &str) -> Option<Digest> {
    name.strip_prefix("blobs/sha256/")?.parse().ok()
}

fn cannot(place: &Path, err: &StoreError) -> Error {
    Error::Cache { dir: place.to_owned(), reason: err.to_string() }
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The reason to distrust a file or directory with this owner and mode, if there is a reason.
fn why_not(uid: u32, mode: u32) -> Option<String> {
    if uid != user() {
        return Some(format!("it belongs to the user with the number {uid}"));
    }
    let others = mode & 0o022 != 0;
    others.then(|| format!("it can be written by others: its mode is {:04o}", mode & 0o7777))
}

/// Opens the cache's own directory in `place`. Missing directories are created.
fn make(place: &Path) -> StoreResult<Dir> {
    // The XDG specification requires this mode.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(place);
    made.map_err(|err| StoreError::io("make", place, err))?;
    let outer = Dir::open(place)?;
    outer.child_or_make(NAME, 0o700)?;
    let dir = own(&outer)?;
    if let Ok(tag) = dir.create_file(TAG.0, 0o644) {
        // An error is ignored, because without the tag, backups only take more space.
        let _ = (&tag).write_all(TAG.1);
    }
    Ok(dir)
}

/// Opens the cache's own directory in `outer`. Fails unless this directory belongs to the user, and
/// no other user can change it.
fn own(outer: &Dir) -> StoreResult<Dir> {
    let dir = outer.child(NAME)?;
    let stat = rustix::fs::fstat(&dir);
    let stat = stat.map_err(|err| StoreError::io("stat", dir.path(), err))?;
    match why_not(stat.st_uid, stat.st_mode) {
        None => Ok(dir),
        Some(reason) => Err(StoreError::io("trust", dir.path(), io::Error::other(reason))),
    }
}

/// Removes the least recently used files beyond `most` bytes, and abandoned unfinished files.
fn sweep(dir: &Dir, most: u64) -> StoreResult<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (mut files, mut bytes) = (Vec::new(), 0_u64);
    for item in dir.list()? {
        // Errors are ignored here and below, because another import may have removed the entry
        // meanwhile.
        let Ok(stat) = dir.stat(&item.name) else { continue };
        let used = (stat.st_mtime, stat.st_mtime_nsec);
        let length = u64::try_from(stat.st_size).unwrap_or(0);
        let name = item.name.to_bytes();
        if name.starts_with(UNFINISHED.as_bytes()) {
            let age = now.as_secs().saturating_sub(u64::try_from(used.0).unwrap_or(0));
            if age > ABANDONED.as_secs() {
                let _ = dir.remove_file(&item.name);
            }
        } else if item.name.as_c_str() != TAG.0 {
            bytes += length;
            files.push((used, length, item.name));
        }
    }
    files.sort();
    for (_, length, name) in files {
        if bytes <= most {
            break;
        }
        let _ = dir.remove_file(&name);
        bytes -= length;
    }
    Ok(())
}

fn seal(tar: &Tar, version: &str) -> Vec<u8> {
    let mut bytes = [MAGIC, version.as_bytes(), b"\n"].concat();
    bytes.extend_from_slice(tar.digest.as_bytes());
    bytes.extend_from_slice(&tar.size.to_le_bytes());
    bytes.extend_from_slice(tar.diff_id.as_bytes());
    bytes.extend_from_slice(&tar.length.to_le_bytes());
    tar.listing.encode(&mut bytes);
    let checksum = Digest::of(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// The part of a file between the first line and the checksum. Returns `None` if one of the two is
/// invalid.
fn unseal<'a>(bytes: &'a [u8], version: &str) -> Option<&'a [u8]> {
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if Digest::of(body).as_bytes() != checksum {
        return None;
    }
    body.strip_prefix(MAGIC)?.strip_prefix(version.as_bytes())?.strip_prefix(b"\n")
}

fn decode(body: &[u8], digest: Digest, size: u64, budget: &Budget) -> Option<Listed> {
    let (of, rest) = body.split_first_chunk::<32>()?;
    let (its_size, rest) = rest.split_first_chunk()?;
    let (diff_id, rest) = rest.split_first_chunk::<32>()?;
    let (length, rest) = rest.split_first_chunk()?;
    if of != digest.as_bytes() || u64::from_le_bytes(*its_size) != size {
        return None;
    }
    let (diff_id, length) = (Digest::from_bytes(*diff_id), u64::from_le_bytes(*length));
    let listing = Listing::decode(rest, length, budget)?;
    Some(Listed { diff_id, length, kept: false, listing })
}

#[cfg(test)]
mod tests;
