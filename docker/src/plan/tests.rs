use std::collections::{BTreeMap, BTreeSet};

use deploy_store::layer::entry::lossy;
use proptest::prelude::*;

use super::path_tree::At;
use super::*;
use crate::read::listing::Sort;

/// A layer of members that are `(path, sort, link)`.
fn listing(members: &[(&str, Sort, &str)]) -> Listing {
    let mut listing = Listing::default();
    for (at, (path, sort, link)) in (0_u64..).zip(members) {
        listing.push(at * 512..(at + 1) * 512, path.as_bytes(), link.as_bytes(), *sort);
    }
    listing
}

fn planned(layers: &[&[(&str, Sort, &str)]]) -> Result<Vec<Planned>> {
    let listings: Vec<Listing> = layers.iter().map(|members| listing(members)).collect();
    plan_of(&listings)
}

fn plan_of(listings: &[Listing]) -> Result<Vec<Planned>> {
    let layers: Vec<Layer<'_>> = listings
        .iter()
        .zip(0_u64..)
        .map(|(listing, n)| Layer { diff_id: Digest::of(&n.to_le_bytes()), listing })
        .collect();
    plan(&layers)
}

/// Paths that stay in each layer, and how hardlinks changed.
fn kept(layers: &[&[(&str, Sort, &str)]]) -> Vec<Vec<String>> {
    let planned = planned(layers).unwrap();
    let one = |(members, planned): (&&[(&str, Sort, &str)], Planned)| {
        let stays = (0_u32..).zip(members.iter()).filter(|(n, _)| !planned.dropped.contains(n));
        let at = |n: u32, path: &str| match planned.moved.iter().find(|(at, _)| *at == n) {
            Some((_, to)) => format!("{path}>{}", lossy(to)),
            None => path.to_owned(),
        };
        stays
            .map(|(n, (path, ..))| (n, at(n, path)))
            .map(|(n, path)| match planned.relinked.iter().find(|(at, _)| *at == n) {
                Some((_, Relink::To(target))) => format!("{path}={}", lossy(target)),
                Some((_, Relink::File { layer, member })) => format!("{path}+{layer}.{member}"),
                None => path,
            })
            .collect()
    };
    layers.iter().zip(planned).map(one).collect()
}

use Sort::{Directory as D, File as F, Hardlink as H, Symlink as S};

#[test]
fn whiteouts_remove_from_the_layers_below_only() {
    let base: &[(&str, Sort, &str)] =
        &[("d", D, ""), ("d/a", F, ""), ("d/b", F, ""), ("e", D, ""), ("e/x", F, "")];
    let top: &[(&str, Sort, &str)] =
        &[("d", D, ""), ("d/.wh.a", F, ""), (".wh.e", F, ""), ("e", F, "")];
    assert_eq!(kept(&[base, top]), [vec!["d", "d/b"], vec!["d", "e"]]);
    // A later layer may have it again, and what is not there can be removed.
    let again: &[(&str, Sort, &str)] = &[("d/a", F, ""), ("x/y/.wh.z", F, "")];
    assert_eq!(kept(&[base, top, again])[2], ["d/a"]);
}

#[test]
fn opaque_marker_hides_lower_contents_in_any_position() {
    let base: &[(&str, Sort, &str)] =
        &[("d", D, ""), ("d/a", F, ""), ("d/s", D, ""), ("d/s/x", F, "")];
    for top in [
        &[("d", D, ""), ("d/.wh..wh..opq", F, ""), ("d/n", F, "")],
        &[("d", D, ""), ("d/n", F, ""), ("d/.wh..wh..opq", F, "")],
    ] {
        assert_eq!(kept(&[base, top]), [vec!["d"], vec!["d", "d/n"]]);
    }
    // What aufs kept for itself is nothing of the image's.
    assert_eq!(
        kept(&[&[(".wh..wh.plnk", D, ""), (".wh..wh.plnk/1.2", F, ""), ("a", F, "")]]),
        [["a"]]
    );
}

#[test]
fn whiteout_in_a_directory_replacing_a_symlink_stays_there() {
    let base: &[(&str, Sort, &str)] = &[
        ("run", D, ""),
        ("run/lock", D, ""),
        ("var", D, ""),
        ("var/run", S, "/run"),
        ("other", S, "var/run"),
    ];
    // What docker and podman write for `rm /var/run && mkdir /var/run`.
    for top in [
        &[("var/run", D, ""), ("var/run/.wh..wh..opq", F, ""), ("var/run/new", F, "")],
        &[("var/run/.wh..wh..opq", F, ""), ("var/run", D, ""), ("var/run/new", F, "")],
        &[("var/run/.wh.lock", F, ""), ("var/run", D, ""), ("var/run/new", F, "")],
        &[("other/.wh..wh..opq", F, ""), ("var/run", D, ""), ("var/run/new", F, "")],
    ] {
        let want = [vec!["run", "run/lock", "var", "other"], vec!["var/run", "var/run/new"]];
        assert_eq!(kept(&[base, top]), want);
    }
    // Where the symlink stays, it leads there.
    let top: &[(&str, Sort, &str)] = &[("var/run/.wh..wh..opq", F, ""), ("var/run/new", F, "")];
    assert_eq!(
        kept(&[base, top]),
        [vec!["run", "var", "var/run", "other"], vec!["var/run/new>run/new"]]
    );
}

#[test]
fn memory_for_paths_is_limited() {
    let listings: Vec<Listing> = (0..3)
        .map(|layer| {
            let mut listing = Listing::default();
            for n in 0..4_000 {
                let path = format!("{layer}{n}") + &"/a".repeat(900);
                listing.push(0..512, path.as_bytes(), b"", F);
            }
            listing
        })
        .collect();
    let refused = plan_of(&listings).unwrap_err().to_string();
    assert!(refused.contains("has more paths than"), "{refused}");
    // A layer may be named as often as a manifest has room for it.
    let mut listing = Listing::default();
    (0..100_000).for_each(|_| listing.push(0..512, b"a", b"", F));
    let layer = Layer { diff_id: Digest::of(b""), listing: &listing };
    let refused = plan(&vec![layer; 10_000]).unwrap_err().to_string();
    assert!(refused.contains("has more paths than"), "{refused}");
}

#[test]
fn replacing_an_entry_by_another_kind_removes_it() {
    let base: &[(&str, Sort, &str)] =
        &[("d", D, ""), ("d/a", F, ""), ("l", S, "d"), ("f", F, ""), ("g", F, "")];
    let top: &[(&str, Sort, &str)] = &[("d", F, ""), ("l", D, ""), ("f", F, ""), ("g", S, "f")];
    assert_eq!(kept(&[base, top])[0], ["f"]);
    // A path below what was a file makes it a directory.
    assert_eq!(kept(&[base, &[("f/x", F, "")]])[0], ["d", "d/a", "l", "g"]);
}

#[test]
fn symlinks_are_followed_inside_the_root() {
    let base: &[(&str, Sort, &str)] = &[
        ("usr", D, ""),
        ("usr/lib", D, ""),
        ("usr/lib/x", F, ""),
        ("usr/lib/y", F, ""),
        ("lib", S, "usr/lib"),
        ("up", S, "/../../usr"),
    ];
    let top: &[(&str, Sort, &str)] = &[("lib/.wh.x", F, ""), ("up/lib/y", D, "")];
    let want = [vec!["usr", "usr/lib", "lib", "up"], vec!["up/lib/y>usr/lib/y"]];
    assert_eq!(kept(&[base, top]), want);
    let links: &[(&str, Sort, &str)] = &[("k", H, "lib/x"), ("lib/l", H, "usr/lib/y")];
    assert_eq!(kept(&[base, links])[1], ["k=usr/lib/x", "lib/l>usr/lib/l"]);
    let refused = |top: &[(&str, Sort, &str)]| planned(&[base, top]).unwrap_err().to_string();
    assert!(refused(&[("o", S, "gone"), ("o/x", F, "")]).contains("to no directory"));
    assert!(refused(&[("o", S, "o"), ("o/x", F, "")]).contains("circles"));
    assert!(refused(&[("o", F, ""), ("o/x", F, "")]).contains("no directory"));
}

#[test]
fn hardlinks_survive_their_targets() {
    let base: &[(&str, Sort, &str)] = &[("t", F, ""), ("k", H, "t"), ("m", H, "t"), ("n", H, "k")];
    assert_eq!(kept(&[base, &[(".wh.t", F, "")]])[0], ["k+0.0", "m=k", "n"]);
    assert_eq!(kept(&[base, &[(".wh.k", F, "")]])[0], ["t", "m", "n=t"]);
    // The target may be in a layer below, and go later.
    assert_eq!(kept(&[&[("t", F, "")], &[("k", H, "t")], &[(".wh.t", F, "")]])[1], ["k+0.0"]);
    let refused = |layer: &[(&str, Sort, &str)]| planned(&[layer]).unwrap_err().to_string();
    assert!(refused(&[("k", H, "gone")]).contains("hardlink to \"gone\""));
    assert!(refused(&[("d", D, ""), ("k", H, "d")]).contains("hardlink"));
    // Nor do agents take these.
    assert!(refused(&[("p", Sort::Fifo, ""), ("k", H, "p")]).contains("which is no file"));
}

#[test]
fn origin_depends_only_on_removals() {
    let base: &[(&str, Sort, &str)] = &[("a", F, ""), ("b", F, ""), ("k", H, "a")];
    let removals = |top: &[(&str, Sort, &str)]| planned(&[base, top]).unwrap()[0].removals;
    let nothing = Digest::of(b"");
    assert_eq!(removals(&[]), nothing);
    assert_eq!(removals(&[("a", F, ""), (".wh.zz", F, "")]), nothing);
    assert_ne!(removals(&[(".wh.b", F, "")]), nothing);
    assert_ne!(removals(&[(".wh.b", F, "")]), removals(&[(".wh.a", F, "")]));
    assert_eq!(removals(&[(".wh.b", F, "")]), removals(&[("z", F, ""), (".wh.b", F, "")]));
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh."] {
        let refused = planned(&[&[(name, F, "")]]).unwrap_err().to_string();
        assert!(refused.contains("whiteout of no name"), "{name}: {refused}");
    }
    let refused = planned(&[&[(".wh.x/y", F, "")]]).unwrap_err().to_string();
    assert!(refused.contains("below a whiteout"), "{refused}");
}

/// What an image's layers may do.
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

/// A filesystem: what is at each path, files by who made them.
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

    /// Unpacks a member: makes its parents and replaces what is in its place.
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

    /// Without directories that no layer has and that have nothing in them any more.
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

/// A member: path, sort, link.
type Made = (String, Sort, String);

/// Layers that make sense, and the tree that the image is.
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
                    // A link that replaces its target's directory loses the target.
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

/// What comes of unpacking the layers as they were planned, one after another.
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

/// docker reads what aufs kept for itself so (moby/moby#4178).
#[test]
fn aufs_plinks_become_one_file() {
    let layer: &[(&str, Sort, &str)] = &[
        (".wh..wh.plnk", D, ""),
        (".wh..wh.plnk/1.2", F, ""),
        (".wh..wh.aufs", F, ""),
        ("a", H, ".wh..wh.plnk/1.2"),
        ("d/b", H, ".wh..wh.plnk/1.2"),
        ("c", H, "a"),
    ];
    assert_eq!(kept(&[layer]), [["a+0.1", "d/b=a", "c"]]);
    // The first of them is removed above.
    let top: &[(&str, Sort, &str)] = &[(".wh.a", F, "")];
    assert_eq!(kept(&[layer, top])[0], ["d/b+0.1", "c=d/b"]);
    let strange: &[(&str, Sort, &str)] = &[("a", H, ".wh..wh.plnk/3")];
    assert!(planned(&[layer, strange]).unwrap_err().to_string().contains("no layer has"));
}

#[test]
fn hardlink_to_a_name_removed_in_the_same_layer_is_resolved() {
    let base: &[(&str, Sort, &str)] =
        &[("a", F, ""), ("d", D, ""), ("d/x", F, ""), ("d/y", H, "d/x")];
    let renamed: &[(&str, Sort, &str)] = &[(".wh.a", F, ""), ("b", H, "a"), ("c", H, "a")];
    assert_eq!(kept(&[base, renamed])[1], ["b+0.0", "c=b"]);
    let opaque: &[(&str, Sort, &str)] = &[("d", D, ""), ("d/.wh..wh..opq", F, ""), ("e", H, "d/y")];
    assert_eq!(kept(&[base, opaque])[1], ["d", "e+0.2"]);
    let gone: &[(&str, Sort, &str)] = &[(".wh.d", F, "")];
    assert_eq!(kept(&[base, gone, &[("f", F, "")]])[1], [""; 0]);
    // What an earlier layer removed is gone for all after it.
    let later: &[(&str, Sort, &str)] = &[("e", H, "d/x")];
    assert!(planned(&[base, gone, later]).unwrap_err().to_string().contains("no layer has"));
}

#[test]
fn layer_with_only_the_root_entry_is_kept() {
    let layers: [&[(&str, Sort, &str)]; 4] =
        [&[("a", F, "")], &[("", D, "")], &[], &[("", D, ""), (".wh.a", F, "")]];
    let kept: Vec<usize> = planned(&layers).unwrap().iter().map(|planned| planned.kept).collect();
    assert_eq!(kept, [0, 1, 0, 1]);
}
