//! Defines trees. A tree has the node at each path of a root, without the contents of files. This
//! module does not use the disk.
//!
//! The clones of a tree share each directory until one of the clones changes the directory. So the
//! tree after each layer can be kept in memory, and a comparison of two trees can skip the shared
//! parts.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::inode_meta::{Meta, Mtime};
use crate::layer::entry::{Content, Device, EntryPath, lossy};

/// The mode of a directory for which no layer has an entry.
const IMPLIED_MODE: u32 = 0o755;

/// The nodes at all paths of a root.
#[derive(Debug, Clone)]
pub struct Tree {
    pub(super) root: Arc<Directory>,
    /// Whether an entry describes the root itself.
    described: bool,
    /// Whether a rule sets the owner of the root itself.
    owned: bool,
}

/// A directory and its entries.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The metadata of the directory.
    pub meta: Meta,
    pub(super) children: BTreeMap<Arc<[u8]>, Node>,
}

/// The node at a path.
#[derive(Debug, Clone)]
pub enum Node {
    /// A directory.
    Directory(Arc<Directory>),
    /// A name of a file. Names with the same `Arc` are hardlinks to one inode.
    File(Arc<File>),
    /// A symlink.
    Symlink(Arc<Symlink>),
    /// A fifo or device.
    Special(Arc<Special>),
}

/// The inode of a regular file.
#[derive(Debug)]
pub struct File {
    /// The length in bytes.
    pub size: u64,
    /// The digest of the file's contents.
    pub content: Content,
    /// The metadata of the inode.
    pub meta: Meta,
    linked: AtomicBool,
}

/// A symlink.
#[derive(Debug, PartialEq, Eq)]
pub struct Symlink {
    /// The target, byte for byte.
    pub target: Box<[u8]>,
    /// The owner and the time of the symlink.
    pub meta: Meta,
}

/// A fifo or device.
#[derive(Debug, PartialEq, Eq)]
pub struct Special {
    /// The kind.
    pub kind: SpecialKind,
    /// The metadata of the inode.
    pub meta: Meta,
}

/// The kinds of files that are not regular files, directories or symlinks. There are no sockets,
/// because tar archives have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialKind {
    /// A fifo.
    Fifo,
    /// A character device.
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
}

impl File {
    /// Makes the inode of a file that has one name.
    pub fn new(size: u64, content: Content, meta: Meta) -> Self {
        Self { size, content, meta, linked: AtomicBool::new(false) }
    }

    /// Whether the file has, or once had, several names.
    pub fn is_linked(&self) -> bool {
        self.linked.load(Ordering::Relaxed)
    }

    pub(super) fn set_linked(&self) {
        self.linked.store(true, Ordering::Relaxed);
    }

    /// Whether `other` has the same size, contents and metadata.
    pub fn equals(&self, other: &Self) -> bool {
        (self.size, self.content, &self.meta) == (other.size, other.content, &other.meta)
    }
}

impl Default for Tree {
    fn default() -> Self {
        let root = Directory { meta: Directory::implied(Mtime::default()), ..Directory::default() };
        Self { root: Arc::new(root), described: false, owned: false }
    }
}

impl Tree {
    /// Sets the metadata of the root itself.
    pub(super) fn describe(&mut self, meta: Meta) {
        Arc::make_mut(&mut self.root).meta = meta;
        self.described = true;
    }

    /// Sets the owner of a root that no entry describes.
    pub(super) fn describe_owner(&mut self, meta: Meta) {
        Arc::make_mut(&mut self.root).meta = meta;
        self.owned = true;
    }

    /// Whether an entry or a rule sets the owner of the root itself.
    pub fn has_owner(&self) -> bool {
        self.owned || self.described
    }

    /// Whether an entry describes the root itself. Without such an entry, the root has the metadata
    /// [`Directory::implied`] and the owner that the rules state. Its mtime is the time at which
    /// the root is made.
    pub fn is_described(&self) -> bool {
        self.described
    }

    /// The root directory.
    pub fn root(&self) -> &Arc<Directory> {
        &self.root
    }

    /// Whether `other` is the same tree in memory, not just an equal tree.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.root, &other.root)
    }

    /// All paths with their nodes. A directory comes directly before its contents.
    pub fn walk(&self) -> Walk<'_> {
        Walk { open: vec![(EntryPath::root(), self.root.children.iter())] }
    }

    /// The node at `path`; `None` for the root itself.
    pub fn get(&self, path: &EntryPath) -> Option<&Node> {
        let mut parts = path.parts().peekable();
        let mut directory = &self.root;
        while let Some(part) = parts.next() {
            match (directory.children.get(part)?, parts.peek()) {
                (node, None) => return Some(node),
                (Node::Directory(below), Some(_)) => directory = below,
                _ => return None,
            }
        }
        None
    }

    /// Returns the directory at `path` for changes. The directory must exist.
    pub(super) fn directory_mut(&mut self, path: &EntryPath) -> &mut Directory {
        let mut directory = Arc::make_mut(&mut self.root);
        for part in path.parts() {
            let Some(Node::Directory(below)) = directory.children.get_mut(part) else {
                unreachable!("the path was resolved to a directory");
            };
            directory = Arc::make_mut(below);
        }
        directory
    }

    /// The number of paths in the tree.
    pub fn len(&self) -> usize {
        let (mut count, mut open) = (0, vec![&*self.root]);
        while let Some(directory) = open.pop() {
            count += directory.count();
            open.extend(directory.children.values().filter_map(|node| match node {
                Node::Directory(below) => Some(&**below),
                _ => None,
            }));
        }
        count
    }

    /// Whether the tree has no paths.
    pub fn is_empty(&self) -> bool {
        self.root.children.is_empty()
    }

    /// Formats the tree for people and tests, with one line for each path.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut first: HashMap<*const File, EntryPath> = HashMap::new();
        for (path, node) in self.walk() {
            let name = lossy(path.as_bytes());
            let line = match node {
                Node::Directory(directory) => format!("{name}/ {}", meta_text(&directory.meta)),
                Node::File(file) => match first.get(&Arc::as_ptr(file)) {
                    Some(other) => format!("{name} = {other}"),
                    None => {
                        first.insert(Arc::as_ptr(file), path);
                        let File { size, content, meta, .. } = &**file;
                        let content = &content.to_string()[..8];
                        format!("{name} {size} {content} {}", meta_text(meta))
                    }
                },
                Node::Symlink(link) => {
                    format!("{name} -> {} {}", lossy(&link.target), meta_text(&link.meta))
                }
                Node::Special(special) => {
                    format!("{name} {:?} {}", special.kind, meta_text(&special.meta))
                }
            };
            writeln!(text, "{line}").expect("a string takes any text");
        }
        text
    }
}

impl Directory {
    /// The metadata of a directory for which no layer has an entry. The user root owns such a
    /// directory, and every user may enter it.
    pub(super) fn implied(mtime: Mtime) -> Meta {
        Meta { mode: IMPLIED_MODE, uid: 0, gid: 0, mtime, xattrs: Box::default() }
    }

    /// The names in the directory with their nodes, in byte order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Node)> {
        self.children.iter().map(|(name, node)| (&**name, node))
    }

    /// The number of names in the directory.
    pub(super) fn count(&self) -> usize {
        self.children.len()
    }

    /// The node of `name`.
    pub fn get(&self, name: &[u8]) -> Option<&Node> {
        self.children.get(name)
    }
}

/// The iterator of [`Tree::walk`].
#[derive(Debug)]
pub struct Walk<'a> {
    open: Vec<(EntryPath, Children<'a>)>,
}

type Children<'a> = btree_map::Iter<'a, Arc<[u8]>, Node>;

impl<'a> Iterator for Walk<'a> {
    type Item = (EntryPath, &'a Node);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, rest) = self.open.last_mut()?;
            let Some((name, node)) = rest.next() else {
                self.open.pop();
                continue;
            };
            let path = path.join(name);
            if let Node::Directory(directory) = node {
                self.open.push((path.clone(), directory.children.iter()));
            }
            return Some((path, node));
        }
    }
}

fn meta_text(meta: &Meta) -> String {
    format!("{:o} {}:{} {}", meta.mode, meta.uid, meta.gid, meta.mtime.seconds)
}
