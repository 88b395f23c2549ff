//! Determines the contents that a root must have according to its layers, and reads the contents of
//! a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::layers::{Layer, Meta, Node};

/// Kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Symlink,
    /// A device, a fifo or a socket.
    Other,
    /// A mount point. The test does not read the contents of the mount.
    Mount,
}

/// An entry, with all its properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub meta: Meta,
    /// The bytes of a file, or the target of a symlink.
    pub body: Vec<u8>,
    /// The first path among all names of the entry's inode.
    pub group: String,
}

/// Entries by their path below the root.
pub type Tree = BTreeMap<String, Entry>;

/// The kind of user who unpacks. If an ordinary user unpacks, this user owns all files, and no file
/// has capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    Root,
    User(u32, u32),
}

impl Who {
    pub fn me() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() { Self::Root } else { Self::User(uid.as_raw(), gid.as_raw()) }
    }

    fn given(self, meta: &Meta) -> Meta {
        let mut meta = meta.clone();
        if let Self::User(uid, gid) = self {
            (meta.uid, meta.gid) = (uid, gid);
            // An ordinary user cannot set the owner of a file, so the file gets no setuid bit and
            // no setgid bit.
            meta.mode &= !0o6000;
            meta.xattrs.retain(|name, _| name.starts_with("user."));
        }
        meta
    }
}

/// The tree that results from these layers (docs/FORMAT.md, "How layers merge"). The lowest layer
/// is first.
pub fn merge(layers: &[&Layer], who: Who) -> Tree {
    let mut names: BTreeMap<String, (usize, Node)> = BTreeMap::new();
    for (n, layer) in layers.iter().enumerate() {
        for (path, node) in &layer.names {
            let stays = matches!(node, Node::Directory(_))
                && matches!(names.get(path), Some((_, Node::Directory(_))));
            if !stays {
                let below = format!("{path}/");
                names.retain(|other, _| other != path && !other.starts_with(&below));
            }
            names.insert(path.clone(), (n, node.clone()));
        }
    }
    let mut groups: BTreeMap<(usize, usize), String> = BTreeMap::new();
    let entry = |(path, (n, node)): (String, (usize, Node))| {
        let mut group = path.clone();
        let (kind, meta, body) = match node {
            Node::Directory(meta) => (Kind::Directory, meta, Vec::new()),
            Node::Symlink(target, meta) => (Kind::Symlink, meta, target.into_bytes()),
            Node::File(inode) => {
                group.clone_from(groups.entry((n, inode)).or_insert_with(|| path.clone()));
                let file = &layers[n].inodes[&inode];
                (Kind::File, file.meta.clone(), file.body.clone())
            }
        };
        let mut meta = who.given(&meta);
        if kind == Kind::Symlink {
            (meta.mode, meta.xattrs) = (0o777, BTreeMap::new());
        }
        (path, Entry { kind, meta, body, group })
    };
    names.into_iter().map(entry).collect()
}

/// The entries below `root`, without the contents of mounts.
pub fn look(root: &Path, mounts: &BTreeSet<PathBuf>) -> std::io::Result<Tree> {
    let mut found = Tree::new();
    let mut inodes: BTreeMap<(u64, u64), Vec<String>> = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(dir) = queue.pop() {
        let items = match fs::read_dir(&dir) {
            // A service may have removed its own permission to read a directory.
            Err(err) if err.kind() == ErrorKind::PermissionDenied => continue,
            other => other?,
        };
        for item in items {
            let path = item?.path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let stat = fs::symlink_metadata(&path)?;
            let kind = match stat.file_type() {
                _ if mounts.contains(&path) => Kind::Mount,
                it if it.is_dir() => Kind::Directory,
                it if it.is_file() => Kind::File,
                it if it.is_symlink() => Kind::Symlink,
                _ => Kind::Other,
            };
            let body = match kind {
                Kind::File => fs::read(&path)?,
                Kind::Symlink => fs::read_link(&path)?.into_os_string().into_vec(),
                _ => Vec::new(),
            };
            match kind {
                Kind::Directory => queue.push(path.clone()),
                Kind::File => {
                    inodes.entry((stat.dev(), stat.ino())).or_default().push(name.clone());
                }
                _ => {}
            }
            let meta = Meta {
                mode: stat.mode() & 0o7777,
                uid: stat.uid(),
                gid: stat.gid(),
                mtime: (stat.mtime(), u32::try_from(stat.mtime_nsec()).unwrap()),
                xattrs: attributes(&path),
            };
            found.insert(name.clone(), Entry { kind, meta, body, group: name });
        }
    }
    for names in inodes.into_values() {
        let first = names.iter().min().unwrap().clone();
        for name in names {
            found.get_mut(&name).unwrap().group.clone_from(&first);
        }
    }
    Ok(found)
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut list = vec![0_u8; 4096];
    let Ok(length) = rustix::fs::llistxattr(path, &mut list[..]) else { return BTreeMap::new() };
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut found = BTreeMap::new();
    for name in names {
        let name = String::from_utf8_lossy(name).into_owned();
        let mut value = vec![0_u8; 4096];
        if let Ok(length) = rustix::fs::lgetxattr(path, &*name, &mut value[..]) {
            value.truncate(length);
            found.insert(name, value);
        }
    }
    found
}

/// Whether the root is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// The root is new, so only the agent has written to the root.
    New,
    /// The root was deployed before, so files that a service added may still be in the root.
    Reused,
}

/// The differences between `seen` and `wanted`. Each difference consists of its kind and a text
/// with the path and details. In a reused root, the paths for which `spared` returns true do not
/// count.
pub fn differences(
    wanted: &Tree,
    seen: &Tree,
    made: Made,
    spared: impl Fn(&str) -> bool,
) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    // The test cannot see names of a file that are below a mount.
    let hidden: BTreeSet<&String> = wanted
        .iter()
        .filter(|(path, _)| {
            let covered = |at: &str| seen.get(at).is_some_and(|it| it.kind == Kind::Mount);
            made == Made::Reused && parents(path).any(covered)
        })
        .map(|(_, entry)| &entry.group)
        .collect();
    for (path, entry) in wanted {
        let covered = |at: &str| seen.get(at).is_some_and(|it| it.kind == Kind::Mount);
        if made == Made::Reused && (spared(path) || parents(path).any(covered)) {
            continue;
        }
        let Some(there) = seen.get(path) else {
            found.push(("missing", path.clone()));
            continue;
        };
        for what in entry_differs(entry, there, made) {
            found.push((what.0, format!("{path} ({})", what.1)));
        }
        // The comparison ignores additional names that a service gave to a file.
        let group =
            if made == Made::New { there.group.clone() } else { group_in(wanted, seen, there) };
        let is_link = entry.kind == Kind::File && there.kind == Kind::File;
        if is_link && group != entry.group && !hidden.contains(&entry.group) {
            let text = format!("{path} (is a link of {group}, wanted {})", entry.group);
            found.push(("links", text));
        }
    }
    if made == Made::New {
        let extra = seen.keys().filter(|path| !wanted.contains_key(*path));
        found.extend(extra.map(|path| ("extra", path.clone())));
    }
    found
}

/// The path itself, and all directories above it.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at);
    ends.chain([path.len()]).map(|end| &path[..end])
}

/// The first wanted name that has the same inode as `entry`.
fn group_in(wanted: &Tree, seen: &Tree, entry: &Entry) -> String {
    let same = |path: &&String| {
        seen.get(*path).is_some_and(|it| it.group == entry.group && it.kind == Kind::File)
    };
    wanted.keys().find(same).cloned().unwrap_or_default()
}

fn entry_differs(wanted: &Entry, seen: &Entry, made: Made) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if wanted.kind != seen.kind {
        return vec![("kind", format!("is {:?}, wanted {:?}", seen.kind, wanted.kind))];
    }
    if wanted.body != seen.body {
        let what = if wanted.kind == Kind::Symlink { "target" } else { "contents" };
        found.push((what, format!("is {}, wanted {}", short(&seen.body), short(&wanted.body))));
    }
    let (a, b) = (&wanted.meta, &seen.meta);
    if a.mode != b.mode {
        found.push(("mode", format!("is {:o}, wanted {:o}", b.mode, a.mode)));
    }
    if (a.uid, a.gid) != (b.uid, b.gid) {
        found.push(("owner", format!("is {}:{}, wanted {}:{}", b.uid, b.gid, a.uid, a.gid)));
    }
    // The time of a directory changes when a service makes files in it.
    if a.mtime != b.mtime && !(made == Made::Reused && wanted.kind == Kind::Directory) {
        found.push(("mtime", format!("is {:?}, wanted {:?}", b.mtime, a.mtime)));
    }
    if a.xattrs != b.xattrs {
        let names = |meta: &Meta| meta.xattrs.keys().cloned().collect::<Vec<_>>().join(" ");
        found.push(("attributes", format!("are {:?}, wanted {:?}", names(b), names(a))));
    }
    found
}

fn short(bytes: &[u8]) -> String {
    let end = bytes.len().min(24);
    format!("{} bytes \"{}\"", bytes.len(), bytes[..end].escape_ascii())
}
