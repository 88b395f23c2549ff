//! Provides helpers for the tests of this crate. The helpers make layers and configurations, and
//! compare roots.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod members;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use deploy_store::{ComponentName, Configuration, Digest, Layer, Limits, LinkMode, Options, Store};

pub fn options(link: LinkMode) -> Options {
    Options { limits: Limits::STANDARD, link, max_blob: 1 << 30, keep_blobs: true }
}

pub fn run(program: &str, arguments: &[&str], dir: &Path) {
    let output = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

/// Adds `archive` to the store, and extracts it as a layer of the component `name`.
pub fn layer(store: &Store, name: &str, archive: &Path) -> Layer {
    let bytes = fs::read(archive).unwrap();
    let digest = Digest::of(&bytes);
    store.blobs().ingest(digest, &*bytes).unwrap();
    let extracted = store.extract(digest).unwrap().expect("the layer must not be extracted yet");
    assert!(extracted.entries > 0);
    assert!(store.extract(digest).unwrap().is_none(), "the layer was extracted twice");
    named(name, digest)
}

/// Makes a layer: the version `v1` of the component `name`, with the blob `digest`.
pub fn named(name: &str, digest: Digest) -> Layer {
    Layer {
        component: name.parse::<ComponentName>().unwrap(),
        version: "v1".parse().unwrap(),
        digest,
        created: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

pub fn configuration(layers: &[Layer]) -> Configuration {
    let modified = "2026-01-01T00:00:00Z".parse().unwrap();
    Configuration::new("p".parse().unwrap(), layers.to_vec(), modified).unwrap()
}

/// Returns a line for each path below `root`. Each line has the number of the path's inode in this
/// dump, so hardlinks to one inode have the same number.
pub fn dump(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut inodes = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(dir) = queue.pop() {
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for path in names {
            let meta = fs::symlink_metadata(&path).unwrap();
            let next = inodes.len();
            let inode = *inodes.entry(meta.ino()).or_insert(next);
            let contents = if meta.is_file() {
                let bytes = fs::read(&path).unwrap();
                format!("{} {}", Digest::of(&bytes), bytes.len())
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                String::new()
            };
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii();
            lines.push(format!("{name} {} i{inode} {contents}", carried(&path, &meta)));
            if meta.is_dir() {
                queue.push(path);
            }
        }
    }
    lines
}

/// Returns a line for each path below `root`, and a line for the root itself.
pub fn dump_all(root: &Path) -> Vec<String> {
    let mut lines = dump(root);
    lines.push(format!(". {}", carried(root, &fs::metadata(root).unwrap())));
    lines
}

/// The mode, owner, time and `user.*` attributes of a file, as text.
fn carried(path: &Path, meta: &fs::Metadata) -> String {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut attributes = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        attributes.push(format!(" {}={}", name.escape_ascii(), value[..length].escape_ascii()));
    }
    attributes.sort();
    format!(
        "{:o} {}:{} {}.{:09}{}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec(),
        attributes.concat()
    )
}

/// Fails if two dumps differ, and shows the different lines.
pub fn same(ours: &[String], theirs: &[String], what: &str) {
    let missing: Vec<_> = theirs.iter().filter(|line| !ours.contains(line)).collect();
    let extra: Vec<_> = ours.iter().filter(|line| !theirs.contains(line)).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{what}\nonly theirs has {missing:#?}\nonly ours has {extra:#?}"
    );
}
