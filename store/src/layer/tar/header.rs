//! Reads the fields of a tar header block in the formats of ustar, GNU tar and v7 tar.

use tar::Header;

use super::acl::{self, Names};
use super::pax::Pax;
use crate::error::{Error, Result};
use crate::inode_meta::{Meta, Mtime, Xattr};
use crate::layer::entry::lossy;

/// The kind of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are clear")]
pub enum Flag {
    File,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// The name in a header. If the header is ustar, the name includes the prefix field, regardless of
/// the version that the header states. The crate `tar` requires the version `00`.
pub fn name_of(header: &Header) -> Vec<u8> {
    let bytes = header.as_bytes();
    let text = |range: std::ops::Range<usize>| {
        let field = &bytes[range];
        &field[..field.iter().position(|&byte| byte == 0).unwrap_or(field.len())]
    };
    let (name, prefix) = (text(0..100), text(345..500));
    if &bytes[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_owned();
    }
    [prefix, b"/", name].concat()
}

/// Verifies the checksum of the header, which is the sum of its bytes. The checksum field itself
/// counts as spaces. A sum of signed bytes is accepted, too, because some old writers made such
/// sums.
pub fn check_sum(header: &Header) -> Result<()> {
    let bytes = header.as_bytes();
    let counted = || bytes[..148].iter().chain(&[b' '; 8]).chain(&bytes[156..]);
    let unsigned: i64 = counted().map(|&byte| i64::from(byte)).sum();
    let signed: i64 = counted().map(|&byte| i64::from(byte.cast_signed())).sum();
    match field(&header.as_old().cksum) {
        Ok(sum) if sum == unsigned || sum == signed => Ok(()),
        _ => Err(Error::bad_archive(&format!(
            "has a block that is not a header (wrong checksum) at {:?}",
            lossy(&name_of(header))
        ))),
    }
}

/// Parses a numeric field: octal digits, which may have spaces around them and end at a NUL, or
/// GNU's base 256. A blank field is 0.
pub fn field(bytes: &[u8]) -> Result<i64, String> {
    if bytes[0] & 0x80 != 0 {
        // The first bit marks base 256, and the second bit is the sign.
        let negative = bytes[0] & 0x40 != 0;
        let first = i128::from(bytes[0] & 0x3f) - if negative { 0x40 } else { 0 };
        let wide = bytes[1..]
            .iter()
            .try_fold(first, |sum, &byte| sum.checked_mul(256).map(|sum| sum + i128::from(byte)));
        let number = wide.and_then(|wide| i64::try_from(wide).ok());
        return number.ok_or_else(|| "is too large".to_owned());
    }
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    let text = bytes[..end].trim_ascii();
    text.iter().try_fold(0_i64, |sum, &digit| match digit {
        b'0'..=b'7' => sum
            .checked_mul(8)
            .map(|sum| sum + i64::from(digit - b'0'))
            .ok_or_else(|| "is too large".to_owned()),
        _ => Err("is not a number".to_owned()),
    })
}

/// The kind of the member.
pub fn flag_of(header: &Header, name: &[u8]) -> Result<Flag, String> {
    Ok(match header.entry_type().as_byte() {
        // A v7 header marks a directory only by a slash at the end of the name.
        b'0' | 0 if name.ends_with(b"/") => Flag::Directory,
        b'0' | 0 | b'7' | b'S' => Flag::File,
        b'1' => Flag::Hardlink,
        b'2' => Flag::Symlink,
        b'3' => Flag::CharDevice,
        b'4' => Flag::BlockDevice,
        b'5' | b'D' => Flag::Directory,
        b'6' => Flag::Fifo,
        b'M' => return Err("continues in another volume".to_owned()),
        other => return Err(format!("has the unknown type {:?}", char::from(other))),
    })
}

/// The metadata of the member's inode.
pub fn meta_of(header: &Header, pax: &Pax, flag: Flag, names: &mut Names) -> Result<Meta, String> {
    let old = header.as_old();
    let number = |what: &str, bytes: &[u8]| field(bytes).map_err(|why| format!("its {what} {why}"));
    let mode = number("mode", &old.mode)?;
    let uid = pax.uid.map_or_else(|| number("owner", &old.uid), Ok)?;
    let gid = pax.gid.map_or_else(|| number("group", &old.gid), Ok)?;
    let seconds = number("time", &old.mtime)?;
    let mut xattrs: Vec<Xattr> = pax.xattrs.clone();
    add_acls(&mut xattrs, pax, flag, names)?;
    xattrs.sort_unstable();
    Ok(Meta {
        mode: u32::try_from(mode & 0o7777).unwrap_or(0),
        uid: owner(uid)?,
        gid: owner(gid)?,
        mtime: pax.mtime.unwrap_or(Mtime { seconds, nanoseconds: 0 }),
        xattrs: xattrs.into(),
    })
}

/// Adds the access lists that are in text form, and refuses invalid lists. Only a directory has a
/// default list.
fn add_acls(
    xattrs: &mut Vec<Xattr>,
    pax: &Pax,
    flag: Flag,
    names: &mut Names,
) -> Result<(), String> {
    let is_acl = |name: &[u8]| name == acl::ACCESS || name == acl::DEFAULT;
    if matches!(flag, Flag::Hardlink | Flag::Symlink) {
        // A link has no access list, even if the header states a list.
        xattrs.retain(|xattr| !is_acl(&xattr.name));
        return Ok(());
    }
    for (at, text) in pax.acls.iter().enumerate() {
        let (name, is_default) = [(acl::ACCESS, false), (acl::DEFAULT, true)][at];
        let Some(text) = text else { continue };
        // A list in binary form takes precedence, because the binary form always has numbers.
        if xattrs.iter().any(|xattr| *xattr.name == *name) {
            continue;
        }
        if let Some(value) = acl::from_text(text, is_default, names)? {
            xattrs.push(Xattr { name: name.into(), value });
        }
    }
    if flag != Flag::Directory {
        xattrs.retain(|xattr| *xattr.name != *acl::DEFAULT);
    }
    xattrs
        .iter()
        .filter(|xattr| is_acl(&xattr.name))
        .try_for_each(|xattr| acl::check_value(&xattr.value))
}

/// Converts the number of a user or group to 32 bits. Some programs write the user nobody as -2.
/// The number -1 is not valid, because the kernel reads -1 as "unchanged".
fn owner(number: i64) -> Result<u32, String> {
    let wrapped = i32::try_from(number).ok().map(i32::cast_unsigned);
    match u32::try_from(number).ok().or(wrapped) {
        None | Some(u32::MAX) => Err(format!("its owner or group {number} is not a valid number")),
        Some(id) => Ok(id),
    }
}

/// The major and minor numbers of a device.
pub fn device_of(header: &Header, flag: Flag) -> Result<(u32, u32), String> {
    if !matches!(flag, Flag::CharDevice | Flag::BlockDevice) {
        return Ok((0, 0));
    }
    // ustar headers and GNU headers have the two numbers in the same fields. Older headers have no
    // such numbers.
    if header.as_ustar().is_none() && header.as_gnu().is_none() {
        return Err("is a device, but a v7 header has no fields for its numbers".to_owned());
    }
    let part = |range: std::ops::Range<usize>| {
        let number = field(&header.as_bytes()[range]).ok();
        number.and_then(|number| u32::try_from(number).ok()).ok_or("its device number is not valid")
    };
    Ok((part(329..337)?, part(337..345)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_fields_are_octal_or_base_256() {
        for (bytes, want) in [
            (&b"0000644\0"[..], Ok(0o644)),
            (b"    644 ", Ok(0o644)),
            (b"\0\0\0\0", Ok(0)),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", Ok(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Ok(-2)),
        ] {
            assert_eq!(field(bytes), want, "{bytes:?}");
        }
        for bad in
            [&b"0000zz\0\0"[..], b"08\0", b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
        {
            assert!(field(bad).is_err(), "{bad:?} was accepted");
        }
    }

    /// Fuzzing against the `tar` crate found this case. In a v7 header, the bytes at the place of
    /// the device numbers have no meaning.
    #[test]
    fn a_v7_header_has_no_device_numbers() {
        let mut header = Header::new_old();
        header.as_mut_bytes()[329..345].copy_from_slice(b"0007776\x000000001\0");
        assert!(device_of(&header, Flag::BlockDevice).unwrap_err().contains("v7"));
        header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
        assert_eq!(device_of(&header, Flag::BlockDevice), Ok((4094, 1)));
        header.as_mut_bytes()[257..265].copy_from_slice(b"ustar  \0");
        assert_eq!(device_of(&header, Flag::CharDevice), Ok((4094, 1)));
    }

    #[test]
    fn owners_are_32_bits() {
        assert_eq!(owner(-2), Ok(u32::MAX - 1));
        assert_eq!(owner(4_294_967_294), Ok(u32::MAX - 1));
        assert!(owner(-1).is_err() && owner(4_294_967_295).is_err() && owner(1 << 40).is_err());
    }
}
