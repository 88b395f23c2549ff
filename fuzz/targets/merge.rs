//! Merges layers of arbitrary entries. The merged tree must equal the tree of a naive model, which
//! keeps a map from paths to nodes and adds one entry after another.
#![no_main]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use deploy_store::layer::entry::{Content, Device, Entry, EntryPath, Kind};
use deploy_store::layer::index::Index;
use deploy_store::root::merge::{check, merge};
use deploy_store::root::tree::{Node as TreeNode, Tree};
use deploy_store::{Limits, Meta};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const HOPS: u32 = 40;

#[derive(Clone)]
enum Node {
    Directory(u32),
    /// A file. The value is the number of the file's inode.
    File(usize),
    Symlink(String),
    Special,
}

/// A naive filesystem. `nodes` maps each path to its node. The root's path is empty, and is not in
/// the map.
#[derive(Default)]
struct Model {
    nodes: BTreeMap<String, Node>,
    inodes: usize,
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

impl Model {
    /// Finds the directory that `path` leads to from `at`. The function follows symlinks as in a
    /// chroot.
    fn walk(&self, at: &str, path: &str, hops: &mut u32) -> Option<String> {
        let mut at = if path.starts_with('/') { String::new() } else { at.to_owned() };
        for part in path.split('/') {
            if part.is_empty() || part == "." {
                continue;
            }
            if part == ".." {
                at = parent(&at).to_owned();
                continue;
            }
            let next = join(&at, part);
            at = match self.nodes.get(&next)? {
                Node::Directory(_) => next,
                Node::Symlink(target) => {
                    *hops += 1;
                    if *hops > HOPS {
                        return None;
                    }
                    self.walk(&at, target, hops)?
                }
                _ => return None,
            };
        }
        Some(at)
    }

    fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|other, _| other != path && !other.starts_with(&below));
    }

    fn set(&mut self, path: &str, node: Node) {
        self.remove(path);
        self.nodes.insert(path.to_owned(), node);
    }

    /// Adds one entry. Returns `None` if the entry cannot be added.
    fn put(&mut self, entry: &Entry) -> Option<()> {
        let path = text(&entry.path);
        let (directories, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let mut at = String::new();
        for part in directories.split('/').filter(|part| !part.is_empty()) {
            let next = join(&at, part);
            at = match self.nodes.get(&next) {
                None => {
                    self.nodes.insert(next.clone(), Node::Directory(0o755));
                    next
                }
                Some(Node::Directory(_)) => next,
                Some(Node::Symlink(_)) => self.walk(&at, part, &mut 0)?,
                Some(_) => return None,
            };
        }
        let path = join(&at, name);
        match &entry.kind {
            Kind::Directory => match self.nodes.get(&path) {
                Some(Node::Directory(_)) => {
                    self.nodes.insert(path, Node::Directory(entry.meta.mode));
                }
                Some(Node::Symlink(_)) if let Some(behind) = self.walk(&at, name, &mut 0) => {
                    if !behind.is_empty() {
                        self.nodes.insert(behind, Node::Directory(entry.meta.mode));
                    }
                }
                _ => self.set(&path, Node::Directory(entry.meta.mode)),
            },
            Kind::File { .. } => {
                self.inodes += 1;
                self.set(&path, Node::File(self.inodes));
            }
            Kind::Symlink(target) => {
                self.set(&path, Node::Symlink(String::from_utf8_lossy(target).into_owned()));
            }
            Kind::Hardlink(target) => {
                let target = text(target);
                let name = target.rsplit('/').next()?;
                let from = join(&self.walk("", parent(&target), &mut 0)?, name);
                let node = self.nodes.get(&from)?.clone();
                if !matches!(node, Node::File(_) | Node::Symlink(_)) {
                    return None;
                }
                if from != path {
                    self.set(&path, node);
                }
            }
            _ => self.set(&path, Node::Special),
        }
        Some(())
    }

    fn lines(&self) -> Vec<String> {
        let mut groups = HashMap::new();
        let line = |(path, node): (&String, &Node)| match node {
            Node::Directory(mode) => format!("{path} d {mode:o}"),
            Node::File(inode) => format!("{path} f {}", group(&mut groups, *inode)),
            Node::Symlink(target) => format!("{path} l {target}"),
            Node::Special => format!("{path} s"),
        };
        let mut lines: Vec<String> = self.nodes.iter().map(line).collect();
        lines.sort();
        lines
    }
}

/// The number of the inode in `groups`. A new inode gets the next number, from 0.
fn group(groups: &mut HashMap<usize, usize>, inode: usize) -> usize {
    let next = groups.len();
    *groups.entry(inode).or_insert(next)
}

fn lines(tree: &Tree) -> Vec<String> {
    let mut by_path: Vec<(String, &TreeNode)> =
        tree.walk().map(|(path, node)| (text(&path), node)).collect();
    by_path.sort_by(|one, other| one.0.cmp(&other.0));
    let mut groups = HashMap::new();
    let line = |(path, node): (String, &TreeNode)| match node {
        TreeNode::Directory(directory) => format!("{path} d {:o}", directory.meta.mode),
        TreeNode::File(file) => {
            format!("{path} f {}", group(&mut groups, Arc::as_ptr(file).addr()))
        }
        TreeNode::Symlink(link) => format!("{path} l {}", String::from_utf8_lossy(&link.target)),
        TreeNode::Special(_) => format!("{path} s"),
    };
    let mut lines: Vec<String> = by_path.into_iter().map(line).collect();
    lines.sort();
    lines
}

fn text(path: &EntryPath) -> String {
    String::from_utf8_lossy(path.as_bytes()).into_owned()
}

fn path(bytes: &mut Unstructured<'_>) -> Result<EntryPath> {
    let count = bytes.int_in_range(1..=4)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(*bytes.choose(&["a", "b", "c"])?);
    }
    Ok(EntryPath::from_archive(parts.join("/").as_bytes(), Limits::STANDARD).expect("a path"))
}

fn entry(bytes: &mut Unstructured<'_>) -> Result<Entry> {
    let path = path(bytes)?;
    let kind = match bytes.int_in_range(0..=9)? {
        0..=2 => Kind::Directory,
        3..=5 => {
            // All files have the same content, because two files with equal contents must stay two
            // inodes.
            Kind::File { size: bytes.int_in_range(0..=1)?, content: Content::of(b"") }
        }
        6 | 7 => {
            let targets =
                ["a", "b", "..", "/", "a/b", "../a", "/c", ".", "b/..", "c/c", "../../b", "a/../b"];
            Kind::Symlink(bytes.choose(&targets)?.as_bytes().into())
        }
        8 => Kind::Hardlink(self::path(bytes)?),
        _ => Kind::CharDevice(Device { major: 0, minor: 0 }),
    };
    let mode = *bytes.choose(&[0o755, 0o700, 0o7777])?;
    Ok(Entry { path, kind, meta: Meta { mode, ..Meta::default() } })
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = Unstructured::new(data);
    let mut layers = vec![Index::default()];
    while !bytes.is_empty() {
        let Ok(entry) = entry(&mut bytes) else { break };
        if bytes.ratio(1, 8).unwrap_or(false) {
            layers.push(Index::default());
        }
        layers.last_mut().expect("at least one layer").entries.push(entry);
    }
    let merged = merge(&layers);
    let mut model = Model::default();
    let put = layers.iter().flat_map(|layer| &layer.entries).try_for_each(|entry| model.put(entry));
    match (&merged, put) {
        (Ok(tree), Some(())) => assert_eq!(lines(tree), model.lines(), "{layers:#?}"),
        (Err(_), None) => {}
        (Ok(_), None) => {
            panic!("the merge accepts these layers, but the model does not: {layers:#?}")
        }
        (Err(err), Some(())) => {
            panic!("the model accepts these layers, but the merge does not: {err}, {layers:#?}")
        }
    }
    if let ([layer], Ok(_)) = (&layers[..], &merged) {
        assert!(
            check(layer).is_ok(),
            "the merge accepts this layer, but the check does not: {layer:#?}"
        );
    }
});
