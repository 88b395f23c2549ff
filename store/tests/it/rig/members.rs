//! Generates archives with random members. Most of these archives can be unpacked.

use proptest::collection::vec;
use proptest::prelude::*;

/// A member of an archive.
#[derive(Debug, Clone)]
pub enum Member {
    Directory(String, u32),
    File(String, u8, u32, u64),
    Symlink(String, String),
    /// A hardlink to an earlier file of the same layer.
    Hardlink(String, usize),
    Fifo(String),
}

/// Generates the members of one archive.
pub fn members() -> impl Strategy<Value = Vec<Member>> {
    // The directories on a path are `a` and `b`. The last part of a path is rarely one of these
    // names, so most archives can be unpacked.
    let name = "([ab]/){0,2}([xyz]|[xyz]|[xyz]|[xyz]|[xyz]|[xyz]|[xyz]|[abx])";
    let target = "(/|\\.\\./)?[ab](/[abx]|/\\.\\.)?";
    let mode = prop_oneof![Just(0o755), Just(0o700), Just(0o555)];
    let member = prop_oneof![
        2 => (name, mode.clone()).prop_map(|(name, mode)| Member::Directory(name, mode)),
        // Only a few different contents and times are generated, so that some files are equal.
        6 => (name, 0_u8..4, mode, 1_u64..3)
            .prop_map(|(name, text, mode, time)| Member::File(name, text, mode, time)),
        1 => (name, target).prop_map(|(name, target)| Member::Symlink(name, target)),
        2 => (name, any::<usize>()).prop_map(|(name, n)| Member::Hardlink(name, n)),
        1 => name.prop_map(Member::Fifo),
    ];
    vec(member, 0..7)
}

/// Makes an uncompressed tar of `members`.
pub fn archive(members: &[Member]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (n, member) in members.iter().enumerate() {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(1);
        header.set_mode(0o644);
        header.set_size(0);
        let text = match member {
            Member::File(_, text, mode, time) => {
                header.set_mode(*mode);
                header.set_mtime(*time);
                let text = contents(*text);
                header.set_size(text.len() as u64);
                text
            }
            _ => Vec::new(),
        };
        let (kind, name) = match member {
            Member::Directory(name, mode) => {
                header.set_mode(*mode);
                (tar::EntryType::Directory, name)
            }
            Member::File(name, ..) => (tar::EntryType::Regular, name),
            Member::Symlink(name, target) => {
                header.set_link_name_literal(target).unwrap();
                (tar::EntryType::Symlink, name)
            }
            Member::Hardlink(name, pick) => {
                let Some(target) = target(&members[..n], *pick) else { continue };
                header.set_link_name_literal(target).unwrap();
                (tar::EntryType::Link, name)
            }
            Member::Fifo(name) => (tar::EntryType::Fifo, name),
        };
        header.set_entry_type(kind);
        builder.append_data(&mut header, name, &*text).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The contents with the number `text`. Number 0 is empty, and number 3 is larger than a block.
pub fn contents(text: u8) -> Vec<u8> {
    vec![text; usize::from(text) * if text == 3 { 3000 } else { 5 }]
}

/// The target of a hardlink that follows `members` in the archive. `pick` chooses one of the files
/// in `members`.
pub fn target(members: &[Member], pick: usize) -> Option<&str> {
    let files = members.iter().filter_map(|member| match member {
        Member::File(name, ..) => Some(&**name),
        _ => None,
    });
    files.clone().nth(pick % files.count().max(1))
}
