mod model;

use deploy_store::layer::entry::lossy;

use super::*;
use crate::read::listing::Sort;

/// Makes a layer from members of the form `(path, sort, link)`.
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

/// The paths that stay in each layer, and the replacements of hardlinks.
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
fn whiteouts_remove_only_from_lower_layers() {
    let base: &[(&str, Sort, &str)] =
        &[("d", D, ""), ("d/a", F, ""), ("d/b", F, ""), ("e", D, ""), ("e/x", F, "")];
    let top: &[(&str, Sort, &str)] =
        &[("d", D, ""), ("d/.wh.a", F, ""), (".wh.e", F, ""), ("e", F, "")];
    assert_eq!(kept(&[base, top]), [vec!["d", "d/b"], vec!["d", "e"]]);
    // A later layer may add a removed path again, and a whiteout may name a missing path.
    let again: &[(&str, Sort, &str)] = &[("d/a", F, ""), ("x/y/.wh.z", F, "")];
    assert_eq!(kept(&[base, top, again])[2], ["d/a"]);
}

#[test]
fn opaque_marker_works_at_any_position_in_the_tar() {
    let base: &[(&str, Sort, &str)] =
        &[("d", D, ""), ("d/a", F, ""), ("d/s", D, ""), ("d/s/x", F, "")];
    for top in [
        &[("d", D, ""), ("d/.wh..wh..opq", F, ""), ("d/n", F, "")],
        &[("d", D, ""), ("d/n", F, ""), ("d/.wh..wh..opq", F, "")],
    ] {
        assert_eq!(kept(&[base, top]), [vec!["d"], vec!["d", "d/n"]]);
    }
    // The files that aufs kept for itself are not part of the image.
    assert_eq!(
        kept(&[&[(".wh..wh.plnk", D, ""), (".wh..wh.plnk/1.2", F, ""), ("a", F, "")]]),
        [["a"]]
    );
}

#[test]
fn whiteout_below_a_replaced_symlink_spares_the_target() {
    let base: &[(&str, Sort, &str)] = &[
        ("run", D, ""),
        ("run/lock", D, ""),
        ("var", D, ""),
        ("var/run", S, "/run"),
        ("other", S, "var/run"),
    ];
    // docker and podman write such layers for `rm /var/run && mkdir /var/run`.
    for top in [
        &[("var/run", D, ""), ("var/run/.wh..wh..opq", F, ""), ("var/run/new", F, "")],
        &[("var/run/.wh..wh..opq", F, ""), ("var/run", D, ""), ("var/run/new", F, "")],
        &[("var/run/.wh.lock", F, ""), ("var/run", D, ""), ("var/run/new", F, "")],
        &[("other/.wh..wh..opq", F, ""), ("var/run", D, ""), ("var/run/new", F, "")],
    ] {
        let want = [vec!["run", "run/lock", "var", "other"], vec!["var/run", "var/run/new"]];
        assert_eq!(kept(&[base, top]), want);
    }
    // If the symlink stays, the path leads through it.
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
    assert!(refused.contains("has paths that need more than"), "{refused}");
    // A manifest may name the same layer many times.
    let mut listing = Listing::default();
    (0..100_000).for_each(|_| listing.push(0..512, b"a", b"", F));
    let layer = Layer { diff_id: Digest::of(b""), listing: &listing };
    let refused = plan(&vec![layer; 10_000]).unwrap_err().to_string();
    assert!(refused.contains("has paths that need more than"), "{refused}");
}

#[test]
fn entry_of_another_kind_removes_the_earlier_entry() {
    let base: &[(&str, Sort, &str)] =
        &[("d", D, ""), ("d/a", F, ""), ("l", S, "d"), ("f", F, ""), ("g", F, "")];
    let top: &[(&str, Sort, &str)] = &[("d", F, ""), ("l", D, ""), ("f", F, ""), ("g", S, "f")];
    assert_eq!(kept(&[base, top])[0], ["f"]);
    // A path below a file turns the file into a directory.
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
    assert!(refused(&[("o", S, "gone"), ("o/x", F, "")]).contains("target is missing"));
    assert!(refused(&[("o", S, "o"), ("o/x", F, "")]).contains("too many symlinks"));
    assert!(refused(&[("o", F, ""), ("o/x", F, "")]).contains("not a directory"));
}

#[test]
fn hardlinks_survive_their_targets() {
    let base: &[(&str, Sort, &str)] = &[("t", F, ""), ("k", H, "t"), ("m", H, "t"), ("n", H, "k")];
    assert_eq!(kept(&[base, &[(".wh.t", F, "")]])[0], ["k+0.0", "m=k", "n"]);
    assert_eq!(kept(&[base, &[(".wh.k", F, "")]])[0], ["t", "m", "n=t"]);
    // The target may be in a lower layer, and a later layer may remove it.
    assert_eq!(kept(&[&[("t", F, "")], &[("k", H, "t")], &[(".wh.t", F, "")]])[1], ["k+0.0"]);
    let refused = |layer: &[(&str, Sort, &str)]| planned(&[layer]).unwrap_err().to_string();
    assert!(refused(&[("k", H, "gone")]).contains("hardlink to \"gone\""));
    assert!(refused(&[("d", D, ""), ("k", H, "d")]).contains("hardlink"));
    // Agents refuse these layers, too.
    assert!(refused(&[("p", Sort::Fifo, ""), ("k", H, "p")]).contains("which is not a file"));
}

#[test]
fn removals_digest_depends_only_on_removals() {
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
fn whiteouts_without_a_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh."] {
        let refused = planned(&[&[(name, F, "")]]).unwrap_err().to_string();
        assert!(refused.contains("whiteout without a name"), "{name}: {refused}");
    }
    let refused = planned(&[&[(".wh.x/y", F, "")]]).unwrap_err().to_string();
    assert!(refused.contains("below a whiteout"), "{refused}");
}

/// docker treats the files of aufs in the same way (moby/moby#4178).
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
    // A higher layer removes the first name.
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
    // If one layer removes a path, later layers cannot link to this path.
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
