//! Makes archives from arbitrary bytes. If the bytes are compressed or fill at least one block, the
//! module uses them as an archive. In an uncompressed archive, the module corrects the checksums of
//! possible headers, so that an archive that the fuzzer has changed passes the checks. If the bytes
//! are neither compressed nor as long as a block, the module uses them as a recipe for members.
//!
//! The names come from a short list of names that confuse readers of tar. Because there are so few
//! names, members interact. For example, a member is written below a symlink, or replaces the
//! target of a hardlink.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

const BLOCK: usize = 512;
const PARTS: [&[u8]; 14] = [
    b"a",
    b"b",
    b"c",
    b"d",
    b"a",
    b"b",
    b"..",
    b".",
    b"",
    b"canary",
    b"side",
    b"x\0y",
    b"\xff",
    b"e\x1b[31m",
];
const TARGETS: [&[u8]; 14] = [
    b"a",
    b"b",
    b"a/b",
    b"..",
    b"../..",
    b"../canary",
    b"../side",
    b"/",
    b".",
    b"/a",
    b"",
    b"../../canary",
    b"c/../d",
    b"./a",
];
const TYPES: &[u8] = b"0000000555522221111346\x007SVDMgKLxX";
const SIZES: [u64; 10] = [0, 0, 1, 5, 511, 512, 513, 1 << 33, 1 << 62, u64::MAX];

/// Makes one archive, or two or three archives to merge, lowest first.
pub fn archives(data: &[u8]) -> Vec<Vec<u8>> {
    if is_archive(data) {
        return vec![with_checksums(data)];
    }
    let mut bytes = Unstructured::new(data);
    let count = bytes.int_in_range(1..=3).unwrap_or(1);
    (0..count).map(|_| archive(&mut bytes)).collect()
}

fn is_archive(data: &[u8]) -> bool {
    let packed: [&[u8]; 2] = [b"\x1f\x8b", b"\x28\xb5\x2f\xfd"];
    packed.iter().any(|magic| data.starts_with(magic)) || data.len() >= BLOCK
}

fn with_checksums(data: &[u8]) -> Vec<u8> {
    let mut fixed = data.to_vec();
    if data[0] == 0x1f || data[0] == 0x28 {
        return fixed;
    }
    for block in fixed.chunks_exact_mut(BLOCK) {
        // If a block has digits in the field of the checksum, or magic bytes, the block is probably
        // a header.
        let summed = block[148..154].iter().all(u8::is_ascii_digit);
        if summed || block[257..262] == *b"ustar" {
            seal(block);
        }
    }
    fixed
}

fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn archive(bytes: &mut Unstructured<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..24 {
        if bytes.is_empty()
            || bytes.ratio(1, 16).unwrap_or(true)
            || member(bytes, &mut out).is_err()
        {
            break;
        }
    }
    // Sometimes the end mark is missing.
    if bytes.ratio(15, 16).unwrap_or(true) {
        out.resize(out.len() + 2 * BLOCK, 0);
    }
    out
}

fn member(bytes: &mut Unstructured<'_>, out: &mut Vec<u8>) -> Result<()> {
    match bytes.int_in_range(0..=15)? {
        0 => extended(b'L', &[&name(bytes)?[..], b"\0"].concat(), out),
        1 => extended(b'K', &[*bytes.choose(&TARGETS)?, b"\0"].concat(), out),
        2 => extended(if bytes.ratio(1, 8)? { b'g' } else { b'x' }, &records(bytes)?, out),
        _ => {}
    }
    let name = name(bytes)?;
    let kind = *bytes.choose(TYPES)?;
    let link = if matches!(kind, b'1' | b'2') {
        if bytes.ratio(1, 3)? { self::name(bytes)? } else { bytes.choose(&TARGETS)?.to_vec() }
    } else {
        Vec::new()
    };
    let is_file = matches!(kind, b'0' | 0 | b'7');
    let body = if is_file { body(bytes)? } else { Vec::new() };
    let claimed = match bytes.int_in_range(0..=31)? {
        0 => *bytes.choose(&SIZES)?,
        _ => body.len() as u64,
    };
    let mut header = header(&name, kind, claimed);
    header[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
    let mode: u16 = *bytes.choose(&[0o644, 0o755, 0o700, 0, 0o4755, 0o2555, 0o7777, 0o111])?;
    header[100..108].copy_from_slice(format!("{mode:07o}\0").as_bytes());
    if bytes.ratio(1, 4)? {
        header[257..265].copy_from_slice(if bytes.arbitrary()? { b"ustar  \0" } else { &[0; 8] });
    }
    if matches!(kind, b'3' | b'4') {
        // These digits are the number of a device that does not exist.
        header[329..337].copy_from_slice(b"0007776\0");
        header[337..345].copy_from_slice(b"0000001\0");
    }
    seal(&mut header);
    out.extend_from_slice(&header);
    out.extend_from_slice(&body);
    pad(out);
    Ok(())
}

fn name(bytes: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let count = bytes.int_in_range(1..=4)?;
    let mut parts = Vec::new();
    for _ in 0..count {
        // Most parts are valid, because a reader that refuses a name does not read the later
        // members.
        let most = if bytes.ratio(1, 8)? { PARTS.len() } else { 6 };
        parts.push(*bytes.choose(&PARTS[..most])?);
    }
    let mut name = parts.join(&b'/');
    match bytes.int_in_range(0..=31)? {
        0 => name.push(b'/'),
        1 => name.insert(0, b'/'),
        2 => name = [&b"long".repeat(70)[..], b"/", &name].concat(),
        _ => {}
    }
    Ok(name)
}

fn body(bytes: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    Ok(match bytes.int_in_range(0..=7)? {
        0 => vec![7; 600],
        // The body is a valid header. A reader at a wrong position would take it for a member.
        1 => header(b"../canary", b'0', 0).to_vec(),
        2 => Vec::new(),
        n => vec![b'0' + n; usize::from(n)],
    })
}

/// Makes the records of a PAX header.
fn records(bytes: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for _ in 0..bytes.int_in_range(0..=3)? {
        let key = *bytes.choose(&[
            "path",
            "linkpath",
            "size",
            "mtime",
            "uid",
            "gid",
            "SCHILY.xattr.user.x",
            "SCHILY.xattr.security.capability",
            "GNU.sparse.major",
            "GNU.sparse.minor",
            "GNU.sparse.name",
            "GNU.sparse.realsize",
            "GNU.sparse.map",
            "GNU.sparse.size",
            "GNU.sparse.offset",
            "GNU.sparse.numbytes",
            "comment",
        ])?;
        let value = match bytes.int_in_range(0..=3)? {
            0 => name(bytes)?,
            1 => bytes.choose(&SIZES)?.to_string().into_bytes(),
            2 => bytes.choose(&[&b"1,2,3,4"[..], b"0,0", b"-1.5", b"", b"x\ny", b"1"])?.to_vec(),
            _ => bytes.int_in_range(0..=9_u8)?.to_string().into_bytes(),
        };
        out.extend(record(key, &value));
    }
    Ok(out)
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = 1 + key.len() + 1 + value.len() + 1;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

fn extended(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    let mut header = header(b"././@LongLink", kind, body.len() as u64);
    seal(&mut header);
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
    pad(out);
}

fn header(name: &[u8], kind: u8, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let length = name.len().min(100);
    header[..length].copy_from_slice(&name[..length]);
    header[100..108].copy_from_slice(b"0000644\0");
    header[108..116].copy_from_slice(b"0000000\0");
    header[116..124].copy_from_slice(b"0000000\0");
    if size < 1 << 33 {
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    header[136..148].copy_from_slice(b"00000000001\0");
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    seal(&mut header);
    header
}

fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}
