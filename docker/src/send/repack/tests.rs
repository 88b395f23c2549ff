use deploy_store::Limits;

use super::*;
use crate::plan::{Layer, plan};
use crate::read::image_archive::Archive;
use crate::read::input::Found;

/// Packs the layers of an image again.
fn repacked(layers: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut archive = Archive::new(Spool::new(None, u64::MAX).unwrap(), Limits::STANDARD);
    for (n, layer) in layers.iter().enumerate() {
        let found = Found::File(layer.len() as u64, &mut &layer[..]);
        archive.take(&format!("{n}.tar"), found).unwrap();
    }
    let tars: Vec<&Tar> = archive.layers.iter().collect();
    let described: Vec<Layer<'_>> =
        tars.iter().map(|tar| Layer { diff_id: tar.diff_id, listing: &tar.listing }).collect();
    let planned = plan(&described).unwrap();
    let whole = |(number, planned): (usize, &Planned)| {
        let mut out = Vec::new();
        let mut each = |piece| {
            match piece {
                Piece::Bytes(bytes) => out.extend(bytes),
                Piece::Copy { region, range } => {
                    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap()];
                    archive.spool.read(region, range.start, &mut bytes).unwrap();
                    out.extend(bytes);
                }
            }
            Ok(true)
        };
        assert!(pieces(&archive.spool, &tars, number, planned, &mut each).unwrap());
        out
    };
    planned.iter().enumerate().map(whole).collect()
}

/// The name, link target, mode and contents of each member.
fn members(tar: &[u8]) -> Vec<(String, String, u32, Vec<u8>)> {
    use std::io::Read as _;
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let mut entry = entry.unwrap();
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let link = entry.link_name_bytes().unwrap_or_default();
            let link = String::from_utf8_lossy(&link).into_owned();
            let mode = entry.header().mode().unwrap();
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents).unwrap();
            (path, link, mode, contents)
        })
        .collect()
}

fn build(gnu: bool, entries: &[(&str, &str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, contents, link) in entries {
        let mut header = if gnu { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
        header.set_mode(0o4755);
        header.set_size(contents.len() as u64);
        if link.is_empty() {
            builder.append_data(&mut header, path, contents.as_bytes()).unwrap();
        } else {
            header.set_entry_type(tar::EntryType::Link);
            header.set_size(0);
            builder.append_link(&mut header, path, link).unwrap();
        }
    }
    builder.into_inner().unwrap()
}

#[test]
fn unchanged_layer_stays_as_it_is() {
    let layer = build(true, &[("a", "x", ""), ("b", &"y".repeat(700), ""), ("c", "", "a")]);
    assert!(repacked(std::slice::from_ref(&layer)) == [layer.clone()]);
    // The new archive ends with two blocks of zeros, regardless of the zeros at the end of the
    // layer.
    for ending in [0, 512, 9 * 512] {
        let mut other = layer[..layer.len() - 1024].to_vec();
        other.resize(other.len() + ending, 0);
        assert!(repacked(&[other]) == [layer.clone()], "{ending}");
    }
}

#[test]
fn hardlink_replaces_a_removed_file_and_others_link_to_it() {
    let long = "d/".to_owned() + &"l".repeat(150);
    for gnu in [true, false] {
        let base =
            build(gnu, &[("t", "contents", ""), (&long, "", "t"), ("m", "", "t"), ("n", "", "m")]);
        let top = build(gnu, &[(".wh.t", "", ""), (".wh.m", "", "")]);
        let out = repacked(&[base, top]);
        let want = [
            (long.clone(), String::new(), 0o4755, b"contents".to_vec()),
            ("n".to_owned(), long.clone(), 0o4755, Vec::new()),
        ];
        assert_eq!(members(&out[0]), want, "gnu: {gnu}");
        assert_eq!(members(&out[1]), []);
    }
}

#[test]
fn long_name_applies_if_its_record_is_empty() {
    let long = "d/".to_owned() + &"l".repeat(150);
    let mut base = build(true, &[("t", "contents", ""), ("a", "", "t")]);
    base.truncate(base.len() - 1024);
    base.extend(extended(&[(b"path".to_vec(), Vec::new())]));
    base.extend(build(true, &[(&long, "", "t")]));
    let out = repacked(&[base, build(true, &[(".wh.t", "", "")])]);
    let want = [
        ("a".to_owned(), String::new(), 0o4755, b"contents".to_vec()),
        (long, "a".to_owned(), 0o4755, Vec::new()),
    ];
    assert_eq!(members(&out[0]), want);
}

#[test]
fn path_through_a_symlink_is_resolved() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(0);
    header.set_entry_type(tar::EntryType::Directory);
    builder.append_data(&mut header, "usr/lib/", &b""[..]).unwrap();
    header.set_entry_type(tar::EntryType::Symlink);
    builder.append_link(&mut header, "lib", "/usr/lib").unwrap();
    let base = builder.into_inner().unwrap();
    let top = build(true, &[("lib/f", "contents", ""), ("k", "", "lib/f")]);
    let out = repacked(&[base, top]);
    let want = [
        ("usr/lib/f".to_owned(), String::new(), 0o4755, b"contents".to_vec()),
        ("k".to_owned(), "usr/lib/f".to_owned(), 0o4755, Vec::new()),
    ];
    assert_eq!(members(&out[1]), want);
}

#[test]
fn pax_records_survive_a_new_name() {
    let mut base = Vec::new();
    let record = |key: &str, value: &str| (key.as_bytes().to_vec(), value.as_bytes().to_vec());
    base.extend(extended(&[record("SCHILY.xattr.user.k", "v"), record("path", "t")]));
    let plain = build(false, &[("short", "contents", ""), ("k", "", "t")]);
    base.extend(plain);
    let out = repacked(&[base, build(true, &[(".wh.t", "", "")])]);
    let mut archive = tar::Archive::new(&out[0][..]);
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(&*entry.path_bytes(), b"k");
    let extensions = entry.pax_extensions().unwrap().unwrap();
    let keys: Vec<String> =
        extensions.map(|record| record.unwrap().key().unwrap().to_owned()).collect();
    assert_eq!(keys, ["SCHILY.xattr.user.k", "path"]);
}

#[test]
fn records_include_their_own_length() {
    for length in [1, 88, 89, 90, 91, 92, 93, 988, 989, 990, 991] {
        let value = "v".repeat(length);
        let bytes = extended(&[(b"key".to_vec(), value.clone().into_bytes())]);
        let (record, _) = split_record(&bytes[512..]).unwrap();
        assert_eq!(record, format!("key={value}").as_bytes());
    }
}
