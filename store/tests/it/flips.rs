//! Flips single bits in the objects, indexes and blobs of an agent's directory. Only one bit is
//! flipped at a time. The verification reports the file with each flipped bit.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::rig::{layer, options, run};
use deploy_store::{LinkMode, Meter, Store, verify_cache};
use deploy_testing::directories;

fn files(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut queue) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = queue.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn verify_finds_every_flipped_bit_in_the_cache() {
    for dir in directories() {
        let work = tempfile::tempdir_in(&dir).unwrap();
        let agent = work.path().join("agent");
        let store = Store::open(&agent, options(LinkMode::Auto)).unwrap();
        let tree = work.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for n in 0..30_usize {
            fs::write(tree.join(n.to_string()), n.to_string().repeat(1 + n * n)).unwrap();
        }
        run("tar", &["-czf", "code.tar.gz", "-C", "tree", "."], work.path());
        layer(&store, "code", &work.path().join("code.tar.gz"));
        drop(store);
        let cached = ["objects", "layers", "cache"].map(|name| files(&agent.join(name))).concat();
        assert_eq!(cached.len(), 32);
        let mut named = BTreeSet::new();
        for flip in 0..100_usize {
            let path = &cached[flip * 7 % cached.len()];
            let whole = fs::read(path).unwrap();
            let time = fs::metadata(path).unwrap().modified().unwrap();
            let mut damaged = whole.clone();
            let at = flip * 7919 % damaged.len();
            damaged[at] ^= 1 << (flip % 8);
            // A disk that flips a bit does not change the file's time.
            let write = |bytes: &[u8]| {
                fs::write(path, bytes).unwrap();
                fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
            };
            write(&damaged);
            let mut findings = Vec::new();
            verify_cache(&agent, &Meter::default(), |finding| findings.push(finding.path)).unwrap();
            assert!(findings.contains(path), "{}: {findings:?}", path.display());
            named.extend(findings);
            write(&whole);
        }
        assert!(
            named.len() >= cached.len(),
            "damage was found in only {} of {} files",
            named.len(),
            cached.len()
        );
        verify_cache(&agent, &Meter::default(), |finding| panic!("{finding:?}")).unwrap();
    }
}
