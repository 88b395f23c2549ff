//! A tree: what stands at each path of a root, without the contents. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::layer::entry::{Content, Device, EntryPath, lossy};
use crate::meta::Meta;

/// What stands at each path. The root itself is not in it.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    pub(super) nodes: BTreeMap<EntryPath, Node>,
    pub(super) files: Vec<File>,
}

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory(Meta),
    /// A name of a file; names with equal numbers are links to one inode.
    File(FileId),
    /// A symlink.
    Symlink {
        /// Its target, byte for byte.
        target: Box<[u8]>,
        /// Its owner and time.
        meta: Meta,
    },
    /// A fifo or device.
    Special {
        /// Which.
        kind: Special,
        /// What its inode carries.
        meta: Meta,
    },
}

/// Number of a file in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub(super) u32);

/// The inode of a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Length in bytes.
    pub size: u64,
    /// BLAKE3 of the contents.
    pub content: Content,
    /// What the inode carries.
    pub meta: Meta,
}

/// A node that is neither file, directory nor symlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Special {
    Fifo,
    CharDevice(Device),
    BlockDevice(Device),
}

impl Tree {
    /// All paths with what stands there; a directory comes right before what is in it.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&EntryPath, &Node)> {
        self.nodes.iter()
    }

    /// What stands at `path`.
    pub fn get(&self, path: &EntryPath) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// The inode of a file.
    pub fn file(&self, id: FileId) -> &File {
        &self.files[id.0 as usize]
    }

    /// Number of paths.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// One line for each path, for people and tests.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut first: BTreeMap<FileId, &EntryPath> = BTreeMap::new();
        for (path, node) in &self.nodes {
            let name = lossy(path.as_bytes());
            let line = match node {
                Node::Directory(meta) => format!("{name}/ {}", meta_text(meta)),
                Node::File(id) => match first.get(id) {
                    Some(other) => format!("{name} = {other}"),
                    None => {
                        first.insert(*id, path);
                        let File { size, content, meta } = self.file(*id);
                        let content = &content.to_string()[..8];
                        format!("{name} {size} {content} {}", meta_text(meta))
                    }
                },
                Node::Symlink { target, meta } => {
                    format!("{name} -> {} {}", lossy(target), meta_text(meta))
                }
                Node::Special { kind, meta } => format!("{name} {kind:?} {}", meta_text(meta)),
            };
            writeln!(text, "{line}").expect("a string takes any text");
        }
        text
    }
}

fn meta_text(meta: &Meta) -> String {
    format!("{:o} {}:{} {}", meta.mode, meta.uid, meta.gid, meta.mtime.seconds)
}
