//! Checks whether the entries of an archive can be merged. The check needs about 40 bytes of memory
//! for each entry, while the complete index needs hundreds of bytes.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::error::Result;
use crate::inode_meta::Meta;
use crate::layer::entry::{Content, Device, Entry, EntryPath, Kind};
use crate::layer::index::Index;
use crate::limits::Limits;
use crate::root::merge;

/// Collects the data for [`merge::check`], entry by entry.
///
/// Nearly every archive is plain. In a plain archive, no path is a directory in one entry and of
/// another kind in another entry. Also, no hardlink in a plain archive leads to a directory, fifo
/// or device. The merge of a plain archive never replaces a directory, resolves no symlinks, and
/// cannot fail. The check recognizes a plain archive by sets of hashes of the archive's paths. If
/// two paths have the same hash, the check may take a plain archive for an archive that is not
/// plain. In that case, the check merges the entries, which it keeps for this purpose.
#[derive(Default)]
pub struct MergeCheck {
    hasher: RandomState,
    directories: HashSet<u64>,
    others: HashSet<u64>,
    /// The hashes of paths to which a hardlink cannot lead.
    specials: HashSet<u64>,
    /// The directory of the last entry. This directory and all its parents are in the set
    /// `directories`.
    parent: Vec<u8>,
    irregular: bool,
    kept: Kept,
}

/// Entries in a compact form, one after another. Each path leaves out the prefix that it shares
/// with the previous path.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    last: Vec<u8>,
}

impl MergeCheck {
    /// Records the next entry.
    pub fn add(&mut self, entry: &Entry) {
        if entry.path.is_root() {
            // The root is always a directory.
            return;
        }
        self.kept.add(entry);
        if !self.irregular && !self.is_plain(entry) {
            self.irregular = true;
            self.directories = HashSet::new();
            self.others = HashSet::new();
        }
    }

    /// Fails for the same archives as [`merge::check`].
    pub fn check(self) -> Result<()> {
        let Self { irregular, kept, .. } = self;
        if irregular { merge::check(&kept.into_index()) } else { Ok(()) }
    }

    fn is_plain(&mut self, entry: &Entry) -> bool {
        let path = entry.path.as_bytes();
        if !self.add_parents(path) {
            return false;
        }
        let hash = self.hasher.hash_one(path);
        match &entry.kind {
            Kind::Directory => {
                self.directories.insert(hash);
                !self.others.contains(&hash)
            }
            kind => {
                let linked = match kind {
                    Kind::Hardlink(target) => self.is_plain_target(target.as_bytes()),
                    Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) => {
                        self.specials.insert(hash)
                    }
                    _ => true,
                };
                self.others.insert(hash);
                linked && !self.directories.contains(&hash)
            }
        }
    }

    fn add_parents(&mut self, path: &[u8]) -> bool {
        let end = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        if path[..end] == self.parent {
            return true;
        }
        self.parent.clear();
        self.parent.extend_from_slice(&path[..end]);
        for above in parents(path) {
            let hash = self.hasher.hash_one(above);
            if self.others.contains(&hash) {
                return false;
            }
            self.directories.insert(hash);
        }
        true
    }

    /// Whether a plain archive may have a hardlink to `target`. The target may be missing. An
    /// existing target must not be a directory, fifo or device. The path of the target must not
    /// lead through an entry that is not a directory.
    fn is_plain_target(&self, target: &[u8]) -> bool {
        let hash = self.hasher.hash_one(target);
        !self.directories.contains(&hash)
            && !self.specials.contains(&hash)
            && parents(target).all(|above| !self.others.contains(&self.hasher.hash_one(above)))
    }
}

/// The directories above `path`, without the root.
fn parents(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| &path[..at])
}

impl Kept {
    fn add(&mut self, entry: &Entry) {
        let path = entry.path.as_bytes();
        let shared = path.iter().zip(&self.last).take_while(|(one, other)| one == other).count();
        self.number(shared);
        self.text(&path[shared..]);
        self.last.truncate(shared);
        self.last.extend_from_slice(&path[shared..]);
        match &entry.kind {
            Kind::File { .. } => self.bytes.push(b'f'),
            Kind::Directory => self.bytes.push(b'd'),
            Kind::Hardlink(target) => {
                self.bytes.push(b'h');
                self.text(target.as_bytes());
            }
            Kind::Symlink(target) => {
                self.bytes.push(b'l');
                self.text(target);
            }
            Kind::Fifo | Kind::CharDevice(_) | Kind::BlockDevice(_) => self.bytes.push(b's'),
        }
    }

    /// Appends a length in two bytes, or in six bytes if two bytes do not suffice. With the
    /// standard limits, two bytes suffice for the lengths of all paths and targets.
    fn number(&mut self, number: usize) {
        let number = u32::try_from(number).expect("paths are limited");
        match u16::try_from(number) {
            Ok(short) if short < u16::MAX => self.bytes.extend_from_slice(&short.to_le_bytes()),
            _ => {
                self.bytes.extend_from_slice(&u16::MAX.to_le_bytes());
                self.bytes.extend_from_slice(&number.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len());
        self.bytes.extend_from_slice(text);
    }

    fn into_index(self) -> Index {
        let mut index = Index::default();
        let mut rest = &self.bytes[..];
        let mut path = Vec::new();
        while !rest.is_empty() {
            path.truncate(number(&mut rest));
            path.extend_from_slice(text(&mut rest));
            let kind = match take(&mut rest, 1)[0] {
                b'f' => Kind::File { size: 0, content: Content::empty() },
                b'd' => Kind::Directory,
                b'h' => Kind::Hardlink(entry_path(text(&mut rest))),
                b'l' => Kind::Symlink(text(&mut rest).into()),
                _ => Kind::CharDevice(Device { major: 0, minor: 0 }),
            };
            index.entries.push(Entry { path: entry_path(&path), kind, meta: Meta::default() });
        }
        index
    }
}

fn entry_path(path: &[u8]) -> EntryPath {
    let unlimited = Limits { path_len: usize::MAX, depth: usize::MAX, ..Limits::STANDARD };
    EntryPath::from_archive(path, unlimited).expect("the path was valid")
}

fn number(rest: &mut &[u8]) -> usize {
    let short = take(rest, 2);
    match u16::from_le_bytes([short[0], short[1]]) {
        u16::MAX => {
            let long = take(rest, 4);
            u32::from_le_bytes([long[0], long[1], long[2], long[3]]) as usize
        }
        short => usize::from(short),
    }
}

fn text<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let length = number(rest);
    take(rest, length)
}

fn take<'a>(rest: &mut &'a [u8], n: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(n);
    *rest = after;
    taken
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path() -> impl Strategy<Value = EntryPath> {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
            .prop_map(|parts| entry_path(parts.join("/").as_bytes()))
    }

    fn kind() -> impl Strategy<Value = Kind> {
        let target = prop::sample::select(vec!["a", "../b", "/a/b", "c", "..", "."]);
        prop_oneof![
            6 => Just(Kind::File { size: 0, content: Content::empty() }),
            4 => Just(Kind::Directory),
            2 => path().prop_map(Kind::Hardlink),
            2 => target.prop_map(|target| Kind::Symlink(target.as_bytes().into())),
            1 => Just(Kind::Fifo),
        ]
    }

    proptest! {
        #[test]
        fn check_agrees_with_the_merge(
            entries in prop::collection::vec((path(), kind()), 1..12)
        ) {
            let entry = |(path, kind)| Entry { path, kind, meta: Meta::default() };
            let index = Index { entries: entries.into_iter().map(entry).collect() };
            let mut merge_check = MergeCheck::default();
            index.entries.iter().for_each(|entry| merge_check.add(entry));
            let told = |result: Result<()>| result.map_err(|err| err.to_string());
            prop_assert_eq!(told(merge_check.check()), told(merge::check(&index)));
        }
    }

    #[test]
    fn kept_entries_round_trip() {
        let long = format!("{}x", "long/".repeat(20_000));
        let mut kept = Kept::default();
        let mut index = Index::default();
        for (path, kind) in [
            ("a", Kind::Directory),
            ("a/b", Kind::Symlink((*b"../t\xff").into())),
            (&*long, Kind::Hardlink(entry_path(b"a/b"))),
            ("a", Kind::CharDevice(Device { major: 0, minor: 0 })),
        ] {
            let path = entry_path(path.as_bytes());
            index.entries.push(Entry { path, kind, meta: Meta::default() });
        }
        index.entries.iter().for_each(|entry| kept.add(entry));
        assert_eq!(kept.into_index(), index);
    }
}
