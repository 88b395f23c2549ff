//! Tests the metadata of the root itself and of directories without an entry. Also tests the
//! leftovers of a killed `unpack`, and an index of an older format.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::rig::{configuration, named, options};
use deploy_store::{Digest, Layer, LinkMode, Store, unpack, verify};
use deploy_testing::directories;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes an archive of directories and files, each with a mode, an owner and a time.
fn archive(entries: &[(&str, u32, u64, u64)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, mode, owner, time) in entries {
        let mut header = tar::Header::new_gnu();
        let is_file = !name.ends_with('/');
        header.set_entry_type(if is_file {
            tar::EntryType::Regular
        } else {
            tar::EntryType::Directory
        });
        header.set_size(if is_file { 4 } else { 0 });
        header.set_mode(*mode);
        header.set_uid(*owner);
        header.set_gid(*owner);
        header.set_mtime(*time);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, if is_file { &b"text"[..] } else { b"" }).unwrap();
    }
    builder.into_inner().unwrap()
}

fn publish(store: &Store, name: &str, bytes: &[u8]) -> Layer {
    let digest = Digest::of(bytes);
    store.blobs().ingest(digest, bytes).unwrap();
    store.extract(digest).unwrap();
    named(name, digest)
}

/// The mode, the owner and the time. If owners are not restored, the owner is 0.
fn carries(path: &Path) -> (u32, u32, i64) {
    let meta = fs::metadata(path).unwrap();
    (meta.mode() & 0o7777, if is_root() { meta.uid() } else { 0 }, meta.mtime())
}

/// The expected metadata. If the test does not run as root, the function adapts the metadata to a
/// user without privileges.
fn wanted(mode: u32, owner: u32, time: i64) -> (u32, u32, i64) {
    if is_root() { (mode, owner, time) } else { (mode & 0o1777 | 0o700, 0, time) }
}

fn findings(dir: &Path) -> Vec<String> {
    let mut all = Vec::new();
    verify(dir, |finding| all.push(format!("{} {}", finding.path.display(), finding.what)))
        .unwrap();
    all
}

#[test]
fn root_entry_sets_mode_owner_and_time() {
    for dir in directories() {
        for link in [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy] {
            let work = tempfile::tempdir_in(&dir).unwrap();
            let agent = work.path().join("agent");
            let store = Store::open(&agent, options(link)).unwrap();
            let one = publish(
                &store,
                "a",
                &archive(&[("./", 0o2750, 1000, 77), ("./x", 0o644, 1000, 5)]),
            );
            let plain = publish(&store, "b", &archive(&[("y", 0o644, 1000, 5)]));
            let other =
                publish(&store, "c", &archive(&[("./", 0o711, 1001, 78), ("./z", 0o644, 0, 5)]));
            let carried = |layers: &[Layer], from_spare: bool| {
                let wanted = configuration(layers);
                let root = store.root(&wanted).unwrap();
                assert_eq!(root.from_spare, from_spare);
                assert_eq!(findings(&agent), [""; 0]);
                store.prepare_spare(&wanted).unwrap();
                carries(&root.path)
            };
            let first = wanted(0o2750, 1000, 77);
            assert_eq!(carried(std::slice::from_ref(&one), false), first);
            assert_eq!(carried(&[one.clone(), plain.clone()], true), first, "no second root entry");
            let both = carried(&[one.clone(), other.clone()], true);
            assert_eq!(both, wanted(0o711, 1001, 78), "a later root entry wins");
            let (mode, owner, _) = carried(std::slice::from_ref(&plain), true);
            assert_eq!((mode, owner), (0o755, 0), "without a root entry");
            assert_eq!(carried(&[other, one.clone()], true), first, "after a change back");
            // A change of the root directory is found.
            let root = store.root_path(configuration(&[one]).id());
            fs::set_permissions(root, fs::Permissions::from_mode(0o777)).unwrap();
            let found = findings(&agent);
            assert!(
                found.len() == 1
                    && found[0].ends_with("the mode or owner of the root directory was altered"),
                "{found:?}"
            );
        }
    }
}

#[test]
fn implied_parents_belong_to_the_agent() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Auto)).unwrap();
        let bytes = archive(&[
            ("usr/lib/app/data", 0o600, 1000, 5),
            ("opt/", 0o700, 1000, 6),
            ("opt/a/b", 0o644, 7, 7),
        ]);
        let layer = publish(&store, "a", &bytes);
        let root = store.root(&configuration(&[layer])).unwrap().path;
        let mine = fs::metadata(work.path()).unwrap().uid();
        for (name, mode, owner) in [
            ("usr", 0o755, 0),
            ("usr/lib", 0o755, 0),
            ("usr/lib/app", 0o755, 0),
            ("usr/lib/app/data", 0o600, 1000),
            ("opt", 0o700, 1000),
            ("opt/a", 0o755, 0),
        ] {
            let meta = fs::metadata(root.join(name)).unwrap();
            let owner = if is_root() { owner } else { mine };
            assert_eq!((meta.mode() & 0o7777, meta.uid()), (mode, owner), "{name}");
        }
    }
}

#[test]
fn unpack_into_an_existing_directory_keeps_its_metadata() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let unpacked = |name: &str, entries: &[(&str, u32, u64, u64)], exists: bool| {
            let (file, into) = (work.path().join(format!("{name}.tar")), work.path().join(name));
            fs::write(&file, archive(entries)).unwrap();
            if exists {
                fs::create_dir(&into).unwrap();
                fs::set_permissions(&into, fs::Permissions::from_mode(0o750)).unwrap();
                if is_root() {
                    chown(&into, Some(7), Some(7)).unwrap();
                }
            }
            let before = fs::metadata(&into).map(|meta| meta.ino()).ok();
            unpack(&[file], &into, options(LinkMode::Auto)).unwrap();
            assert!(before.is_none_or(|ino| ino == fs::metadata(&into).unwrap().ino()));
            let names: Vec<PathBuf> =
                fs::read_dir(&into).unwrap().map(|item| item.unwrap().path()).collect();
            assert_eq!(names, [into.join("d")], "the directory has other files");
            assert_eq!(fs::read(into.join("d/f")).unwrap(), b"text");
            carries(&into)
        };
        let plain = [("d/", 0o555, 1000, 5), ("d/f", 0o644, 1000, 5)];
        let described = [("./", 0o2750, 1000, 77), plain[0], plain[1]];
        assert_eq!(unpacked("new", &described, false), wanted(0o2750, 1000, 77));
        assert_eq!(unpacked("old", &described, true), wanted(0o2750, 1000, 77));
        let (mode, owner, _) = unpacked("kept", &plain, true);
        assert_eq!((mode, owner), (0o750, if is_root() { 7 } else { 0 }));
        let left = fs::read_dir(work.path()).unwrap().filter(|item| {
            item.as_ref().unwrap().file_name().to_string_lossy().starts_with(".unpack")
        });
        assert_eq!(left.count(), 0);
    }
}

#[test]
fn leftovers_of_a_killed_unpack_are_removed() {
    let work = tempfile::tempdir().unwrap();
    let (file, into) = (work.path().join("a.tar"), work.path().join("into"));
    fs::write(&file, archive(&[("d/f", 0o644, 0, 5), ("g", 0o644, 0, 5)])).unwrap();
    // The directory has the leftovers of an unpack that was killed after it had moved half of the
    // entries.
    fs::create_dir_all(into.join(".unpack-99-0/root/d")).unwrap();
    fs::write(into.join("g"), "half").unwrap();
    fs::write(work.path().join("outside"), "kept").unwrap();
    let record = moved(&[&into.join("g"), &work.path().join("outside")]);
    fs::write(into.join(".unpack-99-0/moved"), record.replace("outside", "../outside")).unwrap();
    unpack(std::slice::from_ref(&file), &into, options(LinkMode::Auto)).unwrap();
    assert_eq!(fs::read(into.join("g")).unwrap(), b"text");
    assert_eq!(fs::read_dir(&into).unwrap().count(), 2);
    assert_eq!(fs::read(work.path().join("outside")).unwrap(), b"kept");
    // If the target directory is new, leftovers are in its parent directory. The next unpack
    // removes only the leftovers of the same target directory.
    let other = work.path().join("other");
    let hash = |name: &str| blake3::hash(name.as_bytes()).to_hex()[..8].to_owned();
    let (ours, anothers) = (hash("other"), hash("another"));
    for name in [&ours, &anothers] {
        fs::create_dir(work.path().join(format!(".unpack-{name}-99-0"))).unwrap();
    }
    unpack(&[file], &other, options(LinkMode::Auto)).unwrap();
    assert!(!work.path().join(format!(".unpack-{ours}-99-0")).exists());
    assert!(work.path().join(format!(".unpack-{anothers}-99-0")).exists());
    // A directory is not removed if its name differs from the names of work directories.
    fs::create_dir_all(work.path().join("third/.unpack-mine")).unwrap();
    let refused =
        unpack(&[work.path().join("a.tar")], &work.path().join("third"), options(LinkMode::Auto));
    assert!(refused.unwrap_err().to_string().contains("not empty"));
    assert!(work.path().join("third/.unpack-mine").exists());
}

/// The record of a killed unpack that had moved the entries `paths`.
fn moved(paths: &[&Path]) -> String {
    let item = |path: &&Path| {
        let meta = fs::symlink_metadata(path).unwrap();
        let birth = meta.created().unwrap().duration_since(UNIX_EPOCH).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        format!("{} {}.{} {name}\0", meta.ino(), birth.as_secs(), birth.subsec_nanos())
    };
    paths.iter().map(item).collect()
}

#[test]
fn removal_of_leftovers_keeps_files_of_others() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("a.tar");
    fs::write(&file, archive(&[("data/f", 0o644, 0, 5)])).unwrap();
    // The parent directory of a new directory contains the work directory of a killed unpack. It
    // also contains an entry that has a name from the archive, but that the unpack did not make.
    fs::create_dir(work.path().join("data")).unwrap();
    fs::write(work.path().join("data/theirs"), "kept").unwrap();
    let hash = blake3::hash(b"into").to_hex()[..8].to_owned();
    let left = work.path().join(format!(".unpack-{hash}-99-0"));
    fs::create_dir_all(left.join("root/data")).unwrap();
    fs::write(left.join("names"), b"data").unwrap();
    unpack(std::slice::from_ref(&file), &work.path().join("into"), options(LinkMode::Auto))
        .unwrap();
    assert!(!left.exists() && work.path().join("into/data/f").exists());
    assert_eq!(fs::read(work.path().join("data/theirs")).unwrap(), b"kept");
    // In an existing directory, another program has replaced an entry that the killed unpack had
    // moved.
    let old = work.path().join("old");
    fs::create_dir_all(old.join(".unpack-99-0")).unwrap();
    fs::create_dir(old.join("data")).unwrap();
    fs::write(old.join(".unpack-99-0/moved"), moved(&[&old.join("data")])).unwrap();
    fs::create_dir(old.join("new")).unwrap();
    fs::write(old.join("new/theirs"), "kept").unwrap();
    fs::remove_dir(old.join("data")).unwrap();
    fs::rename(old.join("new"), old.join("data")).unwrap();
    let refused = unpack(&[file], &old, options(LinkMode::Auto));
    assert!(refused.unwrap_err().to_string().contains("not empty"));
    assert_eq!(fs::read(old.join("data/theirs")).unwrap(), b"kept");
}

#[test]
fn layer_of_an_older_format_is_extracted_again() {
    let work = tempfile::tempdir().unwrap();
    let agent = work.path().join("agent");
    let store = Store::open(&agent, options(LinkMode::Auto)).unwrap();
    let layer = publish(&store, "a", &archive(&[("./", 0o711, 0, 77), ("./x", 0o644, 0, 5)]));
    assert!(store.has_layer(layer.digest).unwrap());
    drop(store);
    // The index gets the same entries in the first format, without the root's entry. The encoded
    // entry of the root has a path of length 0, the kind, mode, owner, group, nanoseconds, seconds
    // and the number of attributes.
    let path = agent.join("layers").join(layer.digest.to_string());
    let bytes = fs::read(&path).unwrap();
    let mut old = bytes[..16].to_vec();
    old[7] = 1;
    old[8] -= 1;
    old.extend_from_slice(&bytes[16 + 4 + 1 + 16 + 8 + 4..bytes.len() - 32]);
    old.extend_from_slice(blake3::hash(&old).as_bytes());
    fs::write(&path, old).unwrap();
    let store = Store::open(&agent, options(LinkMode::Auto)).unwrap();
    assert!(!store.has_layer(layer.digest).unwrap(), "the layer must be extracted again");
    assert_eq!(findings(&agent), [""; 0]);
    let root = store.root(&configuration(&[layer])).unwrap();
    assert_eq!(carries(&root.path), wanted(0o711, 0, 77));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}
