use std::io::Write as _;

use super::*;
use crate::read::input::read_archive;

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
fn layers_are_recognised_by_content_and_kept_uncompressed() {
    // The calling thread lists short files itself. Another thread lists the long plain layer.
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
            archive.spool.read(tar.region.unwrap(), 0, &mut again).unwrap();
            assert!(again == layer, "{name}");
        }
        assert!(matches!(archive.item("config.json").unwrap(), Item::Document(_)));
    }
}

#[test]
fn listed_layers_are_fetched_again() {
    let large = |first: &str| {
        // The compressed layer must be large, too, so the data must be incompressible.
        let mut seed = 1_u64;
        let noise = std::iter::repeat_with(|| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed.to_be_bytes()[0]
        });
        let noise: Vec<u8> = noise.take(900_000).collect();
        tar_of(&[(first, &noise)])
    };
    let short = tar_of(&[("s", b"x")]);
    let (one, two, other) = (large("a"), gzip(&large("b")), gzip(&large("c")));
    let files: [(&str, &[u8]); 4] =
        [("one", &one), ("two", &two), ("two again", &two), ("short", &short)];
    let begin = || {
        let mut archive =
            Archive::new(Spool::new(None, u64::MAX).unwrap(), Limits::STANDARD).listing_only(None);
        let tar = tar_of(&files);
        read_archive(&tar[..], Limits::STANDARD, |name, found| archive.take(name, found)).unwrap();
        archive.finish().unwrap();
        archive
    };
    let number = |archive: &Archive, name: &str| match archive.item(name).unwrap() {
        Item::Layer(number) => *number,
        _ => panic!("{name}"),
    };
    let archive = begin();
    assert_eq!(archive.spool.len(), short.len() as u64);
    assert_eq!(archive.length, (3 * one.len() + short.len()) as u64);
    let (wanted, left) = (number(&archive, "two"), number(&archive, "one"));
    let twin = number(&archive, "two again");
    let both = BTreeSet::from([wanted, twin, number(&archive, "short")]);
    let members = archive.layers[wanted].listing.len();
    let again = tar_of(&files);
    let archive =
        archive.fetch(&both, |take| read_archive(&again[..], Limits::STANDARD, take)).unwrap();
    let tar = &archive.layers[wanted];
    let mut bytes = vec![0; usize::try_from(tar.length).unwrap()];
    archive.spool.read(tar.region.unwrap(), 0, &mut bytes).unwrap();
    assert!(bytes == large("b") && tar.listing.len() == members);
    assert!(archive.layers[twin].region.is_some() && archive.layers[left].region.is_none());
    // The bytes of all requested layers are in the spool now.
    let archive = archive.fetch(&both, |_| panic!("nothing is missing")).unwrap();
    assert_eq!(archive.spool.len(), (2 * one.len() + short.len()) as u64);

    // At the second reading, another file has the name of a requested layer, or no file has this
    // name.
    let twin: (&str, &[u8]) = ("two again", &two);
    for changed in [&[twin, ("two", &other)][..], &[twin, ("two", b"{}")], &[twin]] {
        let again = tar_of(changed);
        let refused = begin()
            .fetch(&both, |take| read_archive(&again[..], Limits::STANDARD, take))
            .unwrap_err()
            .to_string();
        assert!(refused.contains("\"two\" in the image archive was changed"), "{refused}");
    }
}

#[test]
fn non_layers_take_no_space_and_give_the_reason() {
    let layer = tar_of(&[("a", b"x")]);
    let noise = vec![b'x'; 900_000];
    let mut cut = gzip(&tar_of(&[("a", &noise)]));
    cut.truncate(cut.len() - 9);
    let archive = read(&[("noise", &noise), ("cut", &cut), ("layer", &layer)]).unwrap();
    for (name, bytes, why) in [("noise", &noise, "not a tar"), ("cut", &cut, "")] {
        let Item::Other(digest, reason) = archive.item(name).unwrap() else { panic!("{name}") };
        assert_eq!(*digest, Digest::of(bytes));
        assert!(reason.contains(why), "{reason}");
    }
    assert_eq!(archive.spool.len(), layer.len() as u64);
}

#[test]
fn links_stay_inside_and_duplicate_names_are_refused() {
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
    for (name, why) in [("o", "leads out"), ("r", "circular"), ("g", "missing"), ("h", "missing")] {
        let refused = archive.item(name).unwrap_err().to_string();
        assert!(refused.contains(why), "{name}: {refused}");
    }
    let twice = read(&[("a", b"{}"), ("a", b"[]")]).unwrap_err().to_string();
    assert!(twice.contains("appears twice"), "{twice}");
    read(&[("a", b"{}"), ("a", b"{}")]).unwrap();
}

#[test]
fn blob_with_a_wrong_digest_is_reported() {
    let digest = Digest::of(b"{}");
    let name = format!("blobs/sha256/{digest}");
    let archive = read(&[(&name, b"{ }")]).unwrap();
    let refused = archive.blob(digest).unwrap_err().to_string();
    assert!(refused.contains("is damaged: its sha256 is"), "{refused}");
    assert!(read(&[(&name, b"{}")]).unwrap().blob(digest).is_ok());
    let refused = read(&[]).unwrap().blob(digest).unwrap_err().to_string();
    assert!(refused.contains("missing"), "{refused}");
}
