//! Changes a directory that holds one tree so that it holds another. The directory is
//! one that nobody else can enter.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::build::Built;
use super::diff::{Step, diff};
use super::place::{Placement, Placer, Uses, c_name, open_dir};
use super::tree::{File, Node, Tree};
use crate::disk::{self, Dir};
use crate::error::Result;
use crate::layer::entry::EntryPath;
use crate::layer::objects::Objects;
use crate::store::LinkMode;

/// Makes `root`, which holds `old` and of whose files `uses` tells, hold `new`. Stopped
/// half way it holds neither.
pub fn apply(
    old: &Tree,
    new: &Tree,
    objects: &Objects,
    placement: Placement,
    root: &Dir,
    uses: &mut Uses,
) -> Result<Built> {
    let steps = diff(old, new, placement.mode != LinkMode::Hardlink);
    let placer = Placer::changing(objects, placement, root, uses);
    for (file, path) in names_that_stay(new, &steps) {
        placer.knows(file, path);
    }
    let mut open: Option<(EntryPath, Option<Dir>)> = None;
    for step in &steps {
        let path = step.path();
        if let Step::Finish(_, before, now) = step {
            let dir = open_dir(root, path)?;
            let dir = dir.as_ref().unwrap_or(root);
            disk::remove_other_attributes(dir, &before.meta, &now.meta)?;
            placer.finish_directory(dir, &now.meta)?;
            continue;
        }
        let Some((parent, name)) = path.split() else { continue };
        if open.as_ref().is_none_or(|(path, _)| *path != parent) {
            open = Some((parent.clone(), open_dir(root, &parent)?));
        }
        let dir = open.as_ref().and_then(|(_, dir)| dir.as_ref()).unwrap_or(root);
        match step {
            Step::Remove(_, node) => {
                dir.remove_tree(&c_name(name)?)?;
                placer.forget(node);
            }
            Step::Place(_, node) => placer.place(dir, &parent, name, node)?,
            Step::Rewrite(_, file) => placer.rewrite(dir, &c_name(name)?, file)?,
            Step::Finish(..) => unreachable!("directories are finished above"),
        }
    }
    Ok(placer.finish())
}

/// Of files with several names of which one is to be placed, a name that is there
/// already.
fn names_that_stay<'a>(new: &'a Tree, steps: &[Step<'a>]) -> Vec<(&'a Arc<File>, EntryPath)> {
    let mut wanted: HashSet<*const File> = HashSet::new();
    let mut placed: BTreeSet<&EntryPath> = BTreeSet::new();
    for step in steps {
        if let Step::Place(path, node) = step {
            placed.insert(path);
            linked_files(node, &mut wanted);
        }
    }
    if wanted.is_empty() {
        return Vec::new();
    }
    let stays = |path: &EntryPath| {
        let mut above = Some(path.clone());
        while let Some(path) = above {
            if placed.contains(&path) {
                return false;
            }
            above = path.split().map(|(parent, _)| parent);
        }
        true
    };
    let found = new.walk().filter_map(|(path, node)| match node {
        Node::File(file) if wanted.contains(&Arc::as_ptr(file)) => Some((file, path)),
        _ => None,
    });
    found.filter(|(_, path)| stays(path)).collect()
}

fn linked_files(node: &Node, into: &mut HashSet<*const File>) {
    match node {
        Node::Directory(directory) => {
            directory.iter().for_each(|(_, node)| linked_files(node, into));
        }
        Node::File(file) if file.is_linked() => {
            into.insert(Arc::as_ptr(file));
        }
        _ => {}
    }
}
