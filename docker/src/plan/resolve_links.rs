//! Resolves paths in the tree, and follows symlinks.

use std::collections::HashSet;

use super::path_tree::{At, IMPLIED, Node, ROOT, Tree, bad};
use crate::error::{Error, Result};
use crate::read::listing::Sort;

/// The maximum number of symlinks that are followed for one path.
const MAX_SYMLINKS: usize = 40;

/// The action for a missing directory within a path.
#[derive(Clone, Copy)]
pub(super) enum Missing<'a> {
    /// The directory is made, as an unpacker would make it.
    Made,
    /// The resolution ends without a result. The set has the paths of the directories in the layer
    /// itself. A symlink at such a path also ends the resolution, because a directory of the layer
    /// replaces the symlink.
    Ends(&'a HashSet<Vec<u8>>),
}

/// The directory that a path leads to.
pub(super) struct Resolved {
    pub dir: u32,
    /// Whether the path led through symlinks.
    pub through: bool,
}

impl Tree<'_> {
    /// Finds the directory that `dir` leads to. Symlinks are followed within the root.
    pub(super) fn resolve_links(
        &mut self,
        at: At,
        path: &[u8],
        dir: &[u8],
        missing: Missing<'_>,
    ) -> Result<Option<Resolved>> {
        let (layer, _) = at;
        let mut ahead = parts_backwards(dir, false);
        let (mut here, mut emptied) = (ROOT, self.emptied(ROOT));
        let mut symlinks = 0;
        while let Some((part, linked)) = ahead.pop() {
            self.steps = self.steps.saturating_sub(1);
            if self.steps == 0 {
                return Err(Error::archive("has paths that take too many steps to follow"));
            }
            match &*part {
                b"." => continue,
                b".." => {
                    here = self.node(here).parent;
                    emptied = self.emptied(here);
                    continue;
                }
                _ => {}
            }
            let known = self.node(here).children.get(&*part).copied();
            let found = known.and_then(|known| Some((known, self.sort_in(emptied, known)?)));
            match found {
                Some((next, Sort::Directory)) => {
                    let Node { removed, hidden, .. } = *self.node(next);
                    (here, emptied) = (next, emptied.max(removed).max(hidden));
                }
                Some((next, Sort::Symlink)) => {
                    if let Missing::Ends(own) = missing
                        && !own.is_empty()
                        && own.contains(&self.path(next))
                    {
                        return Ok(None);
                    }
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(bad(layer, path, "leads through too many symlinks"));
                    }
                    let (of, member) = self.node(next).inode;
                    let target = self.layers[usize::from(of)].listing.member(member as usize).link;
                    if target.starts_with(b"/") {
                        (here, emptied) = (ROOT, self.emptied(ROOT));
                    }
                    ahead.extend(parts_backwards(target, true));
                }
                _ if !matches!(missing, Missing::Made) => return Ok(None),
                _ if linked => {
                    return Err(bad(
                        layer,
                        path,
                        "leads through a symlink whose target is missing or is not a directory",
                    ));
                }
                Some((next, _)) if self.node(next).layer > layer => {
                    return Err(bad(layer, path, "is below a path that is not a directory"));
                }
                other => {
                    here = self.imply(layer, here, &part, other.is_some())?;
                    let Node { removed, hidden, .. } = *self.node(here);
                    emptied = emptied.max(removed).max(hidden);
                }
            }
        }
        Ok(Some(Resolved { dir: here, through: symlinks > 0 }))
    }
    /// Makes a directory for which no layer has an entry. `replaces` states whether the directory
    /// replaces an entry of another kind.
    fn imply(&mut self, layer: u16, dir: u32, part: &[u8], replaces: bool) -> Result<u32> {
        let made = self.child(dir, part)?;
        let node = self.node_mut(made);
        if replaces {
            node.removed = layer + 1;
        }
        (node.layer, node.sort) = (layer + 1, Sort::Directory);
        (node.inode, node.name) = (IMPLIED, IMPLIED);
        Ok(made)
    }
}

/// The parts of a path in reverse order. The flag of each part is `linked`, which states whether
/// the path is the target of a symlink.
fn parts_backwards(path: &[u8], linked: bool) -> Vec<(Box<[u8]>, bool)> {
    let parts = path.split(|byte| *byte == b'/').rev();
    parts.filter(|part| !part.is_empty()).map(|part| (part.into(), linked)).collect()
}
