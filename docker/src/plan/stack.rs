//! Adds the layers to the tree one after another.

use std::collections::{HashMap, HashSet};
use std::mem::size_of;

use deploy_store::layer::entry::lossy;

use super::path_tree::{At, ENTRY, Link, MARK, Node, ROOT, Tree, bad};
use super::resolve_links::{Missing, Resolved};
use crate::error::Result;
use crate::read::listing::{Member, Sort};

/// The prefix of the names of whiteouts. docker and OCI adopted this prefix from aufs.
const WHITEOUT: &[u8] = b".wh.";
/// The name of the entry that marks its directory as opaque. An opaque directory hides all entries
/// of lower layers in this directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The directory in which aufs kept files with several names.
const PLINKS: &[u8] = b".wh..wh.plnk/";

impl Tree<'_> {
    /// Adds the layer with the number `layer`, counted from 0.
    pub(super) fn stack(&mut self, layer: u16) -> Result<()> {
        let listing = self.layers[usize::from(layer)].listing;
        self.charge(listing.len() * size_of::<u32>())?;
        self.places.push(vec![MARK; listing.len()]);
        let marks = || listing.members().filter(|member| is_mark(last(member.path)));
        // If the directory of a whiteout is new in this layer, this directory may replace a
        // symlink. In that case, the whiteout does not apply to the former target of the symlink.
        let mut own = HashSet::new();
        if marks().next().is_some() {
            let directories = listing.members().filter(|member| member.sort == Sort::Directory);
            own.extend(directories.map(|member| member.path.to_vec()));
        }
        // A whiteout applies to the lower layers, wherever it is in the tar.
        for (number, member) in (0_u32..).zip(listing.members()) {
            if is_mark(last(member.path)) {
                self.mark(layer, number, &member, &own)?;
            }
        }
        let mut plinks = HashMap::new();
        for (number, member) in (0_u32..).zip(listing.members()) {
            if member.sort == Sort::File && member.path.starts_with(PLINKS) {
                self.charge(ENTRY)?;
                plinks.insert(member.path, number);
            }
        }
        for (number, member) in (0_u32..).zip(listing.members()) {
            if !is_mark(last(member.path)) && !is_below_aufs(member.path) {
                let place = self.put((layer, number), &member, &plinks)?;
                self.places[usize::from(layer)][number as usize] = place;
            }
        }
        Ok(())
    }

    /// Records in the tree which paths a whiteout removes. `own` has the paths of the directories
    /// in the layer of the whiteout.
    fn mark(
        &mut self,
        layer: u16,
        number: u32,
        member: &Member<'_>,
        own: &HashSet<Vec<u8>>,
    ) -> Result<()> {
        let (dir, name) = split(member.path);
        let victim = match name {
            OPAQUE => None,
            _ if name.starts_with(b".wh..wh.") => return Ok(()),
            _ => match &name[WHITEOUT.len()..] {
                b"" | b"." | b".." => {
                    return Err(bad(layer, member.path, "is a whiteout without a name"));
                }
                name => Some(name),
            },
        };
        let resolved = self.resolve_links((layer, number), member.path, dir, Missing::Ends(own))?;
        let Some(Resolved { dir, .. }) = resolved else { return Ok(()) };
        match victim {
            None => self.node_mut(dir).hidden = layer + 1,
            Some(name) => {
                if let Some(child) = self.node(dir).children.get(name).copied() {
                    self.node_mut(child).removed = layer + 1;
                }
            }
        }
        Ok(())
    }

    /// Puts a member into the tree and returns its node. `plinks` has this layer's files in the
    /// private directory of aufs. Hardlinks of the layer lead to these files.
    fn put(&mut self, at: At, member: &Member<'_>, plinks: &HashMap<&[u8], u32>) -> Result<u32> {
        if member.path.is_empty() {
            return Ok(ROOT);
        }
        let (dir, name) = split(member.path);
        let (layer, _) = at;
        if dir.split(|byte| *byte == b'/').any(is_mark) {
            return Err(bad(layer, member.path, "is below a whiteout"));
        }
        let (mut sort, mut inode) = (member.sort, at);
        if let Some(number) = plinks.get(member.link)
            && sort == Sort::Hardlink
        {
            // The first hardlink to the file becomes the file itself.
            self.charge(size_of::<Link>())?;
            (sort, inode) = (Sort::File, (layer, *number));
            self.links.push(Link { at, name: inode, inode, through: None });
        } else if sort == Sort::Hardlink {
            let (target, through) = self.target(at, member)?;
            self.charge(size_of::<Link>())?;
            let Node { sort: own, inode: of, name, .. } = *self.node(target);
            (sort, inode) = (own, of);
            self.links.push(Link { at, name, inode, through: through.then_some(target) });
        }
        let Resolved { dir, through } =
            self.resolve_links(at, member.path, dir, Missing::Made)?.expect("it was made");
        if through {
            self.moved.push(at);
        }
        let here = self.child(dir, name)?;
        let before = self.sort(here);
        let node = self.node_mut(here);
        if node.layer <= layer && before.is_some_and(|before| before != sort) {
            // Some unpackers cannot replace an entry by an entry of another kind. So the plan
            // leaves out the earlier entry.
            node.removed = layer + 1;
        }
        (node.layer, node.sort, node.inode, node.name) = (layer + 1, sort, inode, at);
        Ok(here)
    }

    /// The file that lower layers have at a path, even if this layer removes the path. A layer may
    /// remove a name of a file and also have a hardlink to this name.
    fn before(&self, layer: u16, path: &[u8]) -> Option<u32> {
        let earlier = |number: u16| if number == layer + 1 { 0 } else { number };
        let (mut here, mut emptied) = (ROOT, 0);
        for part in path.split(|byte| *byte == b'/') {
            let node = self.node(here);
            emptied = emptied.max(earlier(node.removed)).max(earlier(node.hidden));
            here = *node.children.get(part)?;
        }
        let node = self.node(here);
        let below = node.layer > 0 && node.layer <= layer;
        let is_there = node.layer >= emptied.max(earlier(node.removed));
        let is_file = matches!(node.sort, Sort::File | Sort::Symlink);
        (below && is_there && is_file).then_some(here)
    }

    /// The node that a hardlink leads to, and whether the path to this node leads through symlinks.
    fn target(&mut self, at: At, member: &Member<'_>) -> Result<(u32, bool)> {
        let (dir, name) = split(member.link);
        let resolved = self.resolve_links(at, member.path, dir, Missing::Ends(&HashSet::new()))?;
        let through = resolved.as_ref().is_some_and(|resolved| resolved.through);
        let found =
            resolved.and_then(|resolved| self.node(resolved.dir).children.get(name).copied());
        match found.map(|found| (found, self.sort(found))) {
            Some((found, Some(Sort::File | Sort::Symlink))) => Ok((found, through)),
            found => {
                if let Some(before) = self.before(at.0, member.link) {
                    return Ok((before, false));
                }
                let target = lossy(member.link);
                let why = if found.is_some_and(|(_, sort)| sort.is_some()) {
                    "which is not a file"
                } else {
                    "which no layer has"
                };
                let reason = format!("is a hardlink to {target:?}, {why}");
                Err(bad(at.0, member.path, reason))
            }
        }
    }
}

fn is_mark(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT)
}

/// Whether a path leads through a directory that aufs used for itself.
fn is_below_aufs(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh..wh."))
}

fn last(path: &[u8]) -> &[u8] {
    split(path).1
}

/// Splits a path into its directory and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
