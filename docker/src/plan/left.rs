//! Decides which members of each layer are left out or changed, after all layers are in the tree.

use std::collections::HashMap;

use deploy_store::Hasher;

use super::path_tree::{At, ENTRY, Link, MARK, Tree};
use super::{Layer, Planned, Relink};
use crate::error::Result;
use crate::read::listing::Listing;

/// The members of a layer that stay, but with another path or link target.
struct Changed {
    relinked: Vec<(u32, Relink)>,
    moved: Vec<(u32, Vec<u8>)>,
}

impl Tree<'_> {
    pub(super) fn planned(&self) -> Result<Vec<Planned>> {
        // In `nodes`, the node of a directory precedes the nodes of its entries.
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
                let relinked = self.relinked(layer, &own, &is_dropped)?;
                let mut own_moved = Vec::new();
                while let Some(at) = moved.next_if(|at| at.0 == layer) {
                    if !is_dropped(*at) {
                        own_moved.push((at.1, self.charged_path(self.place(*at))?));
                    }
                }
                let changed = Changed { relinked, moved: own_moved };
                Ok(self.planned_layer(layer, described.listing, changed, &is_dropped))
            })
            .collect()
    }

    /// The path of a node. The memory of this path counts towards the memory limit.
    fn charged_path(&self, at: u32) -> Result<Vec<u8>> {
        let path = self.path(at);
        self.charge(path.len() + ENTRY)?;
        Ok(path)
    }

    fn place(&self, (layer, member): At) -> u32 {
        self.places[usize::from(layer)][member as usize]
    }

    /// The replacements for the hardlinks of a layer. A hardlink is replaced if its target is left
    /// out, or if the path to the target leads through symlinks.
    fn relinked(
        &self,
        layer: u16,
        links: &[&Link],
        is_dropped: &impl Fn(At) -> bool,
    ) -> Result<Vec<(u32, Relink)>> {
        // For each file with hardlinks, the first member of this layer that stays and is a name of
        // the file.
        let mut names: HashMap<At, u32> = HashMap::new();
        let mut relinked = Vec::new();
        for Link { at, name, inode, through } in links.iter().filter(|link| !is_dropped(link.at)) {
            if inode.0 == layer && !is_dropped(*inode) {
                names.entry(*inode).or_insert(inode.1);
            }
            if is_dropped(*name) {
                let relink = match names.get(inode) {
                    Some(other) => Relink::To(self.charged_path(self.place((layer, *other)))?),
                    None => Relink::File { layer: inode.0, member: inode.1 },
                };
                relinked.push((at.1, relink));
            } else if let Some(target) = through {
                relinked.push((at.1, Relink::To(self.charged_path(*target)?)));
            }
            names.entry(*inode).or_insert(at.1);
        }
        Ok(relinked)
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
            } else {
                // An entry of the root also counts. A layer whose only entry is `./` sets the mode,
                // owner, time and attributes of the root. Docker skips such an entry when it
                // unpacks; containerd applies it, and `deploy-agent unpack` does, too.
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
