//! What earlier imports found in layers, so that a layer that comes again is hashed, and neither
//! inflated nor listed. Nothing depends on it: what is not there, or damaged, is found out again.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use deploy_store::Digest;

use crate::archive::Tar;
use crate::budget::Budget;
use crate::error::{Error, Result};
use crate::layer::Listed;
use crate::listing::Listing;

/// How a file begins. Another version may refuse what this one lists: it finds nothing.
const MAGIC: &[u8] =
    concat!("deploy-from-docker layer 1 ", env!("CARGO_PKG_VERSION"), "\n").as_bytes();
/// Bytes that all files may have; beyond that those go that were not used for longest.
const MOST: u64 = 256 << 20;
/// Bytes of one: some 300,000 files. It is in memory twice for a moment.
const MOST_OF_ONE: usize = 32 << 20;
/// Age of an unfinished file whose writer must be gone.
const ABANDONED: Duration = Duration::from_secs(86_400);
/// Start of the names of unfinished files.
const UNFINISHED: &str = "new-";
/// Has backups pass the directory over (Cache Directory Tagging Specification 0.6).
const TAG: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n# A cache of deploy-from-docker.\n",
);

/// A directory that has a file for each layer, named by the sha256 of the layer as it came.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
}

impl Cache {
    /// In `dir`, which is made if it is not there. Others must not be able to write to it: what
    /// it says is believed.
    pub fn open(dir: &Path) -> Result<Self> {
        let fail = |reason: String| Error::Cache { dir: dir.to_owned(), reason };
        // The mode is what the XDG specification asks for.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        let meta = made.and_then(|()| fs::metadata(dir)).map_err(|err| fail(err.to_string()))?;
        if meta.uid() != rustix::process::geteuid().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(fail("others than its user can write to it".to_owned()));
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where it is where nothing else is said (XDG Base Directory Specification 0.8).
    pub fn usual_place() -> Option<PathBuf> {
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
        Some(base?.join("deploy-from-docker"))
    }

    /// What is known of the layer with this sha256 and length. Its names are of `budget`.
    pub fn find(&self, digest: Digest, size: u64, budget: &Budget) -> Option<Listed> {
        let path = self.path_of(digest);
        let file = File::open(&path).ok()?;
        let mut bytes = Vec::new();
        (&file).take(MOST_OF_ONE as u64 + 1024).read_to_end(&mut bytes).ok()?;
        let found = decode(&bytes, digest, size, budget);
        // It is removed too early at worst, or is written again.
        let _ = match found {
            Some(_) => file.set_modified(SystemTime::now()),
            None => fs::remove_file(path),
        };
        found
    }

    /// Notes what is known of these layers, and makes room for it.
    pub fn keep<'a>(&self, tars: impl Iterator<Item = &'a Tar>) -> io::Result<()> {
        let mut grown = false;
        for tar in tars {
            let path = self.path_of(tar.digest);
            if path.exists() || tar.listing.bytes() > MOST_OF_ONE {
                continue;
            }
            let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.dir)?;
            // Not synced: what a crash makes of it does not have its checksum.
            file.write_all(&encode(tar))?;
            file.persist(path)?;
            grown = true;
        }
        if grown { self.sweep(MOST) } else { Ok(()) }
    }

    fn path_of(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    /// Removes what is beyond `most` bytes.
    fn sweep(&self, most: u64) -> io::Result<()> {
        let tag = self.dir.join(TAG.0);
        if !tag.exists() {
            fs::write(tag, TAG.1)?;
        }
        let (now, mut files, mut bytes) = (SystemTime::now(), Vec::new(), 0);
        for item in fs::read_dir(&self.dir)? {
            let item = item?;
            let name = item.file_name().to_string_lossy().into_owned();
            let Ok(meta) = item.metadata() else { continue };
            let used = meta.modified()?;
            if name.parse::<Digest>().is_ok() {
                bytes += meta.len();
                files.push((used, meta.len(), item.path()));
            } else if name.starts_with(UNFINISHED)
                && now.duration_since(used).is_ok_and(|age| age > ABANDONED)
            {
                let _ = fs::remove_file(item.path());
            }
        }
        files.sort();
        for (_, length, path) in files {
            if bytes <= most {
                break;
            }
            // Another import may have been faster.
            let _ = fs::remove_file(path);
            bytes -= length;
        }
        Ok(())
    }
}

fn encode(tar: &Tar) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(tar.digest.as_bytes());
    bytes.extend_from_slice(&tar.size.to_le_bytes());
    bytes.extend_from_slice(tar.diff_id.as_bytes());
    bytes.extend_from_slice(&tar.length.to_le_bytes());
    tar.listing.encode(&mut bytes);
    let checksum = Digest::of(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

fn decode(bytes: &[u8], digest: Digest, size: u64, budget: &Budget) -> Option<Listed> {
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if Digest::of(body).as_bytes() != checksum {
        return None;
    }
    let (of, rest) = body.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
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
mod tests {
    use super::*;
    use crate::listing::Sort;

    fn tar(name: &str) -> Tar {
        let mut listing = Listing::default();
        listing.push(0..512, b"", b"", Sort::Directory);
        listing.push(512..2048, name.as_bytes(), b"", Sort::File);
        listing.push(2048..2560, b"link", name.as_bytes(), Sort::Symlink);
        let digest = Digest::of(name.as_bytes());
        Tar { digest, size: 100, diff_id: Digest::of(b"tar"), length: 2560, region: None, listing }
    }

    fn budget() -> Budget {
        Budget::new(1 << 20)
    }

    #[test]
    fn what_was_kept_is_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("a/b")).unwrap();
        let one = tar("one");
        assert!(cache.find(one.digest, 100, &budget()).is_none());
        cache.keep([&one, &one].into_iter()).unwrap();
        let found = cache.find(one.digest, 100, &budget()).unwrap();
        assert_eq!((found.diff_id, found.length, found.kept), (one.diff_id, 2560, false));
        assert!(found.listing.members().eq(one.listing.members()));
        // Memory is counted as if it had been listed.
        assert!(cache.find(one.digest, 100, &Budget::new(50)).is_none());
        cache.keep([&one].into_iter()).unwrap();
        assert!(cache.find(one.digest, 101, &budget()).is_none(), "of another length");
        assert!(cache.dir.join(TAG.0).exists());
    }

    #[test]
    fn what_is_damaged_is_not_believed_and_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let (one, other) = (tar("one"), tar("two"));
        let path = cache.path_of(one.digest);
        cache.keep([&one].into_iter()).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(decode(&bytes, one.digest, 100, &budget()).is_none(), "{at}");
            assert!(decode(&whole[..at], one.digest, 100, &budget()).is_none(), "{at}");
        }
        // A whole one, under the name of another.
        fs::write(&path, encode(&other)).unwrap();
        assert!(cache.find(one.digest, 100, &budget()).is_none());
        cache.keep([&one].into_iter()).unwrap();
        assert!(cache.find(one.digest, 100, &budget()).is_some());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let tars: Vec<Tar> = ["one", "two", "six"].map(tar).into();
        cache.keep(tars.iter()).unwrap();
        let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
        let date = |path: PathBuf, when| File::open(path).unwrap().set_modified(when).unwrap();
        for (age, tar) in (1..).zip(&tars) {
            date(cache.path_of(tar.digest), ago(age * 1000));
        }
        for (name, age) in [("new-old", 90_000), ("new-young", 80_000), ("other", 90_000)] {
            fs::write(dir.path().join(name), "").unwrap();
            date(dir.path().join(name), ago(age));
        }
        // The oldest was used a moment ago.
        assert!(cache.find(tars[2].digest, 100, &budget()).is_some());
        cache.sweep(encode(&tars[0]).len() as u64 * 2).unwrap();
        let there = |name: &str| dir.path().join(name).exists();
        let left: Vec<bool> = tars.iter().map(|tar| there(&tar.digest.to_string())).collect();
        assert_eq!(left, [true, false, true]);
        assert_eq!(["new-old", "new-young", "other"].map(there), [false, true, true]);
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        let refused = Cache::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("others") && refused.contains("-cache-dir"), "{refused}");
    }
}
