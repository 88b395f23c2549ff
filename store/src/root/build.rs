//! Builds a tree in an empty directory.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::paths::open_parent;
use super::placer::Placer;
use super::placing::{Built, Placement, Uses};
use super::tree::{File, Node, Tree};
use crate::disk::Dir;
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;
use crate::layer::objects::Objects;
use crate::layer::objects::object_name::ObjectName;

/// The maximum number of threads. More threads would only wait for the filesystem's locks.
const MOST: usize = 4;
/// The stack size of each thread in bytes. The build is recursive, so each thread needs a large
/// stack.
const STACK: usize = 64 << 20;

/// The objects that a tree needs. For each file that needs an object, the result has the path, the
/// name of the object, and the file.
pub fn objects_of<'a>(
    tree: &'a Tree,
    objects: &'a Objects,
) -> impl Iterator<Item = (EntryPath, ObjectName, &'a Arc<File>)> {
    let files = tree.walk().filter_map(|(path, node)| match node {
        Node::File(file) if file.size > 0 => Some((path, file)),
        _ => None,
    });
    files.map(|(path, file)| (path, objects.name(file.content, &file.meta, 0), file))
}

/// Builds `tree` in the empty directory `into`. The build does not set the metadata of `into`
/// itself.
pub fn build(
    tree: &Tree,
    objects: &Objects,
    placement: Placement,
    into: &Dir,
) -> Result<(Built, Uses)> {
    let mut uses = Uses::default();
    let placer = Placer::new(objects, placement, into, tree, &mut uses);
    threads()?.install(|| placer.fill_root(tree.root()))?;
    Ok((placer.finish(), uses))
}

/// Starts threads for one root. The threads inherit the priority of the caller.
fn threads() -> Result<ThreadPool> {
    let count = std::thread::available_parallelism().map_or(1, usize::from).min(MOST);
    let pool = ThreadPoolBuilder::new().num_threads(count).stack_size(STACK).build();
    pool.map_err(|err| Error::io("start", "threads", std::io::Error::other(err)))
}

/// Makes an object of each twin, so that the next root can link to the object. A twin is a file
/// that was copied because equal files of the root are already hardlinks to the existing objects
/// with these contents. `root` is the built and synced directory.
pub fn adopt_twins(built: &Built, objects: &Objects, root: &Dir) -> Result<()> {
    for (name, path) in &built.twins {
        let adopted = open_parent(root, path)
            .and_then(|(dir, file)| objects.adopt(name, dir.as_ref().unwrap_or(root), &file));
        match adopted {
            // The mode of the directory denies access to its owner, so the next root gets a copy of
            // the file again.
            Err(err) if err.is_denied() => {}
            other => other?,
        }
    }
    Ok(())
}
