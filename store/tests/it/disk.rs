//! Tests full disks, read-only disks, several filesystems, files with the maximum number of names,
//! indexes of a newer format, and symlinks inside a store.

#![allow(clippy::print_stdout, reason = "tests print what they leave out")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{configuration, layer, named, options, run};
use deploy_store::{Digest, Error, Layer, LinkMode, Store};
use deploy_testing::directories;

/// Makes a store in `dir` with the link mode `link` and a layer of one file.
fn store(dir: &Path, link: LinkMode) -> (Store, Layer) {
    let store = Store::open(&dir.join("agent"), options(link)).unwrap();
    let tree = dir.join("tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("file"), "contents").unwrap();
    run("tar", &["-czf", "code.tar.gz", "-C", "tree", "."], dir);
    let code = layer(&store, "code", &dir.join("code.tar.gz"));
    (store, code)
}

fn contents(root: &Path) -> String {
    fs::read_to_string(root.join("file")).unwrap()
}

/// The path of a mount. The mount is removed when the value is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // A drop cannot report an error.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Mounts a filesystem. If the mount fails, the function prints a notice and returns `None`. In CI,
/// the function fails instead.
fn mount(arguments: &[&str], at: &Path) -> Option<Mounted> {
    let mounted = Command::new("mount").args(arguments).arg(at).output().unwrap();
    if mounted.status.success() {
        return Some(Mounted(at.to_owned()));
    }
    let why = String::from_utf8_lossy(&mounted.stderr).into_owned();
    assert!(std::env::var_os("CI").is_none(), "cannot mount: {why}");
    println!("NOT TESTED: cannot mount {arguments:?}: {why}");
    None
}

#[test]
fn store_opens_on_a_completely_full_disk() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let disk = work.path().join("disk");
        fs::create_dir(&disk).unwrap();
        let Some(mounted) = mount(&["-t", "tmpfs", "-o", "size=1m", "tmpfs"], &disk) else {
            return;
        };
        let (store, _) = store(&disk, LinkMode::Auto);
        let mode = store.link_mode();
        drop(store);
        let full = fs::write(disk.join("full"), vec![1; 2 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        let store = Store::open(&disk.join("agent"), options(LinkMode::Auto)).unwrap();
        assert_eq!(store.link_mode(), mode);
        drop((store, mounted));
    }
}

/// Deploys two configurations in the same steps as an agent. Returns the contents of `file` in each
/// root.
fn two_changes(disk: &Path, blobs: &[Vec<u8>; 3]) -> Result<Vec<String>, Error> {
    let store = Store::open(&disk.join("agent"), options(LinkMode::Auto))?;
    let mut layers = Vec::new();
    for (name, bytes) in ["code", "one", "two"].into_iter().zip(blobs) {
        let digest = Digest::of(bytes);
        store.blobs().ingest(digest, bytes.as_slice())?;
        layers.push(named(name, digest));
    }
    let mut texts = Vec::new();
    for upper in &layers[1..] {
        let wanted = configuration(&[layers[0].clone(), upper.clone()]);
        for layer in wanted.layers() {
            store.extract_for_root(layer.digest)?;
        }
        let root = store.root(&wanted)?;
        store.sync_roots()?;
        assert_eq!(fs::read_dir(&root.path).unwrap().count(), 9);
        texts.push(contents(&root.path));
        store.prepare_spare(&wanted)?;
    }
    Ok(texts)
}

#[test]
fn full_disk_at_any_step_is_reported_and_recovered() {
    let work = tempfile::tempdir().unwrap();
    let disk = work.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let blobs = ["base", "one", "two"].map(|text| {
        let tree = work.path().join(text);
        fs::create_dir(&tree).unwrap();
        if text == "base" {
            (0..8).for_each(|n| fs::write(tree.join(n.to_string()), n.to_string()).unwrap());
        }
        fs::write(tree.join("file"), text).unwrap();
        run("tar", &["-czf", "layer.tar.gz", "-C", text, "."], work.path());
        fs::read(work.path().join("layer.tar.gz")).unwrap()
    });
    // The disk of each round has one page or one inode more than the disk of the previous round.
    for (what, unit, enough) in [("size", 4096, "1g"), ("nr_inodes", 1, "1m")] {
        let mut failed = 0;
        loop {
            let limit = format!("{what}={}", (failed + 1) * unit);
            let Some(mounted) = mount(&["-t", "tmpfs", "-o", &limit, "tmpfs"], &disk) else {
                return;
            };
            match two_changes(&disk, &blobs) {
                Ok(texts) => {
                    assert_eq!(texts, ["one", "two"], "{limit}");
                    break;
                }
                Err(err) => {
                    let text = err.to_string();
                    assert!(text.contains("No space left"), "{limit}: {text}");
                    assert!(text.contains(disk.to_str().unwrap()), "{limit}: {text}");
                }
            }
            let more = format!("remount,{what}={enough}");
            run("mount", &["-o", &more, disk.to_str().unwrap()], Path::new("/"));
            let texts = two_changes(&disk, &blobs).unwrap_or_else(|err| panic!("{limit}: {err}"));
            assert_eq!(texts, ["one", "two"], "{limit}");
            let mut findings = Vec::new();
            deploy_store::verify(&disk.join("agent"), |finding| findings.push(finding)).unwrap();
            assert!(findings.is_empty(), "{limit}: {findings:?}");
            drop(mounted);
            failed += 1;
        }
        assert!(failed > 15, "{what} ran out only {failed} times");
    }
}

#[test]
fn read_only_disk_is_reported_and_recovered() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let (disk, at) = (work.path().join("disk"), work.path().join("at"));
        fs::create_dir(&disk).unwrap();
        fs::create_dir(&at).unwrap();
        let Some(mounted) = mount(&["--bind", disk.to_str().unwrap()], &at) else { return };
        let (store, code) = store(&at, LinkMode::Auto);
        let again = |options: &str| {
            run("mount", &["-o", options, at.to_str().unwrap()], Path::new("/"));
        };
        again("remount,bind,ro");
        let wanted = configuration(&[code]);
        for _ in 0..2 {
            let err = store.root(&wanted).unwrap_err().to_string();
            assert!(err.contains("ead-only") && err.contains("unpacked"), "{err}");
        }
        drop(store);
        let err = Store::open(&at.join("agent"), options(LinkMode::Auto)).unwrap_err().to_string();
        assert!(err.contains("ead-only"), "{err}");
        again("remount,bind,rw");
        let store = Store::open(&at.join("agent"), options(LinkMode::Auto)).unwrap();
        assert_eq!(contents(&store.root(&wanted).unwrap().path), "contents");
        drop((store, mounted));
    }
}

#[test]
fn roots_on_another_filesystem_are_copied() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let unpacked = work.path().join("agent/unpacked");
        fs::create_dir_all(&unpacked).unwrap();
        let Some(mounted) = mount(&["-t", "tmpfs", "tmpfs"], &unpacked) else { return };
        let (store, code) = store(work.path(), LinkMode::Auto);
        assert_eq!(store.link_mode(), LinkMode::Copy, "{}", dir.display());
        let wanted = configuration(&[code]);
        let root = store.root(&wanted).unwrap();
        assert_eq!((contents(&root.path).as_str(), root.placed.copied), ("contents", 1));
        store.prepare_spare(&wanted).unwrap();
        drop(store);
        for link in [LinkMode::Hardlink, LinkMode::Reflink] {
            let store = Store::open(&work.path().join("agent"), options(link)).unwrap();
            store.sweep_roots(&[]).unwrap();
            let refused =
                store.extract(wanted.layers()[0].digest).and_then(|_| store.root(&wanted));
            let err = refused.unwrap_err().to_string();
            assert!(err.contains("unpacked") || err.contains("objects"), "{link:?}: {err}");
        }
        drop(mounted);
    }
}

#[test]
fn object_at_the_link_limit_is_copied() {
    let mut tried = false;
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let (store, code) = store(work.path(), LinkMode::Auto);
        if store.link_mode() != LinkMode::Hardlink {
            continue;
        }
        let wanted = configuration(&[code]);
        let file = store.root(&wanted).unwrap().path.join("file");
        let links = work.path().join("links");
        fs::create_dir(&links).unwrap();
        let most = (0..70_000).find(|n| fs::hard_link(&file, links.join(n.to_string())).is_err());
        let Some(most) = most else { continue };
        store.sweep_roots(&[]).unwrap();
        fs::hard_link(links.join("0"), links.join("last")).unwrap();
        let root = store.root(&wanted).unwrap();
        assert_eq!((root.placed.copied, contents(&root.path).as_str()), (1, "contents"), "{most}");
        assert_eq!(fs::metadata(root.path.join("file")).unwrap().nlink(), 1);
        tried = true;
    }
    if !tried {
        assert!(
            std::env::var_os("CI").is_none(),
            "no filesystem limits the number of names of a file"
        );
        println!("NOT TESTED: no filesystem limits the number of names of a file");
    }
}

#[test]
fn newer_index_format_is_refused_and_kept() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let (store, code) = store(work.path(), LinkMode::Auto);
        drop(store);
        let index = work.path().join("agent/layers").join(code.digest.to_string());
        let mut newer = fs::read(&index).unwrap();
        newer[7] += 1;
        fs::write(&index, &newer).unwrap();
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Auto)).unwrap();
        let err = store.root(&configuration(&[code])).unwrap_err();
        let text = err.to_string();
        assert!(
            matches!(err, Error::NewerFormat { .. }) && text.contains("newer program"),
            "{text}"
        );
        assert_eq!(fs::read(&index).unwrap(), newer);
    }
}

/// If the store followed a symlink that replaced the cache directory, the store would write blobs
/// outside the agent's directory.
#[test]
fn symlinks_inside_a_store_are_refused() {
    let work = tempfile::tempdir().unwrap();
    let outside = work.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for part in ["cache", "partial", "unpacked", "objects", "layers", "roots", "quarantine"] {
        let agent = work.path().join(format!("agent-{part}"));
        fs::create_dir(&agent).unwrap();
        std::os::unix::fs::symlink(&outside, agent.join(part)).unwrap();
        let err = Store::open(&agent, options(LinkMode::Auto)).unwrap_err().to_string();
        assert!(err.contains(part), "{err}");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "{part}");
    }
}
