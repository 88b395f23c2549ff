//! Makes each disk operation of an agent fail in turn, alone or together with all later operations,
//! as if the agent had been killed. After each fault, every visible name is complete, and every
//! acknowledged step has happened. The agent reaches the right root after its next start.

#[path = "it/trees/mod.rs"]
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use deploy_store::disk::fault::{self, Fault};
use deploy_store::{
    Configuration, Digest, Error, Layer, Limits, LinkMode, Options, Store, replace_file,
};
use trees::{Files, archive, files, read};

const FAULTS: [Fault; 3] = [Fault::Broken, Fault::Short, Fault::Dead];

/// The configurations to deploy, one after the other, with the contents of their roots.
struct World {
    blobs: BTreeMap<Digest, Vec<u8>>,
    wanted: [(Configuration, Files); 2],
}

/// The steps that the agent's functions have acknowledged.
#[derive(Default)]
struct Said {
    deployed: Option<Digest>,
}

impl World {
    fn new() -> Self {
        let code = [("bin/run", "run"), ("lib/a", "a"), ("lib/b", "a"), ("lib/empty", "")];
        let code = files(code.map(|(path, text)| (path, text.to_owned())));
        let mut blobs = BTreeMap::new();
        let mut layer = |name: &str, files: &Files| {
            let bytes = archive(files);
            let digest = Digest::of(&bytes);
            blobs.insert(digest, bytes);
            let (component, version) = (name.parse().unwrap(), "v1".parse().unwrap());
            Layer { component, version, digest, created: "2026-01-01T00:00:00Z".parse().unwrap() }
        };
        let base = layer("code", &code);
        let wanted = ["one", "two"].map(|text| {
            let conf = files(["etc/conf", "lib/a"].map(|path| (path, text.to_owned())));
            let layers = vec![base.clone(), layer("config", &conf)];
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            let configuration = Configuration::new("p".parse().unwrap(), layers, now).unwrap();
            (configuration, code.clone().into_iter().chain(conf).collect())
        });
        Self { blobs, wanted }
    }

    /// Performs all deploys of the test: uses the store as an agent does, and writes the state
    /// file.
    fn deploy(&self, dir: &Path, link: LinkMode, said: &mut Said) -> Result<(), Error> {
        let limits = Limits::STANDARD;
        let options = Options { limits, link, max_blob: 1 << 20, keep_blobs: false };
        let store = Store::open(&dir.join("agent"), options)?;
        for (wanted, _) in &self.wanted {
            for layer in wanted.layers() {
                if !store.has_layer(layer.digest)? {
                    store.blobs().ingest(layer.digest, self.blobs[&layer.digest].as_slice())?;
                    store.extract_for_root(layer.digest)?;
                }
            }
            // The test rebuilds the first root, as if a service had changed that root.
            let first = wanted.id() == self.wanted[0].0.id();
            for rebuild in [false, true].into_iter().take(1 + usize::from(first)) {
                let built = || {
                    if rebuild { store.rebuild_root(wanted) } else { store.root(wanted) }
                };
                match built() {
                    // The test downloads a damaged or lost blob again.
                    Err(Error::NoSuchBlob(digest)) => {
                        store.blobs().ingest(digest, self.blobs[&digest].as_slice())?;
                        store.extract(digest)?;
                        built()?
                    }
                    other => other?,
                };
            }
            store.sync_roots()?;
            replace_file(&dir.join("state.json"), &wanted.to_json(), 0o644)?;
            said.deployed = Some(wanted.id());
            store.sweep_roots(&[wanted.id()])?;
            store.prepare_spare(wanted)?;
        }
        let current = &self.wanted[1].0;
        store.sweep_cache(&[current], std::time::SystemTime::now())?;
        Ok(())
    }

    /// Checks that every visible name is complete, and that every acknowledged step has happened.
    fn check(&self, dir: &Path, said: &Said, what: &str) {
        for (wanted, files) in &self.wanted {
            let id = wanted.id().to_string();
            let root = dir.join("agent/unpacked").join(&id);
            if root.exists() && dir.join("agent/roots").join(&id).exists() {
                assert_eq!(read(&root), *files, "{what}: {}", root.display());
            }
        }
        let Some(id) = said.deployed else { return };
        let state = fs::read(dir.join("state.json")).unwrap();
        let state = Configuration::from_json(&state).unwrap_or_else(|err| panic!("{what}: {err}"));
        // The next configuration may have been written without an acknowledgement.
        let ids = self.wanted.iter().map(|(wanted, _)| wanted.id());
        assert!(ids.skip_while(|other| *other != id).any(|other| other == state.id()), "{what}");
        let root = dir.join("agent/unpacked").join(state.id().to_string());
        assert!(root.exists(), "{what}: the deployed root is missing");
    }
}

/// Checks that the next start removes the traces of interrupted work. After the start, every record
/// has a root. A truncated record is not a fault, because the next deploy writes the record again.
fn check_store(dir: &Path, link: LinkMode, what: &str) {
    let verified = |when: &str| {
        let mut findings = Vec::new();
        deploy_store::verify(&dir.join("agent"), |finding| findings.push(finding)).unwrap();
        findings.retain(|finding| !finding.what.contains("cannot be compared"));
        assert!(findings.is_empty(), "{what}, {when}: {findings:?}");
    };
    if !dir.join("agent").exists() {
        return;
    }
    verified("before the next start");
    let limits = Limits::STANDARD;
    let options = Options { limits, link, max_blob: 1 << 20, keep_blobs: false };
    drop(Store::open(&dir.join("agent"), options).unwrap());
    verified("after the next start");
}

/// The directories to test, each with a link mode and a stride. The first directories are on a
/// filesystem where syncs take no time. The directories of `DEPLOY_TEST_DIRS` follow. With a stride
/// of 3, the test makes only every third operation fail.
fn places() -> Vec<(PathBuf, LinkMode, u64)> {
    let memory = PathBuf::from("/dev/shm");
    let fast = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let mut places = vec![(fast.clone(), LinkMode::Hardlink, 1), (fast, LinkMode::Copy, 3)];
    if let Some(dirs) = std::env::var_os("DEPLOY_TEST_DIRS") {
        places.extend(std::env::split_paths(&dirs).map(|dir| (dir, LinkMode::Auto, 11)));
    }
    places
}

#[test]
fn agent_recovers_from_a_failure_at_every_disk_step() {
    let world = World::new();
    let mut out = std::io::stderr().lock();
    for (place, link, stride) in places() {
        for fault in FAULTS {
            let (mut n, mut failed) = (1, 0);
            loop {
                let work = tempfile::tempdir_in(&place).unwrap();
                let dir = work.path();
                let what = format!("{link:?} in {}, {fault:?} at {n}", place.display());
                let mut said = Said::default();
                fault::arm(n, fault);
                let done = world.deploy(dir, link, &mut said);
                if !fault::disarm() {
                    done.unwrap_or_else(|err| panic!("{what}: {err}"));
                    break;
                }
                failed += u64::from(done.is_err());
                if let Err(err) = done {
                    let text = err.to_string();
                    let known = ["Input/output error", "No space left on device"];
                    assert!(known.iter().any(|cause| text.contains(cause)), "{what}: {text}");
                }
                world.check(dir, &said, &what);
                check_store(dir, link, &what);
                let again = world.deploy(dir, link, &mut said);
                again.unwrap_or_else(|err| panic!("{what}, at the next deploy: {err}"));
                world.check(dir, &said, &what);
                assert_eq!(said.deployed, Some(world.wanted[1].0.id()));
                let mut findings = Vec::new();
                deploy_store::verify(&dir.join("agent"), |finding| findings.push(finding)).unwrap();
                assert!(findings.is_empty(), "{what}: {findings:?}");
                n += stride;
            }
            let place = place.display();
            let _ = writeln!(out, "{link:?} in {place}: {fault:?} at {n} steps, {failed} failed");
            assert!(n > 100 && failed * stride > 50, "{failed} of {n}");
        }
    }
}
