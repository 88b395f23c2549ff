//! Tests unusual output of packers: padding, large windows, strong compression, access lists as
//! text, sizes without a body, and unsupported formats.

#![allow(clippy::print_stderr, reason = "tests print what they could not try")]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::rig::{dump, options};
use deploy_store::{Limits, LinkMode, check_archive, unpack};
use deploy_testing::directories;

/// Makes a header of the type `kind`.
fn header(name: &str, kind: u8, size: u64, link: &str, magic: [u8; 8]) -> Vec<u8> {
    let mut header = tar::Header::new_old();
    let bytes = header.as_mut_bytes();
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
    bytes[257..265].copy_from_slice(&magic);
    bytes[156] = kind;
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(5);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

const USTAR: [u8; 8] = *b"ustar\x0000";
const GNU: [u8; 8] = *b"ustar  \0";

fn file(name: &str) -> Vec<u8> {
    let mut bytes = header(name, b'0', 4, "", USTAR);
    bytes.extend_from_slice(b"text");
    bytes.resize(1024, 0);
    bytes
}

fn records(records: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length =
            (rest..rest + 9).find(|length| rest + length.to_string().len() == *length).unwrap();
        writeln!(body, "{length} {key}={value}").unwrap();
    }
    let mut bytes = header("PaxHeaders/x", b'x', body.len() as u64, "", USTAR);
    bytes.extend(body.into_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

fn zstd(bytes: &[u8], window_log: u32) -> Vec<u8> {
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.window_log(window_log).unwrap();
    zstd.write_all(bytes).unwrap();
    zstd.finish().unwrap()
}

fn check(bytes: &[u8]) -> Result<u64, String> {
    check_with(bytes, Limits::STANDARD)
}

fn check_with(bytes: &[u8], limits: Limits) -> Result<u64, String> {
    check_archive(bytes, limits).map(|extracted| extracted.entries).map_err(|err| err.to_string())
}

#[test]
fn only_zeros_may_follow_compressed_data() {
    let tar = [file("f"), vec![0; 1024]].concat();
    for (name, packed) in [("gzip", gzip(&tar)), ("zstd", zstd(&tar, 20))] {
        let followed = |by: &[u8]| check(&[&packed[..], by].concat());
        for zeros in [0, 1, 10_240 - packed.len() % 10_240, 1 << 20] {
            assert_eq!(followed(&vec![0; zeros]), Ok(1), "{name} {zeros}");
        }
        assert!(followed(&packed[..]).unwrap_err().contains("after its end"), "{name}");
        let refused = followed(&vec![0; (1 << 20) + 1]).unwrap_err();
        assert!(refused.contains("1048577 zeros follow the end of its"), "{refused}");
        let refused = followed(b"\0\0\0garbage").unwrap_err();
        assert!(
            refused.contains(&format!("10 bytes follow the end of its {name} data")),
            "{refused}"
        );
        assert!(refused.contains("head -c -10") && refused.contains("pack it again"), "{refused}");
    }
}

#[test]
fn zstd_window_and_ratio_are_limited() {
    let zeros: u64 = 96 << 20;
    let mut tar = header("zeros", b'0', zeros, "", USTAR);
    tar.resize(tar.len() + usize::try_from(zeros).unwrap() + 1024, 0);
    let packed = zstd(&tar, 20);
    assert!(zeros / packed.len() as u64 > 10_000, "{}", packed.len());
    assert_eq!(check(&packed), Ok(1));
    let lower = Limits { ratio: 1_100, ..Limits::STANDARD };
    assert!(check_with(&packed, lower).unwrap_err().contains("1100 times"));
    // The window of `--long=27` is accepted. A larger window is refused unless `-max-window` allows
    // it.
    assert_eq!(check(&zstd(&[file("f"), vec![0; 1024]].concat(), 27)), Ok(1));
    // This frame requires a window of 256 MiB, as with `--long=28`.
    let mut asking = zstd(&file("f"), 27);
    assert_eq!(asking[5] >> 3, 17, "byte 5 of the frame does not state a window of 2^27 bytes");
    asking[5] += 1 << 3;
    let refused = check(&asking).unwrap_err();
    assert!(
        refused.contains("256 MiB, and 128 MiB are allowed") && refused.contains("-max-window"),
        "{refused}"
    );
    assert_eq!(check_with(&asking, Limits { window: 256 << 20, ..Limits::STANDARD }), Ok(1));
}

#[test]
fn refused_formats_are_named() {
    for (start, word) in [
        (&b"\xfd7zXZ\0\0\x04"[..], "xz file"),
        (b"BZh91AY&SY", "bzip2 file"),
        (b"PK\x03\x04\x14\0", "zip file"),
        (b"7z\xbc\xaf\x27\x1c\0\x04", "7z file"),
    ] {
        for length in [40, 600, 5000] {
            let bytes = [start, &vec![7; length]].concat();
            for bytes in [bytes.clone(), gzip(&bytes)] {
                let refused = check(&bytes).unwrap_err();
                assert!(refused.contains(word), "{refused}");
            }
        }
    }
    assert!(check(&[b'x'; 900]).unwrap_err().contains("neither gzip, zstd nor tar"));
    // A name may begin with the first bytes of another format.
    assert_eq!(check(&[file("BZh"), vec![0; 1024]].concat()), Ok(1));
}

#[test]
fn size_of_entries_without_data_is_treated_as_by_gnu_tar_and_bsdtar() {
    let end = vec![0; 1024];
    let body = vec![b'x'; 512];
    for magic in [USTAR, GNU, [0; 8]] {
        for kind in [b'1', b'2', b'5', b'6'] {
            let sized = header("s", kind, 512, if kind < b'5' { "f" } else { "" }, magic);
            let archive = |after: &[&[u8]]| [&file("f"), &sized[..], &after.concat()].concat();
            assert_eq!(check(&archive(&[&file("after"), &end])), Ok(3), "{kind} {magic:?}");
            assert_eq!(check(&archive(&[&end])), Ok(2), "{kind} {magic:?}");
            let refused = check(&archive(&[&body, &file("after"), &end])).unwrap_err();
            assert!(refused.contains("has a body"), "{refused}");
        }
    }
    // Only a PAX archive may repeat the contents of a file after a hardlink to the file. If the
    // reader cannot determine whether the contents follow, the reader refuses the archive.
    let link = [records(&[("comment", "x")]), header("s", b'1', 512, "f", USTAR)].concat();
    let archive = |after: &[&[u8]]| [&file("f"), &link[..], &after.concat()].concat();
    assert_eq!(check(&archive(&[&body, &file("after"), &end])), Ok(3));
    let refused = check(&archive(&[&file("after"), &end])).unwrap_err();
    assert!(refused.contains("may be its body or the next entry"), "{refused}");
}

#[test]
fn text_acls_are_restored() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("NOT TRIED: only the user root can restore access lists");
        return;
    }
    let list = "user::rw-\nuser:1000:rwx\ngroup::r--\nmask::rwx\nother::r--\n";
    let bytes = |entries: &[(u16, u16, u32)]| {
        let entry = |(tag, permissions, id): &(u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        [2_u32.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
    };
    let none = u32::MAX;
    let want = bytes(&[(1, 6, none), (2, 7, 1000), (4, 4, none), (16, 7, none), (32, 4, none)]);
    let default = bytes(&[(1, 7, none), (4, 5, none), (8, 4, 0), (16, 5, none), (32, 0, none)]);
    let mut directory = header("d/", b'5', 0, "", USTAR);
    directory[100..107].copy_from_slice(b"0000755");
    let mut checked = tar::Header::new_old();
    checked.as_mut_bytes().copy_from_slice(&directory);
    checked.set_cksum();
    let mut wide = file("f");
    wide[100..107].copy_from_slice(b"0000674");
    let mut sum = tar::Header::new_old();
    sum.as_mut_bytes().copy_from_slice(&wide[..512]);
    sum.set_cksum();
    wide[..512].copy_from_slice(sum.as_bytes());
    let archive = [
        records(&[("SCHILY.acl.access", list)]),
        wide,
        records(&[(
            "SCHILY.acl.default",
            "user::rwx,group::r-x,group:root:r--,mask::r-x,other::---",
        )]),
        checked.as_bytes().to_vec(),
        // Here, the default list belongs to an entry that is not a directory.
        records(&[("SCHILY.acl.default", "user::rwx,group::r-x,other::---")]),
        file("g"),
        vec![0; 1024],
    ]
    .concat();
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let (file, into) = (work.path().join("a.tar"), work.path().join("out"));
        fs::write(&file, &archive).unwrap();
        unpack(&[file], &into, options(LinkMode::Auto)).unwrap();
        assert_eq!(dump(&into).len(), 3);
        let read = |name: &str, attribute: &str| {
            let mut value = vec![0; 4096];
            let path: &Path = &into.join(name);
            rustix::fs::getxattr(path, attribute, &mut value[..]).map(|n| value[..n].to_vec())
        };
        if read("f", "system.posix_acl_access") == Err(rustix::io::Errno::OPNOTSUPP) {
            eprintln!("NOT TRIED: {} has no access lists", dir.display());
            continue;
        }
        assert_eq!(read("f", "system.posix_acl_access").unwrap(), want, "{}", dir.display());
        assert_eq!(read("d", "system.posix_acl_default").unwrap(), default);
        assert!(read("g", "system.posix_acl_default").is_err());
    }
    let bad = [records(&[("SCHILY.acl.access", "user::rw-,sonne:1:rwx")]), file_end()].concat();
    assert!(check(&bad).unwrap_err().contains("sonne"));
}

fn file_end() -> Vec<u8> {
    [file("f"), vec![0; 1024]].concat()
}
