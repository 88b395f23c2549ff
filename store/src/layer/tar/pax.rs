//! Reads PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"). Such a header consists of
//! records `LENGTH KEY=VALUE\n`. A value may contain any bytes.

use crate::inode_meta::{Mtime, Xattr};

/// The records that this program uses. If a key has several records, the last record applies,
/// except in [`Sparse::pairs`].
#[derive(Debug, Clone, Default)]
pub struct Pax {
    /// The record `path`.
    pub path: Option<Vec<u8>>,
    /// The record `linkpath`.
    pub linkpath: Option<Vec<u8>>,
    /// The record `size`: the number of bytes of the entry's body.
    pub size: Option<u64>,
    /// The record `uid`.
    pub uid: Option<i64>,
    /// The record `gid`.
    pub gid: Option<i64>,
    /// The record `mtime`.
    pub mtime: Option<Mtime>,
    /// The attributes in the records `SCHILY.xattr.*`.
    pub xattrs: Vec<Xattr>,
    /// The access lists in the records `SCHILY.acl.access` and `SCHILY.acl.default`, as text.
    pub acls: [Option<Vec<u8>>; 2],
    /// The records `GNU.sparse.*`.
    pub sparse: Sparse,
}

/// The GNU records of a sparse file in their three versions, 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default)]
pub struct Sparse {
    /// The major version. In version 1, the map is in the body.
    pub major: Option<u64>,
    /// The file's name.
    pub name: Option<Vec<u8>>,
    /// The file's length in bytes.
    pub realsize: Option<u64>,
    /// The map of version 0.1, as `OFFSET,LENGTH,…`.
    pub map: Option<Vec<u8>>,
    /// The map of version 0.0: offsets and lengths in turn, each from its own record.
    pub pairs: Vec<u64>,
}

impl Pax {
    /// Reads the records of one extended header.
    pub fn read(&mut self, mut records: &[u8]) -> Result<(), String> {
        while !records.is_empty() {
            let (record, rest) = split_record(records)?;
            let equals = record.iter().position(|&byte| byte == b'=');
            let equals = equals.ok_or("a PAX record has no =")?;
            self.take(&record[..equals], &record[equals + 1..])?;
            records = rest;
        }
        Ok(())
    }

    /// The approximate number of bytes that the records take in memory. A few numbers are not
    /// counted.
    pub fn bytes(&self) -> usize {
        let Self { path, linkpath, xattrs, acls: [access, default], sparse, .. } = self;
        let texts = [path, linkpath, &sparse.name, &sparse.map, access, default];
        let texts = texts.iter().filter_map(|text| text.as_ref()).map(Vec::len).sum::<usize>();
        let xattr = |xattr: &Xattr| size_of::<Xattr>() + xattr.name.len() + xattr.value.len();
        texts + xattrs.iter().map(xattr).sum::<usize>() + size_of_val(&*sparse.pairs)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), String> {
        let key = std::str::from_utf8(key).map_err(|_| "a PAX keyword is not UTF-8")?;
        match key {
            // An empty value cancels the value of a global header.
            "path" => self.path = nonempty(value),
            "linkpath" => self.linkpath = nonempty(value),
            "size" => self.size = optional(value, |value| number(key, value))?,
            "uid" => self.uid = optional(value, |value| signed(key, value))?,
            "gid" => self.gid = optional(value, |value| signed(key, value))?,
            "mtime" => self.mtime = optional(value, time)?,
            "GNU.sparse.major" => self.sparse.major = Some(number(key, value)?),
            "GNU.sparse.name" => self.sparse.name = nonempty(value),
            "GNU.sparse.realsize" | "GNU.sparse.size" => {
                self.sparse.realsize = Some(number(key, value)?);
            }
            "GNU.sparse.map" => self.sparse.map = nonempty(value),
            "GNU.sparse.offset" | "GNU.sparse.numbytes" => {
                self.sparse.pairs.push(number(key, value)?);
            }
            "SCHILY.acl.access" => self.acls[0] = access_list(key, value)?,
            "SCHILY.acl.default" => self.acls[1] = access_list(key, value)?,
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    self.take_xattr(name, value)?;
                }
            }
        }
        Ok(())
    }

    fn take_xattr(&mut self, name: &str, value: &[u8]) -> Result<(), String> {
        if !may_restore(name) {
            return Ok(());
        }
        if value.len() > MAX_VALUE {
            return Err(format!("attribute {name:?} is larger than {MAX_VALUE} bytes"));
        }
        if name.len() > 255 || name.contains('\0') {
            return Err("an attribute's name is invalid".to_owned());
        }
        self.xattrs.retain(|xattr| *xattr.name != *name.as_bytes());
        self.xattrs.push(Xattr { name: name.as_bytes().into(), value: value.into() });
        Ok(())
    }
}

/// The kernel's limit on the size of an attribute in bytes (xattr(7)). This program applies the
/// same limit to an access list in text form.
const MAX_VALUE: usize = 64 << 10;

fn access_list(key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, String> {
    if value.len() > MAX_VALUE {
        return Err(format!("access list {key:?} is larger than {MAX_VALUE} bytes"));
    }
    Ok(nonempty(value))
}

/// Whether an attribute is restored. Capabilities, access lists and most attributes in `user.*` are
/// restored. All other attributes are left out, for example attributes in `trusted.*`. Attributes
/// in `user.overlay.*` are also left out, because they have an effect on overlay filesystems.
fn may_restore(name: &str) -> bool {
    (name.starts_with("user.") && name.len() > 5 && !name.starts_with("user.overlay."))
        || name == "security.capability"
        || name == "system.posix_acl_access"
        || name == "system.posix_acl_default"
}

/// Splits off the first record. Returns the `KEY=VALUE` of this record, without the length and the
/// newline, and the bytes after the record.
pub fn split_record(records: &[u8]) -> Result<(&[u8], &[u8]), String> {
    let space = records.iter().take(20).position(|&byte| byte == b' ');
    let space = space.ok_or("a PAX record has no length")?;
    let length = usize::try_from(number("length", &records[..space])?).unwrap_or(usize::MAX);
    if length <= space + 1 || length > records.len() || records[length - 1] != b'\n' {
        return Err("a PAX record's length is wrong".to_owned());
    }
    Ok((&records[space + 1..length - 1], &records[length..]))
}

fn nonempty(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn optional<T>(
    value: &[u8],
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<Option<T>, String> {
    if value.is_empty() { Ok(None) } else { parse(value).map(Some) }
}

/// Parses a number of at most 63 bits. The header fields that such a number replaces have the same
/// limit.
pub fn number(key: &str, value: &[u8]) -> Result<u64, String> {
    let digits = std::str::from_utf8(value).ok();
    let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|text| text.parse::<i64>().ok())
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(|| format!("PAX {key} is not a number below 2^63"))
}

fn signed(key: &str, value: &[u8]) -> Result<i64, String> {
    match value.strip_prefix(b"-") {
        Some(digits) => Ok(-number(key, digits)?.cast_signed()),
        None => Ok(number(key, value)?.cast_signed()),
    }
}

/// Parses a time in the form `[-]SECONDS[.FRACTION]`. Digits after the nanoseconds are ignored.
fn time(value: &[u8]) -> Result<Mtime, String> {
    let bad = || "PAX mtime is not a time".to_owned();
    let negative = value.first() == Some(&b'-');
    let digits = &value[usize::from(negative)..];
    let mut parts = digits.splitn(2, |&byte| byte == b'.');
    let seconds = number("mtime", parts.next().unwrap_or_default()).map_err(|_| bad())?;
    let seconds = seconds.cast_signed();
    let fraction = parts.next().unwrap_or_default();
    if fraction.iter().any(|byte| !byte.is_ascii_digit()) {
        return Err(bad());
    }
    let nanoseconds = (0..9)
        .map(|at| fraction.get(at).map_or(0, |digit| u32::from(digit - b'0')))
        .fold(0, |sum, digit| sum * 10 + digit);
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => Mtime { seconds, nanoseconds },
        (true, 0) => Mtime { seconds: -seconds, nanoseconds: 0 },
        (true, below) => Mtime { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - below },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_by_their_length() {
        let mut pax = Pax::default();
        pax.read(b"12 path=a/b\n14 size=00012\n20 mtime=-1.5000001\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.size, Some(12));
        assert_eq!(pax.mtime, Some(Mtime { seconds: -2, nanoseconds: 499_999_900 }));
        pax.read(b"28 SCHILY.xattr.user.x=a\nb\0\n").unwrap();
        assert_eq!(&*pax.xattrs[0].value, b"a\nb\0");
        pax.read(b"34 SCHILY.xattr.trusted.overlay=y\n").unwrap();
        assert_eq!(pax.xattrs.len(), 1);
    }

    /// Fuzzing against the `tar` crate found this case. The crate takes the first record; in POSIX,
    /// the last record applies.
    #[test]
    fn last_record_of_a_key_wins() {
        let mut pax = Pax::default();
        pax.read(b"9 path=5\n9 path=b\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"b"[..]));
        pax.read(b"8 path=\n").unwrap();
        assert_eq!(pax.path, None);
    }

    #[test]
    fn invalid_records_are_refused() {
        for bad in [
            "99 path=a\n",
            "8 path=a\n",
            "path=a\n",
            "8 patha\n",
            "0 \n",
            "1 \n",
            "11 size=-1\n",
            "28 size=9223372036854775808\n",
            "13 mtime=nan\n",
            "15 mtime=1e300\n",
        ] {
            assert!(Pax::default().read(bad.as_bytes()).is_err(), "{bad:?} was accepted");
        }
    }
}
