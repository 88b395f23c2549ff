//! Converts POSIX access lists (acl(5)) from text to the binary form of Linux attributes. GNU tar,
//! bsdtar and star write these lists as text (`SCHILY.acl.access`, `SCHILY.acl.default`).
//!
//! In the binary form, users and groups are numbers. If a list has only the name of a user or
//! group, the name is looked up in `/etc/passwd` or `/etc/group`. GNU tar looks up names, too. If
//! the name is not found, the list is left out.

use std::collections::HashMap;
use std::fs;

use crate::layer::entry::lossy;

/// The attribute that holds the access list of an inode.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute that holds the default list of a directory. New entries of the directory inherit
/// this list.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";
/// The version of the binary form.
const VERSION: u32 = 2;
/// The number in an entry that has no user or group.
const NOBODY: u32 = u32::MAX;
/// The tags of entries. Entries must be sorted in the order of these tags.
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// One entry of a list: the tag, the permissions, and the number of the user or group.
type Entry = (u16, u16, u32);

/// The numbers of this machine's users and groups, by name. `/etc/passwd` and `/etc/group` are read
/// when a name is first looked up.
#[derive(Debug, Default)]
pub struct Names(Option<[HashMap<Vec<u8>, u32>; 2]>);

impl Names {
    fn find(&mut self, tag: u16, name: &[u8]) -> Option<u32> {
        let read = |path| fs::read(path).map(|text| numbers(&text)).unwrap_or_default();
        let [users, groups] = self.0.get_or_insert_with(|| ["/etc/passwd", "/etc/group"].map(read));
        if tag == USER { users.get(name).copied() } else { groups.get(name).copied() }
    }
}

/// Reads the numbers from lines `NAME:PASSWORD:NUMBER`.
fn numbers(text: &[u8]) -> HashMap<Vec<u8>, u32> {
    let line = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        Some((name.to_vec(), number_of(number)?))
    };
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// Converts a list in text form to the attribute's value. Returns `None` for a list with an unknown
/// name, and for an access list that states no more than the mode.
pub fn from_text(
    text: &[u8],
    is_default: bool,
    names: &mut Names,
) -> Result<Option<Box<[u8]>>, String> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        // getfacl appends a comment that begins with `#`.
        let end = line.iter().position(|byte| *byte == b'#').unwrap_or(line.len());
        for part in line[..end].split(|byte| *byte == b',') {
            let part = part.trim_ascii();
            if part.is_empty() {
                continue;
            }
            match entry_of(part, is_default, names)? {
                Some(entry) => entries.push(entry),
                None => {
                    tracing::warn!(
                        "an access list has the entry {:?}, whose user or group this machine \
                         does not know: the list is left out",
                        lossy(part)
                    );
                    return Ok(None);
                }
            }
        }
    }
    entries.sort_by_key(|(tag, _, number)| (*tag, *number));
    let has = |wanted: u16| entries.iter().any(|(tag, ..)| *tag == wanted);
    if !has(MASK) && (has(USER) || has(GROUP)) {
        // A list without a mask gets the mask that setfacl would compute.
        let all = entries.iter().filter(|(tag, ..)| matches!(*tag, USER | GROUP_OBJ | GROUP));
        let all = all.fold(0, |all, (_, permissions, _)| all | permissions);
        entries.push((MASK, all, NOBODY));
        entries.sort_by_key(|(tag, _, number)| (*tag, *number));
    }
    check(&entries)?;
    if !is_default && entries.len() == 3 {
        return Ok(None);
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, number) in entries {
        value.extend_from_slice(&tag.to_le_bytes());
        value.extend_from_slice(&permissions.to_le_bytes());
        value.extend_from_slice(&number.to_le_bytes());
    }
    Ok(Some(value.into()))
}

/// Checks the value of an access list's attribute, and refuses a value that the kernel would later
/// refuse.
pub fn check_value(value: &[u8]) -> Result<(), String> {
    let bad = || "its access list is invalid".to_owned();
    let (version, rest) = value.split_first_chunk().ok_or_else(bad)?;
    let (entries, odd) = rest.as_chunks::<8>();
    if u32::from_le_bytes(*version) != VERSION || !odd.is_empty() {
        return Err(bad());
    }
    if entries.is_empty() {
        // A value without entries removes the list.
        return Ok(());
    }
    let entries: Vec<Entry> = entries
        .iter()
        .map(|&[t0, t1, p0, p1, n0, n1, n2, n3]| {
            let number = u32::from_le_bytes([n0, n1, n2, n3]);
            (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]), number)
        })
        .collect();
    if entries.is_sorted_by_key(|(tag, ..)| *tag) { check(&entries) } else { Err(bad()) }
}

/// Checks that sorted entries are a valid list (`acl_valid(3)`).
fn check(entries: &[Entry]) -> Result<(), String> {
    let count = |wanted: u16| entries.iter().filter(|(tag, ..)| *tag == wanted).count();
    let named = |tag: u16| matches!(tag, USER | GROUP);
    let known = |tag: u16| named(tag) || matches!(tag, USER_OBJ | GROUP_OBJ | MASK | OTHER);
    let entry = |(tag, permissions, number): &Entry| {
        known(*tag) && *permissions <= 7 && (!named(*tag) || *number != NOBODY)
    };
    let twice = entries
        .windows(2)
        .any(|two| two[0].0 == two[1].0 && (!named(two[0].0) || two[0].2 == two[1].2));
    let mask = count(MASK) == 1 || count(USER) + count(GROUP) == 0;
    let whole = [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1);
    if entries.iter().all(entry) && !twice && mask && whole {
        return Ok(());
    }
    Err("its access list is invalid: it must have user, group and other once each, each named user \
         and group once, and a mask if it names a user or group"
        .to_owned())
}

/// Parses one entry, `TAG:[NAME]:PERMISSIONS[:NUMBER]`. Returns `None` for an unknown name.
fn entry_of(text: &[u8], is_default: bool, names: &mut Names) -> Result<Option<Entry>, String> {
    let bad = || format!("its access list has {:?}, which is not a valid entry", lossy(text));
    let mut fields: Vec<&[u8]> = text.split(|byte| *byte == b':').map(<[u8]>::trim_ascii).collect();
    if is_default && matches!(fields[0], b"default" | b"d") {
        fields.remove(0);
    }
    let (name, permissions, number) = match *fields {
        // Solaris leaves out the empty field for the name in the entries `mask` and `other`.
        [b"mask" | b"m" | b"other" | b"o", permissions] => (&b""[..], permissions, None),
        [_, name, permissions] => (name, permissions, None),
        [_, name, permissions, number] => (name, permissions, Some(number)),
        _ => return Err(bad()),
    };
    let permissions = permissions_of(permissions).ok_or_else(bad)?;
    let (own, of_name) = match fields[0] {
        b"user" | b"u" => (USER_OBJ, Some(USER)),
        b"group" | b"g" => (GROUP_OBJ, Some(GROUP)),
        b"mask" | b"m" => (MASK, None),
        b"other" | b"o" => (OTHER, None),
        _ => return Err(bad()),
    };
    if name.is_empty() {
        return Ok(Some((own, permissions, NOBODY)));
    }
    let tag = of_name.ok_or_else(bad)?;
    // The last field has the number from the machine that packed the archive.
    let number = match number.filter(|number| !number.is_empty()) {
        Some(number) => Some(number_of(number).ok_or_else(bad)?),
        None => number_of(name).or_else(|| names.find(tag, name)),
    };
    Ok(number.map(|number| (tag, permissions, number)))
}

fn permissions_of(text: &[u8]) -> Option<u16> {
    if text.is_empty() || text.len() > 3 {
        return None;
    }
    text.iter().try_fold(0, |all, letter| {
        Some(
            all | match letter {
                b'r' => 4,
                b'w' => 2,
                b'x' => 1,
                b'-' => 0,
                _ => return None,
            },
        )
    })
}

/// Parses the number of a user or group. The largest number is refused, because this number means
/// "no user or group" in the kernel.
fn number_of(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = digits.then(|| std::str::from_utf8(text).ok())??;
    text.parse().ok().filter(|number| *number != NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, is_default: bool) -> Result<Option<Vec<Entry>>, String> {
        let value = from_text(text.as_bytes(), is_default, &mut Names::default())?;
        Ok(value.map(|value| {
            check_value(&value).unwrap();
            let number = |at: usize, n: usize| {
                value[at..at + n].iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte))
            };
            let short = |at| u16::try_from(number(at, 2)).unwrap();
            (4..value.len())
                .step_by(8)
                .map(|at| (short(at), short(at + 2), number(at + 4, 4)))
                .collect()
        }))
    }

    #[test]
    fn lists_of_all_packers_are_read() {
        let want = vec![
            (USER_OBJ, 6, NOBODY),
            (USER, 7, 1000),
            (GROUP_OBJ, 4, NOBODY),
            (GROUP, 5, 50),
            (MASK, 7, NOBODY),
            (OTHER, 4, NOBODY),
        ];
        for text in [
            // These lists have the formats of GNU tar, bsdtar and star. The third list has `mask`
            // and `other` in the Solaris form, with one colon.
            "user::rw-\nuser:1000:rwx\ngroup::r--\ngroup:50:r-x\nmask::rwx\nother::r--\n",
            "user::rw-,group::r--,other::r--,user:lisa:rwx:1000,group:staff:r-x:50,mask::rwx",
            "u::rw,g::r,o:r--,u:1000:rwx,g:50:r-x,m:rwx",
            "user::rw-\nuser:1000:rwx\t#effective:rwx\n# \
             none\ngroup::r--\ngroup:50:rx\nmask::rwx\nother::r--",
            // This list has no mask, so the list gets the mask that setfacl would make.
            "user::rw-,user:1000:rwx,group::r--,group:50:r-x,other::r--",
        ] {
            assert_eq!(read(text, false), Ok(Some(want.clone())), "{text}");
        }
        let root = read("user::rwx,user:root:r--,group::---,mask::r--,other::---", false).unwrap();
        assert_eq!(root.unwrap()[1], (USER, 4, 0));
    }

    #[test]
    fn redundant_lists_and_unknown_names_are_left_out() {
        let minimal = "user::rw-,group::r--,other::r--";
        assert_eq!(read(minimal, false), Ok(None));
        assert_eq!(read(minimal, true).unwrap().unwrap().len(), 3);
        assert_eq!(
            read("default:user::rwx,default:group::r-x,d:other::---", true).unwrap().unwrap().len(),
            3
        );
        let strange = "user::rw-,user:nobody-has-this-name:rwx,group::r--,mask::rwx,other::r--";
        assert_eq!(read(strange, false), Ok(None));
    }

    #[test]
    fn invalid_lists_are_refused() {
        for bad in [
            "",
            "user::rwx",
            "user::rwx,group::r-x",
            "user::rwx,user::rwx,group::r-x,other::r-x",
            "user::rwx,group::r-x,other::r-x,user:1:rwx,user:1:r--",
            "user::rwx,group::r-x,other::rwxr",
            "user::rwx,group::r-x,other::q",
            "user::rwx,group::r-x,other::",
            "user::rwx,group::r-x,other:1:r-x",
            "user::rwx,group::r-x,other::r-x,everyone@::rwx",
            "user::rwx,group::r-x,other::r-x,user:x:rwx:4294967295",
            "default:user::rwx,group::r-x,other::r-x",
        ] {
            assert!(read(bad, false).is_err(), "{bad:?}");
        }
        let value = |entries: &[Entry]| {
            let entry = |(tag, permissions, number): &Entry| {
                [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &number.to_le_bytes()].concat()
            };
            [VERSION.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
        };
        let [user, group, other] = [USER_OBJ, GROUP_OBJ, OTHER].map(|tag| (tag, 4, NOBODY));
        assert_eq!(check_value(&value(&[user, group, other])), Ok(()));
        for bad in [
            value(&[user, group]),
            value(&[group, user, other]),
            value(&[user, (USER, 7, 5), group, other]),
            value(&[user, group, (OTHER, 9, NOBODY)]),
            vec![],
            vec![1, 0, 0, 0],
            value(&[user, group, other])[..27].to_vec(),
        ] {
            assert!(check_value(&bad).is_err(), "{bad:?}");
        }
    }
}
