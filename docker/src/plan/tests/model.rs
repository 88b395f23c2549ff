//! Compares plans of generated layers with a naive filesystem.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::path_tree::At;
use super::*;

/// The operations from which a test generates the layers of an image.
#[derive(Debug, Clone)]
enum Op {
    Entry(Sort, String),
    Link(String, usize),
    Remove(String),
    Hide(String),
}

fn op() -> impl Strategy<Value = Op> {
    let path = || prop::collection::vec("[abc]", 1..4).prop_map(|parts| parts.join("/"));
    prop_oneof![
        3 => (prop::sample::select(vec![D, D, F, F, S]), path()).prop_map(|(s, p)| Op::Entry(s, p)),
        2 => (path(), any::<usize>()).prop_map(|(path, n)| Op::Link(path, n)),
        1 => path().prop_map(Op::Remove),
        1 => path().prop_map(Op::Hide),
    ]
}

/// A filesystem as a map from paths to nodes. A file is identified by the layer and the member that
/// made it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Model(BTreeMap<String, (Sort, Option<At>)>);

impl Model {
    fn remove_below(&mut self, path: &str) {
        self.0.retain(|other, _| !other.starts_with(&format!("{path}/")));
    }

    fn remove(&mut self, path: &str) {
        self.0.remove(path);
        self.remove_below(path);
    }

    /// Unpacks a member: makes the missing parent directories, and replaces an existing node at the
    /// path.
    fn put(&mut self, path: &str, sort: Sort, inode: Option<At>) {
        for (at, _) in path.match_indices('/') {
            let above = &path[..at];
            if self.0.get(above).is_none_or(|(sort, _)| *sort != D) {
                self.remove(above);
                self.0.insert(above.to_owned(), (D, None));
            }
        }
        if self.0.get(path).is_some_and(|(before, _)| (*before == D) != (sort == D)) {
            self.remove(path);
        }
        self.0.insert(path.to_owned(), (sort, inode));
    }

    /// The filesystem without empty directories for which no layer has an entry.
    fn pruned(mut self) -> Self {
        while let Some(empty) = self.0.iter().find_map(|(path, (_, inode))| {
            let below = format!("{path}/");
            let is_empty = !self.0.keys().any(|other| other.starts_with(&below));
            (inode.is_none() && is_empty).then(|| path.clone())
        }) {
            self.0.remove(&empty);
        }
        self
    }

    fn leads_through(&self, path: &str, wanted: Sort) -> bool {
        path.match_indices('/')
            .any(|(at, _)| self.0.get(&path[..at]).is_some_and(|(s, _)| *s == wanted))
    }
}

/// A member: its path, sort and link.
type Made = (String, Sort, String);

/// Makes valid layers from the operations. Also returns the filesystem of the image with these
/// layers.
fn stacked(layers: &[Vec<Op>]) -> (Vec<Vec<Made>>, Model) {
    let mut model = Model::default();
    let mut all = Vec::new();
    for (layer, ops) in (0_u16..).zip(layers) {
        let below = model.clone();
        let mut members: Vec<Made> = Vec::new();
        let mut own: BTreeSet<String> = BTreeSet::new();
        for op in ops {
            if let Op::Remove(path) | Op::Hide(path) = op {
                let dir = if matches!(op, Op::Hide(_)) { format!("{path}/") } else { path.clone() };
                if below.leads_through(&dir, S) || below.leads_through(&dir, F) {
                    continue;
                }
                let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
                let slash = if dir.is_empty() { "" } else { "/" };
                if matches!(op, Op::Remove(_)) {
                    members.push((format!("{dir}{slash}.wh.{name}"), F, String::new()));
                    model.remove(path);
                } else {
                    members.push((format!("{path}/.wh..wh..opq"), F, String::new()));
                    model.remove_below(path);
                }
            }
        }
        for op in ops {
            let (sort, path) = match op {
                Op::Entry(sort, path) => (*sort, path),
                Op::Link(path, _) => (H, path),
                _ => continue,
            };
            let has_own_above = path.match_indices('/').any(|(at, _)| {
                own.contains(&path[..at]) && model.0.get(&path[..at]).is_some_and(|(s, _)| *s != D)
            });
            let has_own_below = own.iter().any(|other| other.starts_with(&format!("{path}/")));
            if own.contains(path) || has_own_above || has_own_below || model.leads_through(path, S)
            {
                continue;
            }
            let at = (layer, u32::try_from(members.len()).unwrap());
            let files: Vec<_> = model.0.iter().filter(|(_, (sort, _))| *sort != D).collect();
            let (sort, inode, link) = match op {
                Op::Link(_, n) if !files.is_empty() => {
                    let (target, (sort, inode)) = files[n % files.len()];
                    // A link that replaces the directory of its own target would remove the target.
                    if target == path
                        || target.starts_with(&format!("{path}/"))
                        || path.starts_with(&format!("{target}/"))
                    {
                        continue;
                    }
                    (*sort, *inode, target.clone())
                }
                Op::Link(..) => (F, Some(at), String::new()),
                _ => (sort, Some(at), String::new()),
            };
            let listed = if link.is_empty() { sort } else { H };
            let link = if listed == S { "gone".to_owned() } else { link };
            members.push((path.clone(), listed, link));
            model.put(path, sort, inode);
            own.insert(path.clone());
        }
        all.push(members);
    }
    (all, model)
}

/// The result of unpacking the planned layers one after another.
fn unpacked(layers: &[Vec<Made>], planned: &[Planned]) -> Model {
    let mut model = Model::default();
    for ((layer, members), planned) in (0_u16..).zip(layers).zip(planned) {
        for (number, (path, sort, link)) in (0_u32..).zip(members) {
            if planned.dropped.contains(&number) {
                continue;
            }
            let relink = planned.relinked.iter().find(|(at, _)| *at == number);
            let of =
                |path: &str| model.0.get(path).unwrap_or_else(|| panic!("{path} is not there"));
            let (sort, inode) = match relink.map(|(_, relink)| relink) {
                Some(Relink::To(target)) => *of(&lossy(target)),
                Some(Relink::File { layer, member }) => {
                    (layers[usize::from(*layer)][*member as usize].1, Some((*layer, *member)))
                }
                None if *sort == H => *of(link),
                None => (*sort, Some((layer, number))),
            };
            let before = model.0.get(path).map(|(sort, _)| *sort);
            assert!(before.is_none_or(|before| before == sort), "{path} changes its kind");
            model.put(path, sort, inode);
        }
    }
    model
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn unpacking_planned_layers_gives_the_image(
        layers in prop::collection::vec(prop::collection::vec(op(), 0..14), 1..5)
    ) {
        let (members, image) = stacked(&layers);
        let listings: Vec<Listing> = members
            .iter()
            .map(|members| {
                let members: Vec<_> =
                    members.iter().map(|(path, sort, link)| (&**path, *sort, &**link)).collect();
                listing(&members)
            })
            .collect();
        let planned = plan_of(&listings).unwrap();
        prop_assert_eq!(unpacked(&members, &planned).pruned(), image.pruned(), "{:?}", members);
    }
}
