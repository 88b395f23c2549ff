//! Tests merges of layers. Each merge is written as one line: `|` separates layers, and spaces
//! separate entries. `a/` is a directory, `a=1` is a file with the contents 1, `a->b` is a symlink,
//! `a==b` is a hardlink, and `a!` is a fifo. A directory may have a mode, as in `a/700`.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::layer::entry::Content;

fn path(name: &str) -> EntryPath {
    EntryPath::from_archive(name.as_bytes(), Limits::STANDARD).unwrap()
}

fn entry(text: &str) -> Entry {
    let of = |name: &str, kind: Kind, mode: u32| Entry {
        path: path(name),
        kind,
        meta: Meta { mode, ..Meta::default() },
    };
    if let Some((name, target)) = text.split_once("->") {
        of(name, Kind::Symlink(target.as_bytes().into()), 0o777)
    } else if let Some((name, target)) = text.split_once("==") {
        of(name, Kind::Hardlink(path(target)), 0)
    } else if let Some((name, contents)) = text.split_once('=') {
        let content = Content(*blake3::hash(contents.as_bytes()).as_bytes());
        of(name, Kind::File { size: contents.len() as u64, content }, 0o644)
    } else if let Some(name) = text.strip_suffix('!') {
        of(name, Kind::Fifo, 0o600)
    } else {
        let (name, mode) = text.rsplit_once('/').unwrap();
        of(name, Kind::Directory, u32::from_str_radix(mode, 8).unwrap_or(0o755))
    }
}

fn layers(text: &str) -> Vec<Index> {
    let layer = |layer: &str| Index { entries: layer.split_whitespace().map(entry).collect() };
    text.split('|').map(layer).collect()
}

/// Merges the layers in `text`. Returns the tree in the same notation, or the text of the error.
fn merged(text: &str) -> String {
    let tree = match merge(&layers(text)) {
        Ok(tree) => tree,
        Err(err) => return err.to_string(),
    };
    let mut first: HashMap<*const File, String> = HashMap::new();
    let mut line = |(path, node): (EntryPath, &Node)| match node {
        Node::Directory(directory) if directory.meta.mode == 0o755 => format!("{path}/"),
        Node::Directory(directory) => format!("{path}/{:o}", directory.meta.mode),
        Node::Symlink(link) => format!("{path}->{}", lossy(&link.target)),
        Node::Special(_) => format!("{path}!"),
        Node::File(file) => match first.get(&Arc::as_ptr(file)) {
            Some(other) => format!("{path}=={other}"),
            None => {
                first.insert(Arc::as_ptr(file), path.to_string());
                let content = file.content;
                let is =
                    |text: &&str| Content(*blake3::hash(text.as_bytes()).as_bytes()) == content;
                format!("{path}={}", ["1", "2", "3"].iter().find(|text| is(text)).unwrap())
            }
        },
    };
    tree.walk().map(&mut line).collect::<Vec<_>>().join(" ")
}

#[test]
fn later_layers_win() {
    for (layers, tree) in [
        ("", ""),
        ("a=1 | a=2", "a=2"),
        ("a/ a/x=1 | a/ a/y=2", "a/ a/x=1 a/y=2"),
        ("a/700 | a/x=1", "a/700 a/x=1"),
        ("a/x=1", "a/ a/x=1"),
        ("a/x=1 | a/700", "a/700 a/x=1"),
        // An entry of another kind replaces a directory and everything below the directory.
        ("a/ a/b/ a/b/c=1 ab=2 | a=3", "a=3 ab=2"),
        ("a=1 | a/", "a/"),
        ("a/ a/x=1 | a->b", "a->b"),
        ("a/ a/x=1 | a!", "a!"),
        // Entries below a directory sort before names that only begin with the directory's name.
        ("a/ a-b=1 a/z=2 | a=3", "a=3 a-b=1"),
    ] {
        assert_eq!(merged(layers), tree, "{layers}");
    }
}

#[test]
fn symlinks_lead_inside_the_tree_only() {
    for (layers, tree) in [
        ("lib->usr/lib usr/lib/ | lib/x=1", "lib->usr/lib usr/ usr/lib/ usr/lib/x=1"),
        ("lib->/usr usr/ | lib/x=1", "lib->/usr usr/ usr/x=1"),
        ("up->../../.. usr/ | up/usr/x=1", "up->../../.. usr/ usr/x=1"),
        ("a->b b->c c/ | a/x=1", "a->b b->c c/ c/x=1"),
        ("a/ a/l->../b b/ | a/l/x=1", "a/ a/l->../b b/ b/x=1"),
        // A directory entry at the path of a symlink to a directory applies to the target
        // directory.
        ("lib->usr usr/ | lib/700", "lib->usr usr/700"),
        ("lib->usr | lib/700", "lib/700"),
        // A file at the path of a symlink replaces the symlink, not its target.
        ("a->b b=1 | a=2", "a=2 b=1"),
    ] {
        assert_eq!(merged(layers), tree, "{layers}");
    }
    for (layers, reason) in [
        ("a->b b->a | a/x=1", "number of symlinks"),
        ("a->/etc | a/passwd=1", "target is missing or is not a directory"),
        ("a=1 | a/x=2", "which is not a directory"),
        ("a! | a/x=2", "which is not a directory"),
        ("a->b b=1 | a/x=2", "target is missing or is not a directory"),
    ] {
        let refused = merged(layers);
        assert!(refused.contains(reason), "{layers}: {refused}");
    }
}

#[test]
fn hardlinks_are_names_of_one_file() {
    for (layers, tree) in [
        ("a=1 b==a c==b", "a=1 b==a c==a"),
        ("a=1 | b==a", "a=1 b==a"),
        // The replacement of one name does not change other names.
        ("a=1 b==a | a=2", "a=2 b=1"),
        ("a=1 b==a | a/ a/x==b", "a/ a/x=1 b==a/x"),
        ("a=1 a==a", "a=1"),
        // A symlink as the target of a hardlink is not followed. A symlink within the path to the
        // target is followed.
        ("l->x m==l", "l->x m->x"),
        ("d/ d/f=1 l->d m==l/f", "d/ d/f=1 l->d m==d/f"),
    ] {
        assert_eq!(merged(layers), tree, "{layers}");
    }
    for (layers, reason) in [
        ("b==a", "which does not exist"),
        ("a/ b==a", "which is not a file"),
        ("a=1 | a/ | b==a/x", "which does not exist"),
    ] {
        let refused = merged(layers);
        assert!(refused.contains(reason), "{layers}: {refused}");
    }
    for below in ["b==a", "a->b a/x=1", "a->b a/x=1 c=1 c/x=1"] {
        assert!(check(&layers(below)[0]).is_ok(), "{below}: the target may be in a lower layer");
    }
    assert!(check(&layers("a->b b->a a/x=1")[0]).is_err());
}

#[test]
fn equal_files_stay_separate_files() {
    assert_eq!(merged("a=1 b=1"), "a=1 b=1");
}

fn entries() -> impl Strategy<Value = String> {
    let name = "[ab](/[ab]){0,2}";
    prop_oneof![
        name.prop_map(|name| format!("{name}/")),
        (name, "[123]").prop_map(|(name, text)| format!("{name}={text}")),
        (name, "(/|\\.\\./)?[ab](/[ab]|/\\.\\.)?").prop_map(|(name, to)| format!("{name}->{to}")),
        (name, name).prop_map(|(name, to)| format!("{name}=={to}")),
    ]
}

proptest! {
    /// Because of this property, a build of the tree never follows a symlink.
    #[test]
    fn no_path_passes_through_anything_but_directories(
        entries in vec(entries(), 0..12),
        cut in 0_usize..12,
    ) {
        let (lower, upper) = entries.split_at(cut.min(entries.len()));
        let text = format!("{} | {}", lower.join(" "), upper.join(" "));
        let Ok(tree) = merge(&layers(&text)) else { return Ok(()) };
        for (path, _) in tree.walk() {
            let mut above = path.clone();
            while let Some((parent, _)) = above.split() {
                prop_assert!(
                    parent.is_root() || matches!(tree.get(&parent), Some(Node::Directory(_))),
                    "{}: {:?}", text, path
                );
                above = parent;
            }
        }
        // The same entries in one layer give the same tree.
        let together = merged(&entries.join(" "));
        prop_assert_eq!(merged(&text), together);
    }
}
