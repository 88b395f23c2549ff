//! Changes a directory from one tree to another tree. No other process can enter the directory.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use super::diff::{Step, diff};
use super::paths::{c_name, open_dir, open_parent};
use super::placer::Placer;
use super::placing::{Built, LinkMode, Placement, Uses};
use super::tree::{File, Node, Tree};
use crate::disk::{self, Dir};
use crate::error::Result;
use crate::layer::entry::EntryPath;
use crate::layer::objects::Objects;

/// Changes `root` from `old` to `new`. For each object, `uses` has the number of files of `root`
/// that use the object. If the change is interrupted, `root` may match neither tree.
pub fn apply(
    old: &Tree,
    new: &Tree,
    objects: &Objects,
    placement: Placement,
    root: &Dir,
    uses: &mut Uses,
) -> Result<Built> {
    let steps = diff(old, new, placement.mode != LinkMode::Hardlink);
    let placer = Placer::changing(objects, placement, root, new, uses);
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

/// Replaces the files at `paths` in `root`, which holds `tree`, with newly placed files. If a file
/// at one of these paths has several names, all names of the file are replaced.
pub fn replace(
    tree: &Tree,
    paths: &BTreeSet<EntryPath>,
    objects: &Objects,
    placement: Placement,
    root: &Dir,
    uses: &mut Uses,
) -> Result<Built> {
    let mut linked = HashSet::new();
    let mut all = paths.clone();
    paths.iter().filter_map(|path| tree.get(path)).for_each(|node| linked_files(node, &mut linked));
    if !linked.is_empty() {
        all.extend(tree.walk().filter_map(|(path, node)| match node {
            Node::File(file) if linked.contains(&Arc::as_ptr(file)) => Some(path),
            _ => None,
        }));
    }
    let placer = Placer::changing(objects, placement, root, tree, uses);
    for path in &all {
        let (dir, name) = open_parent(root, path)?;
        dir.as_ref().unwrap_or(root).remove_file(&name)?;
        tree.get(path).into_iter().for_each(|node| placer.forget(node));
    }
    let mut parents = BTreeSet::new();
    for path in &all {
        let (Some((parent, name)), Some(node)) = (path.split(), tree.get(path)) else { continue };
        let dir = open_dir(root, &parent)?;
        placer.place(dir.as_ref().unwrap_or(root), &parent, name, node)?;
        parents.insert(parent);
    }
    for parent in parents {
        if let (Some(dir), Some(Node::Directory(directory))) =
            (open_dir(root, &parent)?, tree.get(&parent))
        {
            placer.finish_directory(&dir, &directory.meta)?;
        }
    }
    Ok(placer.finish())
}

/// For each file with several names that gets a new name in `steps`, finds the names that the steps
/// do not change.
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

/// Adds to `into` all files in `node` that have several names.
pub(super) fn linked_files(node: &Node, into: &mut HashSet<*const File>) {
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
