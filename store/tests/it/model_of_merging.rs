//! Compares roots with a naive model. The model puts the members of all layers into one directory,
//! one member after another, and follows symlinks as in a chroot to this directory.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::rig::members::{Member, archive, members};
use crate::rig::{configuration, dump, options, same};
use deploy_store::{Digest, Layer, LinkMode, Store};
use deploy_testing::directories;
use proptest::collection::vec;
use proptest::test_runner::{Config, TestRunner};

/// The maximum number of symlinks that are followed on one path.
const HOPS: usize = 40;

/// Finds the directory that `path` leads to below `root`. If `make` is set, a missing directory is
/// created.
fn directory(root: &Path, path: &str, make: bool) -> io::Result<PathBuf> {
    let mut rest: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let (mut at, mut hops) = (root.to_owned(), 0);
    while let Some(part) = rest.pop() {
        match &*part {
            "" | "." => continue,
            ".." => {
                if at != root {
                    at.pop();
                }
                continue;
            }
            _ => {}
        }
        let next = at.join(&part);
        match fs::symlink_metadata(&next) {
            Err(_) if make && hops == 0 => {
                fs::create_dir(&next)?;
                at = next;
            }
            Err(err) => return Err(err),
            Ok(meta) if meta.is_dir() => at = next,
            Ok(meta) if meta.is_symlink() => {
                hops += 1;
                let target = fs::read_link(&next)?.into_os_string().into_string().unwrap();
                if hops > HOPS {
                    return Err(io::Error::other("too many symlinks on the path"));
                }
                if target.starts_with('/') {
                    root.clone_into(&mut at);
                }
                rest.extend(target.split('/').rev().map(str::to_owned));
            }
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        }
    }
    Ok(at)
}

fn parent(root: &Path, name: &str, make: bool) -> io::Result<PathBuf> {
    // Each part is looked up separately, because a symlink on the path may lead to a missing
    // directory.
    let (dirs, last) = name.rsplit_once('/').unwrap_or(("", name));
    let mut at = root.to_owned();
    for part in dirs.split('/').filter(|part| !part.is_empty()) {
        let inside = at.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        at = directory(root, &format!("{inside}/{part}"), make)?;
    }
    Ok(at.join(last))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            // Only the modes of directories are changed, because a file in the tree may have other
            // names elsewhere.
            let mut chmod = Command::new("find");
            chmod.arg(path).args(["-type", "d", "-exec", "chmod", "u+rwx", "{}", "+"]);
            assert!(chmod.status()?.success());
            fs::remove_dir_all(path)
        }
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    }
}

fn put(root: &Path, layer: &[Member], n: usize) -> io::Result<()> {
    let at = |name: &str| parent(root, name, true);
    match &layer[n] {
        Member::Directory(name, mode) => {
            let mut path = at(name)?;
            let there = fs::symlink_metadata(&path).ok();
            if there.as_ref().is_some_and(fs::Metadata::is_symlink) {
                let inside = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if let Ok(behind) = directory(root, &inside, false) {
                    path = behind;
                }
            }
            if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                remove(&path)?;
                fs::create_dir(&path)?;
            }
            if path != root {
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
            }
        }
        Member::File(name, text, mode, time) => {
            let path = at(name)?;
            remove(&path)?;
            fs::write(&path, crate::rig::members::contents(*text))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode))?;
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(*time);
            fs::File::open(&path)?.set_modified(time)?;
        }
        Member::Symlink(name, target) => {
            let path = at(name)?;
            remove(&path)?;
            symlink(target, path)?;
        }
        Member::Hardlink(name, pick) => {
            let Some(target) = crate::rig::members::target(&layer[..n], *pick) else {
                return Ok(());
            };
            let path = at(name)?;
            let from = parent(root, target, false)?;
            let meta = fs::symlink_metadata(&from)?;
            if meta.is_dir() || !(meta.is_file() || meta.is_symlink()) {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            if from != path {
                let held = root.with_extension("held");
                // The model makes a second symlink instead of a hardlink to a symlink. The two
                // differ only in the inode.
                if meta.is_symlink() {
                    symlink(fs::read_link(&from)?, &held)?;
                } else {
                    fs::hard_link(&from, &held)?;
                }
                remove(&path)?;
                fs::rename(held, path)?;
            }
        }
        Member::Fifo(name) => {
            let path = at(name)?;
            remove(&path)?;
            assert!(Command::new("mkfifo").args(["-m", "644"]).arg(path).status()?.success());
        }
    }
    Ok(())
}

/// Replaces the time of each entry that is not a regular file. The model sets only the times of
/// regular files.
fn without_times(lines: Vec<String>) -> Vec<String> {
    let plain = |line: String| {
        let mut fields: Vec<&str> = line.split(' ').collect();
        let mode = u32::from_str_radix(fields[1], 8).unwrap();
        if mode & 0o170_000 != 0o100_000 {
            fields[3] = "-";
        }
        fields.join(" ")
    };
    lines.into_iter().map(plain).collect()
}

#[test]
fn merged_roots_match_unpacking_in_order() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Auto)).unwrap();
        let (compared, refused) = (Cell::new(0), Cell::new(0));
        let check = |layers: Vec<Vec<Member>>| {
            let naive = work.path().join("naive");
            remove(&naive).unwrap();
            fs::create_dir(&naive).unwrap();
            let in_order = layers
                .iter()
                .try_for_each(|layer| (0..layer.len()).try_for_each(|n| put(&naive, layer, n)));
            let built = (|| {
                let mut described = Vec::new();
                for (n, members) in layers.iter().enumerate() {
                    let bytes = archive(members);
                    let digest = Digest::of(&bytes);
                    store.blobs().ingest(digest, &*bytes)?;
                    store.extract(digest)?;
                    described.push(Layer {
                        component: format!("c{n}").parse().unwrap(),
                        version: "v1".parse().unwrap(),
                        digest,
                        created: "2026-01-01T00:00:00Z".parse().unwrap(),
                    });
                }
                store.root(&configuration(&described))
            })();
            match (built, in_order) {
                (Ok(root), Ok(())) => {
                    compared.set(compared.get() + 1);
                    let ours = without_times(dump(&root.path));
                    same(&ours, &without_times(dump(&naive)), &format!("{layers:?}"));
                }
                (Err(_), Err(_)) => refused.set(refused.get() + 1),
                (built, in_order) => panic!("{built:?}, naively {in_order:?}: {layers:?}"),
            }
            store.sweep_roots(&[]).unwrap();
            Ok(())
        };
        let cases = std::env::var("PROPTEST_CASES").map_or(128, |cases| cases.parse().unwrap());
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        TestRunner::new(config).run(&vec(members(), 2..=3), check).unwrap();
        assert!(compared.get() > 4, "only {} stacks were compared", compared.get());
        assert!(refused.get() > 0, "no stack was refused");
    }
}
