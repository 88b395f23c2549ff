//! Tests directories whose new entries inherit the directory's group and default access list.
//! Another test counts the files that pending layers keep open.

#![allow(clippy::print_stdout, reason = "tests print what they leave out")]

use std::fs;
use std::path::Path;

use crate::rig::{configuration, dump, named, options, same};
use deploy_store::{Digest, Layer, LinkMode, Store};
use deploy_testing::directories;

/// One member of an archive: the name, the mode, the group, the contents of a file (`None` for a
/// directory), and whether the member has a default access list.
type Made<'a> = (&'a str, u32, u64, Option<&'a str>, bool);

/// The access list `user::rwx,user:1234:rwx,group::r-x,mask::rwx,other::r-x` as the value of an
/// extended attribute.
fn access_list() -> Vec<u8> {
    let none = u32::MAX;
    let entries =
        [(0x01, 7, none), (0x02, 7, 1234), (0x04, 5, none), (0x10, 7, none), (0x20, 5, none)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(u16::to_le_bytes(permissions));
        bytes.extend(u32::to_le_bytes(id));
    }
    bytes
}

fn archive(members: &[Made<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let list = access_list();
    for &(name, mode, gid, contents, has_list) in members {
        if has_list {
            let record = [("SCHILY.xattr.system.posix_acl_default", &*list)];
            builder.append_pax_extensions(record).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        let bytes = contents.unwrap_or_default().as_bytes();
        header.set_entry_type(match contents {
            Some(_) => tar::EntryType::Regular,
            None => tar::EntryType::Directory,
        });
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(gid);
        header.set_mtime(1);
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn add(store: &Store, name: &str, bytes: &[u8]) -> Layer {
    let digest = Digest::of(bytes);
    store.blobs().ingest(digest, bytes).unwrap();
    store.extract(digest).unwrap();
    named(name, digest)
}

/// The access lists of all entries below `root`.
fn lists(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for path in fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            for name in ["system.posix_acl_access", "system.posix_acl_default"] {
                let mut value = [0; 256];
                if let Ok(n) = rustix::fs::lgetxattr(&path, name, &mut value) {
                    let below = path.strip_prefix(root).unwrap().display();
                    found.push(format!("{below} {name} {:x?}", &value[..n]));
                }
            }
            if path.is_dir() && !path.is_symlink() {
                waiting.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn changed_spare_inherits_no_directory_defaults() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run as root");
        println!("NOT TESTED: groups and access lists; the test must run as root");
        return;
    }
    let base = archive(&[
        ("staff", 0o2775, 50, None, false),
        ("staff/old", 0o644, 50, Some("old"), false),
        ("listed", 0o755, 0, None, true),
        ("listed/old", 0o644, 0, Some("old"), false),
    ]);
    let more = archive(&[
        ("staff/pkg", 0o755, 0, None, false),
        ("staff/pkg/secret", 0o640, 0, Some("secret"), false),
        ("staff/pkg/empty", 0o640, 0, Some(""), false),
        ("staff/pkg/deep", 0o750, 0, None, false),
        ("staff/pkg/deep/too", 0o600, 0, Some("too"), false),
        ("staff/alone", 0o640, 0, Some("alone"), false),
        ("listed/pkg", 0o755, 0, None, false),
        ("listed/pkg/file", 0o644, 0, Some("file"), false),
        ("listed/pkg/none", 0o600, 0, Some(""), false),
        ("listed/alone", 0o604, 0, Some("listed"), false),
    ]);
    for dir in directories() {
        for link in [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy] {
            let work = tempfile::tempdir_in(&dir).unwrap();
            let roots = ["changed", "plain"].map(|name| {
                let store = Store::open(&work.path().join(name), options(link)).unwrap();
                let layers = [add(&store, "base", &base), add(&store, "more", &more)];
                if name == "changed" {
                    let before = configuration(&layers[..1]);
                    store.root(&before).unwrap();
                    store.prepare_spare(&before).unwrap();
                }
                let root = store.root(&configuration(&layers)).unwrap();
                assert_eq!(root.from_spare, name == "changed");
                root.path
            });
            let what = format!("{link:?} in {}", dir.display());
            same(&dump(&roots[0]), &dump(&roots[1]), &what);
            assert_eq!(lists(&roots[0]), lists(&roots[1]), "{what}");
            assert!(!lists(&roots[1]).is_empty(), "{what}: no entry has an access list");
        }
    }
}

#[test]
fn pending_layers_keep_few_files_open() {
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let work = tempfile::tempdir().unwrap();
    let store = Store::open(work.path(), options(LinkMode::Auto)).unwrap();
    let (before, mut most, mut layers) = (open(), 0, Vec::new());
    for n in 0..8 {
        let names: Vec<String> = (0..600).map(|file| format!("{n}-{file}")).collect();
        let members: Vec<Made<'_>> =
            names.iter().map(|name| (&**name, 0o644, 0, Some(&**name), false)).collect();
        let bytes = archive(&members);
        let digest = Digest::of(&bytes);
        store.blobs().ingest(digest, &*bytes).unwrap();
        store.extract_for_root(digest).unwrap();
        most = most.max(open().saturating_sub(before));
        layers.push(named(&format!("c{n}"), digest));
    }
    // The count includes the open files of the layer that was just extracted, of the pending
    // layers, and of other tests in the same process.
    assert!(most < 600, "{most} files are open");
    let root = store.root(&configuration(&layers)).unwrap();
    assert_eq!(fs::read_dir(&root.path).unwrap().count(), 8 * 600);
}
