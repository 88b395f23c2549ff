//! The tree of all paths that any layer has, and which layer has or removes what.

use std::collections::HashMap;
use std::rc::Rc;

use deploy_store::Hasher;
use deploy_store::layer::entry::lossy;

use super::{Layer, Planned, Relink};
use crate::error::{Error, Result};
use crate::listing::{Listing, Member, Sort};

/// What marks a removal (aufs, taken over by docker and OCI).
const WHITEOUT: &[u8] = b".wh.";
/// What hides all that lower layers have in a directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Symlinks on the way to one path.
const MAX_SYMLINKS: usize = 40;
/// The root of the tree.
const ROOT: u32 = 0;

/// A member of a layer; both numbers are from 0.
pub(super) type At = (u16, u32);

/// No member made it: a directory that paths lead through.
const IMPLIED: At = (u16::MAX, u32::MAX);
/// The place of a member that is a mark, and no entry.
const MARK: u32 = u32::MAX;

pub(super) struct Tree<'a> {
    layers: &'a [Layer<'a>],
    nodes: Vec<Node>,
    /// For each member of each layer, the node that it is at.
    places: Vec<Vec<u32>>,
    links: Vec<Link>,
    /// Members whose paths lead through symlinks, in order.
    moved: Vec<At>,
}

/// A path that any of the layers has. Layers are counted from 1 here, 0 is none.
#[derive(Debug)]
struct Node {
    parent: u32,
    part: Rc<[u8]>,
    children: HashMap<Rc<[u8]>, u32>,
    /// The last layer that removes it, and the last that removes what is below it.
    removed: u16,
    hidden: u16,
    /// The last layer that has it, and as what.
    layer: u16,
    sort: Sort,
    /// The member that is its inode, and the one that is its name.
    inode: At,
    name: At,
}

/// A hardlink, the name that it leads to, and the member with the contents.
struct Link {
    at: At,
    name: At,
    inode: At,
    /// The place of the name, if the way there leads through symlinks.
    through: Option<u32>,
}

/// What of a layer's members changes.
struct Changed {
    relinked: Vec<(u32, Relink)>,
    moved: Vec<(u32, Vec<u8>)>,
}

/// Where a path leads to.
struct Led {
    dir: u32,
    /// Whether through symlinks.
    through: bool,
}

impl Node {
    fn new(parent: u32, part: Rc<[u8]>) -> Self {
        Self {
            parent,
            part,
            children: HashMap::new(),
            removed: 0,
            hidden: 0,
            layer: 0,
            sort: Sort::Directory,
            inode: IMPLIED,
            name: IMPLIED,
        }
    }
}

impl<'a> Tree<'a> {
    pub(super) fn new(layers: &'a [Layer<'a>]) -> Self {
        let mut root = Node::new(ROOT, Rc::default());
        // It is there whatever the layers have.
        root.layer = u16::MAX;
        Self { layers, nodes: vec![root], places: Vec::new(), links: Vec::new(), moved: Vec::new() }
    }

    fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// The last layer that removes what earlier ones have at this path.
    fn removed(&self, at: u32) -> u16 {
        let mut node = self.node(at);
        let mut removed = node.removed;
        let mut here = at;
        while here != ROOT {
            here = node.parent;
            node = self.node(here);
            removed = removed.max(node.removed).max(node.hidden);
        }
        removed
    }

    /// What is at the path by now.
    fn sort(&self, at: u32) -> Option<Sort> {
        let node = self.node(at);
        (node.layer > 0 && node.layer >= self.removed(at)).then_some(node.sort)
    }

    /// The path of a node: no part of it is a symlink.
    fn path(&self, at: u32) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut here = at;
        while here != ROOT {
            let node = self.node(here);
            parts.push(&*node.part);
            here = node.parent;
        }
        parts.reverse();
        parts.join(&b'/')
    }

    fn child(&mut self, dir: u32, part: &[u8]) -> u32 {
        if let Some(child) = self.node(dir).children.get(part) {
            return *child;
        }
        let child = u32::try_from(self.nodes.len()).expect("listings have a budget");
        let part: Rc<[u8]> = part.into();
        self.nodes.push(Node::new(dir, Rc::clone(&part)));
        self.node_mut(dir).children.insert(part, child);
        child
    }

    /// Puts the layer with a number from 0 on top.
    pub(super) fn stack(&mut self, layer: u16) -> Result<()> {
        let listing = self.layers[usize::from(layer)].listing;
        self.places.push(vec![MARK; listing.len()]);
        // Marks are for the layers below, wherever in the tar they stand.
        for (number, member) in (0_u32..).zip(listing.members()) {
            if is_mark(last(member.path)) {
                self.mark(layer, number, &member)?;
            }
        }
        for (number, member) in (0_u32..).zip(listing.members()) {
            if !is_mark(last(member.path)) && !is_below_aufs(member.path) {
                let place = self.put((layer, number), &member)?;
                self.places[usize::from(layer)][number as usize] = place;
            }
        }
        Ok(())
    }

    fn mark(&mut self, layer: u16, number: u32, member: &Member<'_>) -> Result<()> {
        let (dir, name) = split(member.path);
        let victim = match name {
            OPAQUE => None,
            _ if name.starts_with(b".wh..wh.") => return Ok(()),
            _ => match &name[WHITEOUT.len()..] {
                b"" | b"." | b".." => {
                    return Err(bad(layer, member.path, "is a whiteout of no name"));
                }
                name => Some(name),
            },
        };
        let led = self.lead((layer, number), member.path, dir, false)?;
        let Some(Led { dir, .. }) = led else { return Ok(()) };
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

    /// Puts a member into the tree and returns its node.
    fn put(&mut self, at: At, member: &Member<'_>) -> Result<u32> {
        if member.path.is_empty() {
            return Ok(ROOT);
        }
        let (dir, name) = split(member.path);
        let (layer, _) = at;
        if dir.split(|byte| *byte == b'/').any(is_mark) {
            return Err(bad(layer, member.path, "is below a whiteout"));
        }
        let (mut sort, mut inode) = (member.sort, at);
        if sort == Sort::Hardlink {
            let (target, through) = self.target(at, member)?;
            let Node { sort: own, inode: of, name, .. } = *self.node(target);
            (sort, inode) = (own, of);
            self.links.push(Link { at, name, inode, through: through.then_some(target) });
        }
        let Led { dir, through } = self.lead(at, member.path, dir, true)?.expect("it was made");
        if through {
            self.moved.push(at);
        }
        let here = self.child(dir, name);
        let before = self.sort(here);
        let node = self.node_mut(here);
        if node.layer <= layer && before.is_some_and(|before| before != sort) {
            // Not everybody who unpacks puts one kind of thing in the place of another.
            node.removed = layer + 1;
        }
        (node.layer, node.sort, node.inode, node.name) = (layer + 1, sort, inode, at);
        Ok(here)
    }

    /// The node that a hardlink leads to, and whether through symlinks.
    fn target(&mut self, at: At, member: &Member<'_>) -> Result<(u32, bool)> {
        let (dir, name) = split(member.link);
        let led = self.lead(at, member.path, dir, false)?;
        let through = led.as_ref().is_some_and(|led| led.through);
        let found = led.and_then(|led| self.node(led.dir).children.get(name).copied());
        match found.map(|found| (found, self.sort(found))) {
            Some((found, Some(sort))) if sort != Sort::Directory => Ok((found, through)),
            _ => {
                let target = lossy(member.link);
                let reason = format!("is a hardlink to {target:?}, which no layer has");
                Err(bad(at.0, member.path, reason))
            }
        }
    }

    /// The directory that `dir` leads to, symlinks followed as within the root. With `make`
    /// what is missing is made, as whoever unpacks does; otherwise it leads nowhere.
    fn lead(&mut self, at: At, path: &[u8], dir: &[u8], make: bool) -> Result<Option<Led>> {
        let (layer, _) = at;
        let parts = |path: &[u8], linked: bool| -> Vec<(Box<[u8]>, bool)> {
            let parts = path.split(|byte| *byte == b'/').rev();
            parts.filter(|part| !part.is_empty()).map(|part| (part.into(), linked)).collect()
        };
        let mut ahead = parts(dir, false);
        let mut here = ROOT;
        let mut symlinks = 0;
        while let Some((part, linked)) = ahead.pop() {
            match &*part {
                b"." => continue,
                b".." => {
                    here = self.node(here).parent;
                    continue;
                }
                _ => {}
            }
            let known = self.node(here).children.get(&*part).copied();
            let found = known.and_then(|known| Some((known, self.sort(known)?)));
            match found {
                Some((next, Sort::Directory)) => here = next,
                Some((next, Sort::Symlink)) => {
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(bad(layer, path, "leads through symlinks in circles"));
                    }
                    let (of, member) = self.node(next).inode;
                    let target = self.layers[usize::from(of)].listing.member(member as usize).link;
                    if target.starts_with(b"/") {
                        here = ROOT;
                    }
                    ahead.extend(parts(target, true));
                }
                _ if !make => return Ok(None),
                _ if linked => {
                    return Err(bad(layer, path, "leads through a symlink to no directory"));
                }
                Some((next, _)) if self.node(next).layer > layer => {
                    return Err(bad(layer, path, "is below something that is no directory"));
                }
                other => {
                    let next = self.child(here, &part);
                    let node = self.node_mut(next);
                    if other.is_some() {
                        node.removed = layer + 1;
                    }
                    (node.layer, node.sort) = (layer + 1, Sort::Directory);
                    (node.inode, node.name) = (IMPLIED, IMPLIED);
                    here = next;
                }
            }
        }
        Ok(Some(Led { dir: here, through: symlinks > 0 }))
    }

    pub(super) fn planned(&self) -> Vec<Planned> {
        // A node comes after the one it is in.
        let mut removed: Vec<u16> = Vec::with_capacity(self.nodes.len());
        for (number, node) in self.nodes.iter().enumerate() {
            let above = if number == 0 { 0 } else { removed[node.parent as usize] };
            let hidden = if number == 0 { 0 } else { self.node(node.parent).hidden };
            removed.push(node.removed.max(above).max(hidden));
        }
        let is_dropped = |at: At| {
            let (place, (layer, _)) = (self.place(at), at);
            place == MARK || removed[place as usize] > layer + 1
        };
        let mut links = self.links.iter().peekable();
        let mut moved = self.moved.iter().peekable();
        (0_u16..)
            .zip(self.layers)
            .map(|(layer, described)| {
                let mut own = Vec::new();
                while let Some(link) = links.next_if(|link| link.at.0 == layer) {
                    own.push(link);
                }
                let relinked = self.relinked(layer, &own, &is_dropped);
                let mut own_moved = Vec::new();
                while let Some(at) = moved.next_if(|at| at.0 == layer) {
                    if !is_dropped(*at) {
                        own_moved.push((at.1, self.path(self.place(*at))));
                    }
                }
                let changed = Changed { relinked, moved: own_moved };
                self.planned_layer(layer, described.listing, changed, &is_dropped)
            })
            .collect()
    }

    fn place(&self, (layer, member): At) -> u32 {
        self.places[usize::from(layer)][member as usize]
    }

    /// What becomes of the hardlinks of a layer whose target is left out.
    fn relinked(
        &self,
        layer: u16,
        links: &[&Link],
        is_dropped: &impl Fn(At) -> bool,
    ) -> Vec<(u32, Relink)> {
        // A name in this layer of each file that has links.
        let mut names: HashMap<At, u32> = HashMap::new();
        let mut relinked = Vec::new();
        for Link { at, name, inode, through } in links.iter().filter(|link| !is_dropped(link.at)) {
            if inode.0 == layer && !is_dropped(*inode) {
                names.entry(*inode).or_insert(inode.1);
            }
            if is_dropped(*name) {
                let relink = match names.get(inode) {
                    Some(other) => Relink::To(self.path(self.place((layer, *other)))),
                    None => Relink::File { layer: inode.0, member: inode.1 },
                };
                relinked.push((at.1, relink));
            } else if let Some(target) = through {
                relinked.push((at.1, Relink::To(self.path(*target))));
            }
            names.entry(*inode).or_insert(at.1);
        }
        relinked
    }

    fn planned_layer(
        &self,
        layer: u16,
        listing: &Listing,
        Changed { relinked, moved }: Changed,
        is_dropped: &impl Fn(At) -> bool,
    ) -> Planned {
        let mut hasher = Hasher::default();
        let mut note = |sign: &[u8], path: &[u8], more: &[u8]| {
            for part in [sign, path, b"\0", more, b"\0"] {
                hasher.update(part);
            }
        };
        let (mut dropped, mut removed, mut kept) = (Vec::new(), 0, 0);
        let mut changes = relinked.iter().peekable();
        let mut places = moved.iter().peekable();
        for (number, member) in (0_u32..).zip(listing.members()) {
            let place = self.place((layer, number));
            if is_dropped((layer, number)) {
                dropped.push(number);
                if place != MARK {
                    removed += 1;
                    note(b"-", member.path, b"");
                }
            } else if place != ROOT {
                kept += 1;
            }
            if let Some((_, path)) = places.next_if(|(changed, _)| *changed == number) {
                note(b">", member.path, path);
            }
            match changes.next_if(|(changed, _)| *changed == number) {
                Some((_, Relink::To(path))) => note(b"=", member.path, path),
                Some((_, Relink::File { layer, member: from })) => {
                    let Layer { diff_id, listing } = self.layers[usize::from(*layer)];
                    let start = listing.member(*from as usize).span.start;
                    note(b"+", member.path, format!("{diff_id} {start}").as_bytes());
                }
                None => {}
            }
        }
        Planned { dropped, relinked, moved, removals: hasher.finish(), removed, kept }
    }
}

fn is_mark(name: &[u8]) -> bool {
    name.starts_with(WHITEOUT)
}

/// Whether a path leads through a directory that aufs kept for itself.
fn is_below_aufs(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part.starts_with(b".wh..wh."))
}

fn last(path: &[u8]) -> &[u8] {
    split(path).1
}

/// The directory of a path, and its last part.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn bad(layer: u16, path: &[u8], reason: impl Into<String>) -> Error {
    Error::Entry { layer: usize::from(layer) + 1, entry: lossy(path), reason: reason.into() }
}
