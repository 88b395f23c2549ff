//! Tests extraction. If an extraction fails in the middle, the error states the cause, all threads
//! end, and no file of the layer is left.

#![allow(clippy::print_stderr, reason = "tests print what they could not try")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use std::time::UNIX_EPOCH;

use crate::rig::{configuration, named, options};
use deploy_store::{Ages, Digest, Error, Keep, LinkMode, Store, check_archive, unpack, verify};
use deploy_testing::directories;

/// Makes a tar archive of `files` files with `size` incompressible bytes each.
fn tar(files: u32, size: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut state = 1_u64;
    for n in 0..files {
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            // Xorshift makes noise that is the same in every run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(size);
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("d/{n}"), &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The number of threads that have the name of the calling thread. A new thread inherits the name
/// of the thread that starts it.
fn threads() -> usize {
    let own = fs::read("/proc/thread-self/comm").unwrap();
    let all = fs::read_dir("/proc/self/task").unwrap();
    all.filter(|task| {
        let name = task.as_ref().unwrap().path().join("comm");
        fs::read(name).is_ok_and(|name| name == own)
    })
    .count()
}

/// The paths of all entries below `dir` except directories.
fn files(dir: &Path) -> Vec<String> {
    let found = Command::new("find").arg(dir).args(["!", "-type", "d"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn failed_extraction_leaves_no_files_and_no_threads() {
    // The test counts the threads with this name.
    let named = std::thread::Builder::new().name("bad-archives".to_owned());
    named.spawn(extract_bad_archives).unwrap().join().unwrap();
}

fn extract_bad_archives() {
    let small = tar(1000, 2000);
    let large = tar(3, 1 << 20);
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Auto)).unwrap();
        for (what, good) in [("small", &small), ("large", &large)] {
            let mut bad_entry = good[..good.len() - 1024].to_vec();
            bad_entry.extend_from_slice(&[b'x'; 512]);
            let cut = &good[..good.len() / 2];
            let packed = gzip(good);
            let mut trailer = packed.clone();
            let at = trailer.len() - 6;
            trailer[at] ^= 1;
            let mut after = packed.clone();
            after.extend_from_slice(b"more");
            let mut inside = packed.clone();
            inside[packed.len() / 2..packed.len() / 2 + 64].fill(0xff);
            for (how, bad) in [
                ("a block that is not a header", &bad_entry[..]),
                ("a cut tar", cut),
                ("a cut gzip", &packed[..packed.len() / 2]),
                ("a gzip cut in its trailer", &packed[..packed.len() - 3]),
                ("a wrong checksum", &trailer),
                ("bytes after the gzip", &after),
                ("damage inside", &inside),
            ] {
                let what = format!("{what}, {how}, in {}", dir.display());
                let digest = Digest::of(bad);
                store.blobs().ingest(digest, bad).unwrap();
                let err = store.extract(digest).unwrap_err();
                assert!(
                    matches!(err, Error::BadArchive { .. } | Error::BadEntry { .. }),
                    "{what}: {err}"
                );
                let alone = check_archive(bad, options(LinkMode::Auto).limits).unwrap_err();
                assert_eq!(alone.to_string(), err.to_string(), "{what}");
                assert_eq!(files(&work.path().join("agent/objects")), [""; 0], "{what}");
                assert_eq!(files(&work.path().join("agent/layers")), [""; 0], "{what}");
                assert_eq!(threads(), 1, "{what}");
            }
        }
        // The same store accepts a valid archive.
        let good = gzip(&small);
        let digest = Digest::of(&good);
        store.blobs().ingest(digest, &good[..]).unwrap();
        assert_eq!(store.extract(digest).unwrap().unwrap().new_objects, 1000);
    }
}

/// The writers reuse buffers. A small file must not get the bytes that a large file left in a
/// buffer.
#[test]
fn small_files_after_large_files_have_their_own_bytes() {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |name: String, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes).unwrap();
    };
    let text = |n: usize| format!("the small file {n}").repeat(1 + n % 5);
    for round in 0..6 {
        add(format!("large{round}"), &vec![b'L'; (1 << 20) + round]);
        (0..200).for_each(|n| add(format!("{round}/{n}"), text(round * 200 + n).as_bytes()));
    }
    let archive = builder.into_inner().unwrap();
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let (source, root) = (work.path().join("archive"), work.path().join("root"));
        fs::write(&source, &archive).unwrap();
        unpack(std::slice::from_ref(&source), &root, options(LinkMode::Auto)).unwrap();
        for round in 0..6 {
            let large = fs::read(root.join(format!("large{round}"))).unwrap();
            assert!(large == vec![b'L'; (1 << 20) + round], "large{round}");
            for n in 0..200 {
                let small = fs::read_to_string(root.join(format!("{round}/{n}"))).unwrap();
                assert!(small == text(round * 200 + n), "{round}/{n} has {:?}", &small[..8]);
            }
        }
    }
}

#[test]
fn a_full_disk_is_reported_with_path_and_cause() {
    let Some(small) = std::env::var_os("DEPLOY_TEST_SMALL") else {
        assert!(std::env::var_os("CI").is_none(), "DEPLOY_TEST_SMALL is not set; run scripts/test");
        eprintln!("NOT TESTED: a full disk; run scripts/test as root, which makes a small disk");
        return;
    };
    for (files_in, size) in [(3000, 20_000), (3, 20 << 20)] {
        let work = tempfile::tempdir_in(&small).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let archive = elsewhere.path().join("archive.tar");
        fs::write(&archive, tar(files_in, size)).unwrap();
        let into = work.path().join("into");
        let err = unpack(&[archive], &into, options(LinkMode::Auto)).unwrap_err();
        let text = err.to_string();
        assert!(text.contains("No space left on device"), "{text}");
        assert!(text.contains("/objects/.new-"), "{text}");
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0, "{text}");
    }
}

/// All equal files become one object. A second layer adds new objects to existing directories of
/// objects.
#[test]
fn equal_files_are_written_once() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Copy)).unwrap();
        let mut new = Vec::new();
        for parts in [vec![(400, 900), (2, 300_000)], vec![(600, 900), (3, 300_000)]] {
            // The noise is the same each time, so the first files equal the files of the previous
            // layer.
            let mut archive = Vec::new();
            for (files, size) in parts.iter().chain(&parts) {
                let bytes = tar(*files, *size);
                archive.extend_from_slice(&bytes[..bytes.len() - 1024]);
            }
            archive.extend_from_slice(&[0; 1024]);
            let digest = Digest::of(&archive);
            store.blobs().ingest(digest, &archive[..]).unwrap();
            new.push(store.extract(digest).unwrap().unwrap().new_objects);
        }
        assert_eq!(new, [402, 201], "in {}", dir.display());
        assert_eq!(files(&work.path().join("agent/objects")).len(), 603);
    }
}

/// The extended header of a volume label must not be applied to the next member.
#[test]
fn extended_header_before_a_volume_label_is_refused() {
    let archive = |kinds: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        for kind in kinds {
            let body: &[u8] = if *kind == b'x' { b"14 path=other\n" } else { b"" };
            let mut header = tar::Header::new_ustar();
            header.set_path("name").unwrap();
            header.set_entry_type(tar::EntryType::new(*kind));
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append(&header, body).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let check = |kinds| check_archive(&archive(kinds)[..], options(LinkMode::Auto).limits);
    assert!(check(b"Vx0").is_ok());
    let err = check(b"xV0").unwrap_err().to_string();
    assert!(err.contains("before a volume's label"), "{err}");
}

/// Pending layers are published before a sweep, because otherwise the sweep would treat the objects
/// of these layers as leftovers. Pending layers are also published before a large layer, because a
/// large layer is visible immediately and may need objects of a pending layer.
#[test]
fn pending_layers_are_published_before_a_sweep() {
    // The layer has so many files that every directory of objects exists. Lookups of pending
    // objects use these directories.
    let many = tar(4000, 16);
    let [swept, small, large] = [tar(2, 3000), tar(1, 1 << 20), tar(20, 1 << 20)];
    for dir in directories() {
        for link in [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy] {
            let what = format!("{link:?} in {}", dir.display());
            let work = tempfile::tempdir_in(&dir).unwrap();
            let agent = work.path().join("agent");
            let store = Store::open(&agent, options(link)).unwrap();
            let [many, swept, small, large] = [&many, &swept, &small, &large].map(|bytes| {
                let digest = Digest::of(bytes);
                store.blobs().ingest(digest, &**bytes).unwrap();
                digest
            });
            let visible = |digest: Digest| agent.join("layers").join(digest.to_string()).exists();
            store.extract(many).unwrap();
            store.extract_for_root(swept).unwrap();
            assert!(!visible(swept), "{what}");
            let deployed = configuration(&[named("many", many), named("swept", swept)]);
            let configurations = vec![(deployed.clone(), "the deployed configuration")];
            let ages =
                Ages { cache: Some(UNIX_EPOCH), downloads: Some(UNIX_EPOCH), ..Ages::default() };
            let cache = Some(Ages { leftovers: true, ..ages });
            let keep = Keep { configurations, cache, keep_blobs: true, ..Keep::default() };
            store.sweep(&store.plan_sweep(&keep).unwrap()).unwrap();
            assert!(visible(swept), "{what}");
            store.extract_for_root(small).unwrap();
            assert!(!visible(small), "{what}");
            let extracted = store.extract_for_root(large).unwrap().unwrap();
            // The first file of this layer is also in the small layer, so only 19 objects are new.
            assert_eq!((extracted.files, extracted.new_objects), (20, 19), "{what}");
            assert!(visible(small) && visible(large), "{what}");
            drop(store);
            let store = Store::open(&agent, options(link)).unwrap();
            let root = store.root(&configuration(&[named("large", large)])).unwrap();
            assert_eq!(fs::read(root.path.join("d/0")).unwrap().len(), 1 << 20, "{what}");
            assert!(store.root(&deployed).unwrap().path.join("d/1").exists(), "{what}");
            let mut findings = Vec::new();
            verify(&agent, |finding| findings.push(finding)).unwrap();
            assert!(findings.is_empty(), "{what}: {findings:?}");
        }
    }
}
