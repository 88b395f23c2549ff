use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;
use crate::read::listing::Sort;

const VERSION: &str = "1.2.3 (abc)";

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

fn cache(dir: &tempfile::TempDir) -> Cache {
    Cache::named(dir.path(), VERSION).unwrap()
}

fn path(cache: &Cache, tar: &Tar) -> PathBuf {
    cache.dir.as_ref().unwrap().path_of(&cache.name_of(tar.digest))
}

#[test]
fn only_kept_layers_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::named(&dir.path().join("a/b"), VERSION).unwrap();
    let one = tar("one");
    assert!(cache.find(one.digest, 100, &budget()).is_none());
    cache.keep([&one, &one].into_iter()).unwrap();
    let found = cache.find(one.digest, 100, &budget()).unwrap();
    assert_eq!((found.diff_id, found.length, found.kept), (one.diff_id, 2560, false));
    assert!(found.listing.members().eq(one.listing.members()));
    // If the budget, the length or the version does not fit, the lookup fails but keeps the file.
    assert!(cache.find(one.digest, 100, &Budget::new(50)).is_none());
    assert!(
        cache.find(one.digest, 101, &budget()).is_none(),
        "an entry for another length was found"
    );
    let later = Cache { version: "1.2.3 (def)".to_owned(), ..cache.clone() };
    assert!(
        later.find(one.digest, 100, &budget()).is_none(),
        "an entry of another version was found"
    );
    assert!(cache.find(one.digest, 100, &budget()).is_some());
    assert!(dir.path().join("a/b/image-layers/CACHEDIR.TAG").exists());
}

#[test]
fn cached_listing_takes_only_its_own_size_from_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    let tars: Vec<Tar> = (0..100).map(|number| tar(&format!("{number:03}"))).collect();
    cache.keep(tars.iter()).unwrap();
    let budget = Budget::new(100_000);
    let found = |tar: &Tar| cache.find(tar.digest, 100, &budget);
    let held: Vec<Option<Listed>> = tars.iter().map(found).collect();
    assert!(held.iter().all(Option::is_some));
}

#[test]
fn damaged_entries_are_rewritten() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    let (one, other) = (tar("one"), tar("two"));
    let path = path(&cache, &one);
    cache.keep([&one].into_iter()).unwrap();
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(unseal(&bytes, VERSION).is_none(), "{at}");
        assert!(unseal(&whole[..at], VERSION).is_none(), "{at}");
    }
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(cache.find(one.digest, 100, &budget()).is_none());
    assert!(!path.exists());
    // The file is a complete entry of one layer under the name of another layer's entry.
    fs::write(&path, seal(&other, VERSION)).unwrap();
    assert!(cache.find(one.digest, 100, &budget()).is_none());
    cache.forget(one.digest);
    cache.keep([&one].into_iter()).unwrap();
    assert!(cache.find(one.digest, 100, &budget()).is_some());
}

#[test]
fn wrong_bytes_with_a_valid_checksum_are_harmless() {
    let one = tar("one");
    let sealed = seal(&one, VERSION);
    let body = unseal(&sealed, VERSION).unwrap();
    let look = |body: &[u8]| {
        if let Some(found) = decode(body, one.digest, 100, &budget()) {
            // Every name must be within the text, and every member within the tar.
            let length = found.length;
            assert!(found.listing.members().all(|member| member.span.end <= length));
        }
    };
    for at in 0..body.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = body.to_vec();
            bytes[at] = value;
            look(&bytes);
        }
        look(&body[..at]);
    }
}

#[test]
fn least_recently_used_entries_are_removed_first() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    let tars: Vec<Tar> = ["one", "two", "six"].map(tar).into();
    cache.keep(tars.iter()).unwrap();
    let date = |path: &Path, seconds| {
        let when = SystemTime::now() - Duration::from_secs(seconds);
        fs::File::open(path).unwrap().set_modified(when).unwrap();
    };
    for (age, tar) in (1..).zip(&tars) {
        date(&path(&cache, tar), age * 1000);
    }
    let inner = dir.path().join("image-layers");
    for (name, age) in [("image-layers/new-old", 90_000), ("image-layers/new-young", 80_000)] {
        fs::write(dir.path().join(name), "").unwrap();
        date(&dir.path().join(name), age);
    }
    // Files beside `image-layers` are not removed.
    let theirs = [one_name(&tars[0]), "new-site.tar".to_owned()].map(|name| dir.path().join(name));
    for path in &theirs {
        fs::write(path, "theirs").unwrap();
        date(path, 90_000);
    }
    // This lookup uses the oldest entry.
    assert!(cache.find(tars[2].digest, 100, &budget()).is_some());
    sweep(&Dir::open(&inner).unwrap(), seal(&tars[0], VERSION).len() as u64 * 2).unwrap();
    let left: Vec<bool> = tars.iter().map(|tar| path(&cache, tar).exists()).collect();
    assert_eq!(left, [true, false, true]);
    assert_eq!(["new-old", "new-young"].map(|name| inner.join(name).exists()), [false, true]);
    assert!(theirs.iter().all(|path| path.exists()));
}

fn one_name(tar: &Tar) -> String {
    tar.digest.to_string()
}

#[test]
fn files_writable_by_others_are_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir);
    let one = tar("one");
    cache.keep([&one].into_iter()).unwrap();
    let (inner, file) = (dir.path().join("image-layers"), path(&cache, &one));
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    mode(&file, 0o620).unwrap();
    assert!(cache.find(one.digest, 100, &budget()).is_none());
    mode(&file, 0o600).unwrap();
    assert!(cache.find(one.digest, 100, &budget()).is_some());
    mode(&inner, 0o770).unwrap();
    let refused = Cache::named(dir.path(), VERSION).unwrap_err().to_string();
    for word in ["it can be written by others", "0770", "image-layers", "-cache-dir", "-no-cache"] {
        assert!(refused.contains(word), "{word}: {refused}");
    }
    // A link is not followed, and a fifo does not block an import.
    mode(&inner, 0o700).unwrap();
    let real = dir.path().join("real");
    fs::rename(&inner, &real).unwrap();
    symlink(&real, &inner).unwrap();
    Cache::named(dir.path(), VERSION).unwrap_err();
    fs::remove_file(real.join(file.file_name().unwrap())).unwrap();
    let fifo = real.join(file.file_name().unwrap());
    assert!(std::process::Command::new("mkfifo").arg(fifo).status().unwrap().success());
    assert!(cache.find(one.digest, 100, &budget()).is_none());
}

#[test]
fn concurrent_imports_share_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let tars: Vec<Tar> = (0..50).map(|number| tar(&number.to_string())).collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let cache = cache(&dir);
                cache.keep(tars.iter()).unwrap();
                let found = |tar: &Tar| cache.find(tar.digest, 100, &budget()).is_some();
                assert!(tars.iter().all(found));
            });
        }
    });
}
