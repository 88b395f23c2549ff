//! Tests files with holes. In every link mode, the holes stay holes, and the time for each step
//! does not depend on the size of the holes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::rig::{configuration, layer, options, run};
use deploy_store::{LinkMode, SpareOutcome, Store, check_archive, unpack, verify};
use deploy_testing::directories;

const SIZE: u64 = 60_000_000_000;
const AT: u64 = 40_000_000_000;
/// A quarter of the time limit for a filesystem. The test has four rounds: one round unpacks the
/// archive, and each other round uses one of the three link modes. A round that hashed `SIZE` zeros
/// would take longer.
const SOON: Duration = Duration::from_secs(10);

/// Makes an archive of two files. One file is almost entirely a hole, and the other file is empty.
fn archive(dir: &Path) -> std::path::PathBuf {
    let file = File::create(dir.join("lastlog")).unwrap();
    assert!(file.set_len(SIZE).is_ok(), "{} has no files of {SIZE} bytes", dir.display());
    file.write_all_at(b"end", AT).unwrap();
    fs::write(dir.join("empty"), "").unwrap();
    run("tar", &["--sparse", "--format=posix", "-czf", "a.tgz", "lastlog", "empty"], dir);
    fs::remove_file(dir.join("lastlog")).unwrap();
    dir.join("a.tgz")
}

fn is_right(path: &Path) {
    let file = File::open(path).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), SIZE);
    assert!(meta.blocks() < 4096, "{} takes {} blocks", path.display(), meta.blocks());
    let mut end = [1; 5];
    file.read_exact_at(&mut end, AT - 1).unwrap();
    assert_eq!(&end, b"\0end\0");
}

#[test]
fn holes_are_handled_in_constant_time() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let archive = archive(work.path());
        let begun = Instant::now();
        check_archive(File::open(&archive).unwrap(), options(LinkMode::Auto).limits).unwrap();
        unpack(std::slice::from_ref(&archive), &work.path().join("out"), options(LinkMode::Auto))
            .unwrap();
        is_right(&work.path().join("out/lastlog"));
        for link in [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy] {
            let agent = work.path().join(format!("{link:?}"));
            let store = Store::open(&agent, options(link)).unwrap();
            let layer = layer(&store, "a", &archive);
            let wanted = configuration(&[layer]);
            let root = store.root(&wanted).unwrap();
            is_right(&root.path.join("lastlog"));
            // The disk need not have space for the holes of the spare.
            let spare = store.prepare_spare(&wanted).unwrap();
            assert_eq!(spare, SpareOutcome::Ready, "{link:?}");
            let mut found = Vec::new();
            verify(&agent, |finding| found.push(finding)).unwrap();
            assert_eq!(found, []);
            // A write into a hole is detected.
            let object = fs::read_dir(agent.join("objects"))
                .unwrap()
                .filter_map(|fan| fs::read_dir(fan.unwrap().path()).ok()?.next())
                .map(|object| object.unwrap().path())
                .next()
                .unwrap();
            let time = fs::metadata(&object).unwrap().modified().unwrap();
            let file = fs::OpenOptions::new().write(true).open(&object).unwrap();
            file.write_all_at(b"x", AT / 2).unwrap();
            file.set_modified(time).unwrap();
            verify(&agent, |finding| found.push(finding)).unwrap();
            assert!(found.iter().any(|finding| finding.path == object), "{link:?}: {found:?}");
        }
        let took = begun.elapsed();
        assert!(took < 4 * SOON, "{took:?} in {}", dir.display());
    }
}

#[test]
fn contents_with_and_without_holes_share_an_object() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let make = |name: &str, sparse: &[&str]| {
            let tree = work.path().join(name);
            fs::create_dir(&tree).unwrap();
            let file = File::create(tree.join("f")).unwrap();
            if sparse.is_empty() {
                file.write_all_at(&vec![0; 1_000_000], 0).unwrap();
            }
            file.set_len(1_000_000).unwrap();
            file.write_all_at(&[7], 500_000).unwrap();
            run("touch", &["-d", "@5", "f"], &tree);
            let archive = work.path().join(format!("{name}.tar"));
            let arguments = [&["-cf", archive.to_str().unwrap()], sparse, &["f"]].concat();
            run("tar", &arguments, &tree);
            archive
        };
        let archives = [make("dense", &[]), make("sparse", &["--sparse"])];
        assert!(fs::metadata(&archives[1]).unwrap().len() < 100_000);
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Copy)).unwrap();
        let layers: Vec<_> = archives.iter().map(|archive| layer(&store, "c", archive)).collect();
        let fans = fs::read_dir(work.path().join("agent/objects")).unwrap();
        assert_eq!(fans.count(), 1);
        let root = store.root(&configuration(&layers[1..])).unwrap();
        assert_eq!(fs::read(root.path.join("f")).unwrap()[500_000], 7);
    }
}
