use std::io::Write as _;

use super::*;
use crate::input::read_archive;

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, contents) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(contents.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *contents).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn read(files: &[(&str, &[u8])]) -> Result<Archive> {
    let mut archive = Archive::new(Spool::new(None, u64::MAX).unwrap(), Limits::STANDARD);
    let tar = tar_of(files);
    read_archive(&tar[..], Limits::STANDARD, |name, found| archive.take(name, found))?;
    archive.finish()?;
    Ok(archive)
}

#[test]
fn layers_are_told_by_what_they_hold_and_kept_without_compression() {
    // One that is read at once, and one that threads read.
    for length in [10, 900_000] {
        let contents: Vec<u8> = (0..=255).cycle().take(length).collect();
        let layer = tar_of(&[("a", &contents), ("b", b"x")]);
        let packed = gzip(&layer);
        let frame = zstd::encode_all(&layer[..], 1).unwrap();
        let all: [(&str, &[u8]); 4] =
            [("plain", &layer), ("gz", &packed), ("zst", &frame), ("config.json", b"{}")];
        let archive = read(&all).unwrap();
        for (name, bytes) in &all[..3] {
            let Item::Layer(number) = archive.item(name).unwrap() else { panic!("{name}") };
            let tar = &archive.layers[*number];
            assert_eq!(
                (tar.digest, tar.diff_id),
                (Digest::of(bytes), Digest::of(&layer)),
                "{name}"
            );
            assert_eq!(tar.listing.len(), 2);
            let mut again = vec![0; layer.len()];
            archive.spool.read(tar.region, 0, &mut again).unwrap();
            assert!(again == layer, "{name}");
        }
        assert!(matches!(archive.item("config.json").unwrap(), Item::Document(_)));
    }
}

#[test]
fn what_is_no_layer_takes_no_room_and_says_why() {
    let layer = tar_of(&[("a", b"x")]);
    let noise = vec![b'x'; 900_000];
    let mut cut = gzip(&tar_of(&[("a", &noise)]));
    cut.truncate(cut.len() - 9);
    let archive = read(&[("noise", &noise), ("cut", &cut), ("layer", &layer)]).unwrap();
    for (name, bytes, why) in [("noise", &noise, "no tar"), ("cut", &cut, "")] {
        let Item::Other(digest, reason) = archive.item(name).unwrap() else { panic!("{name}") };
        assert_eq!(*digest, Digest::of(bytes));
        assert!(reason.contains(why), "{reason}");
    }
    assert_eq!(archive.spool.len(), layer.len() as u64);
}

#[test]
fn links_are_followed_inside_and_no_name_is_there_twice() {
    let mut archive = read(&[("a/layer.tar", &tar_of(&[("x", b"")]))]).unwrap();
    for (name, target) in [
        ("b/layer.tar", "../a/layer.tar"),
        ("c", "b/layer.tar"),
        ("o", "../../etc/passwd"),
        ("r", "r"),
        ("g", "gone"),
    ] {
        archive.take(name, Found::Link(target.to_owned())).unwrap();
    }
    assert!(matches!(archive.item("c").unwrap(), Item::Layer(0)));
    for (name, why) in [("o", "leads out"), ("r", "circles"), ("g", "missing"), ("h", "missing")] {
        let refused = archive.item(name).unwrap_err().to_string();
        assert!(refused.contains(why), "{name}: {refused}");
    }
    let twice = read(&[("a", b"{}"), ("a", b"[]")]).unwrap_err().to_string();
    assert!(twice.contains("there twice"), "{twice}");
    read(&[("a", b"{}"), ("a", b"{}")]).unwrap();
}

#[test]
fn a_blob_that_is_not_what_its_name_says_is_damaged() {
    let digest = Digest::of(b"{}");
    let name = format!("blobs/sha256/{digest}");
    let archive = read(&[(&name, b"{ }")]).unwrap();
    let refused = archive.blob(digest).unwrap_err().to_string();
    assert!(refused.contains("is damaged: its sha256 is"), "{refused}");
    assert!(read(&[(&name, b"{}")]).unwrap().blob(digest).is_ok());
    let refused = read(&[]).unwrap().blob(digest).unwrap_err().to_string();
    assert!(refused.contains("missing"), "{refused}");
}
