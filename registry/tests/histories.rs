//! Runs random histories of a registry, with collections that are interrupted at random moments. gc
//! never removes a blob with a reference, and removes every blob without a reference. `gc -n`
//! predicts the result of `gc` to the byte.

#![allow(clippy::print_stdout, reason = "the test prints the seed")]

#[path = "it/bench/mod.rs"]
mod bench;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bench::{Bench, archive, change, read, upload};
use deploy_registry::registry::{Registry, Settings};
use deploy_registry::verbs::verify_blobs::Scope;
use deploy_store::Digest;
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use deploy_wire::image::{Compression, Image, ImageLayer, Origin};

const COMPONENTS: [&str; 3] = ["code", "config", "data"];
const IMAGE: [&str; 3] = ["i1", "i2", "i3"];
const CONFIGURATIONS: [&str; 2] = ["p", "q"];
/// How many histories run at the same time.
const LANES: u8 = 3;
const STEPS: usize = 40;

/// A generator of random numbers (xorshift64*). The seed repeats all random choices of a history.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % sides
    }
}

/// The state that the registry must have after all acknowledged changes.
#[derive(Default)]
struct Model {
    versions: BTreeMap<(String, String), Digest>,
    /// A number for each version, in the order in which the versions were made.
    made: BTreeMap<(String, String), usize>,
    pins: BTreeSet<(String, String)>,
    next: usize,
}

struct History {
    seed: u64,
    bench: Bench,
    model: Model,
    dice: Dice,
    log: Vec<String>,
    /// For each configuration, the number of the state that the last rollback made, and the trees
    /// that this rollback and the rollbacks directly before it have replaced.
    left: BTreeMap<String, (u64, BTreeSet<Digest>)>,
}

impl Drop for History {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("DEPLOY_TEST_SEED={}: {:#?}", self.seed, self.log);
        }
    }
}

fn settings() -> Settings {
    Settings {
        max_upload: 1 << 20,
        max_versions: 2,
        keep_states: 2,
        grace: Duration::ZERO,
        ..Settings::default()
    }
}

impl History {
    async fn step(&mut self) {
        let component = COMPONENTS[self.dice.throw(3)];
        let name = CONFIGURATIONS[self.dice.throw(2)];
        match self.dice.throw(14) {
            0..=2 => self.add(component).await,
            3 | 4 => self.configure(name).await,
            5 => self.bump(name, component).await,
            6 => self.delete(component).await,
            7 => self.pin(component).await,
            8 => self.roll_back(name).await,
            9 => self.collect_cut_off().await,
            10 => self.collect().await,
            11 | 12 => self.import(name).await,
            _ => {
                self.log.push("reopen".into());
                self.bench.reopen().await;
            }
        }
        self.is_whole().await;
    }

    /// Adds a version with one of a few texts, so that versions share blobs. Sometimes, the blob is
    /// not uploaded first, so `addver` may fail.
    async fn add(&mut self, component: &str) {
        let bytes = archive(&self.dice.throw(8).to_string());
        let digest = Digest::of(&bytes);
        let uploaded = self.dice.throw(4) > 0;
        if uploaded {
            upload(self.bench.registry(), &bytes).await;
        }
        self.model.next += 1;
        let version = format!("v{}", self.model.next);
        let added = self.bench.add(component, &version, digest).await;
        self.log.push(format!("add {component} {version} {uploaded} {added:?}"));
        match added {
            Ok(()) => self.made(component, version, digest),
            Err(refusal) => assert!(!uploaded && refusal.code == exit::NOT_FOUND, "{refusal}"),
        }
    }

    fn made(&mut self, component: &str, version: String, digest: Digest) {
        let key = (component.to_owned(), version);
        if self.model.versions.insert(key.clone(), digest).is_none() {
            self.model.next += 1;
            self.model.made.insert(key, self.model.next);
        }
    }

    /// Imports an image of three layers. Each layer is already known, or is uploaded, or is
    /// missing.
    async fn import(&mut self, name: &str) {
        let mut image = Image::default();
        let mut uploaded = Vec::new();
        for component in IMAGE {
            let bytes = archive(&self.dice.throw(8).to_string());
            let hash = Digest::of(&bytes);
            let (removals, compression) = (Digest::of(b""), Compression::Gzip);
            let origin = Some(Origin { diff_id: hash, removals, compression });
            let known = self.bench.registry().known_layers(Some(origin.as_slice())).await.unwrap();
            uploaded.push(known.is_empty() && self.dice.throw(4) > 0);
            if uploaded.ends_with(&[true]) {
                upload(self.bench.registry(), &bytes).await;
            }
            image.layers.push(ImageLayer { component: component.parse().unwrap(), hash, origin });
        }
        let configuration = name.parse().unwrap();
        let added = self.bench.registry().add_image(&configuration, &image, &[], &change()).await;
        let added = added.map_err(Refusal::from);
        self.log.push(format!("import {name} {image:?} {uploaded:?} {added:?}"));
        match added {
            Ok(_) => {
                for ImageLayer { component, hash, .. } in image.layers {
                    self.made(component.as_str(), hash.to_string(), hash);
                }
            }
            Err(refusal) => {
                assert!(uploaded.contains(&false) && refusal.code == exit::NOT_FOUND, "{refusal}");
            }
        }
    }

    fn some_version(&mut self, component: &str) -> Option<String> {
        let versions: Vec<String> = self
            .model
            .versions
            .keys()
            .filter(|(of, _)| of == component)
            .map(|(_, version)| version.clone())
            .collect();
        (!versions.is_empty()).then(|| versions[self.dice.throw(versions.len())].clone())
    }

    async fn configure(&mut self, name: &str) {
        let mut layers = Vec::new();
        for component in COMPONENTS {
            if self.dice.throw(3) > 0
                && let Some(version) = self.some_version(component)
            {
                layers.push((component, version));
            }
        }
        if layers.is_empty() {
            return;
        }
        self.log.push(format!("configure {name} {layers:?}"));
        let layers: Vec<_> =
            layers.iter().map(|(component, version)| (*component, version.as_str())).collect();
        self.bench.configure(name, &layers).await.unwrap();
    }

    async fn bump(&mut self, name: &str, component: &str) {
        let (name, components) = (name.parse().unwrap(), [component.parse().unwrap()]);
        let catalog = &self.bench.registry().catalog;
        let bumped = catalog.bump_configuration(&name, &components, None, &change()).await;
        self.log.push(format!("bump {name} {component} {}", bumped.is_ok()));
    }

    async fn delete(&mut self, component: &str) {
        let Some(version) = self.some_version(component) else { return };
        let (name, force) = (version.parse().unwrap(), self.dice.throw(2) == 0);
        let catalog = &self.bench.registry().catalog;
        let of = component.parse().unwrap();
        let deleted = catalog.delete_version(&of, &name, force, &change()).await;
        self.log.push(format!("delete {component} {version} {force} {deleted:?}"));
        if deleted.is_ok() {
            let key = (component.to_owned(), version);
            assert!(!self.model.pins.contains(&key), "a pinned version was deleted");
            self.model.versions.remove(&key);
        }
    }

    async fn pin(&mut self, component: &str) {
        let Some(version) = self.some_version(component) else { return };
        let key = (component.to_owned(), version.clone());
        let (of, name) = (component.parse().unwrap(), version.parse().unwrap());
        let catalog = &self.bench.registry().catalog;
        if self.model.pins.remove(&key) {
            catalog.unpin(&of, &name, &change()).await.unwrap();
        } else {
            catalog.pin(&of, &name, "why", &change()).await.unwrap();
            self.model.pins.insert(key);
        }
        self.log.push(format!("pin or unpin {component} {version}"));
    }

    async fn roll_back(&mut self, name: &str) {
        let name = name.parse().unwrap();
        let catalog = &self.bench.registry().catalog;
        let rolled = catalog.roll_back(&name, None, &change()).await;
        let rolled = rolled.map(|done| done.number);
        self.log.push(format!("roll back {name} {rolled:?}"));
        // Until another change is made, each rollback restores an older state than the rollback
        // before it.
        let left = &mut self.left;
        let Ok(states) = catalog.states(&name, |number, state| (number, state)).await else {
            return;
        };
        let ids: BTreeMap<u64, Digest> =
            states.iter().map(|(number, it)| (*number, it.id())).collect();
        let last = states.len() - 1;
        let Ok(number) = rolled else { return };
        let (now, before) = (states[last].1.id(), states[last - 1].1.id());
        assert_eq!(now, ids[&number], "the current tree is not the tree of the restored state");
        assert_ne!(now, before, "the rollback kept the same tree");
        let made = states[last].0;
        let (_, gone) = left
            .remove(name.as_str())
            .filter(|(number, _)| *number == made - 1)
            .unwrap_or_default();
        let gone: BTreeSet<Digest> = gone.into_iter().chain([before]).collect();
        assert!(!gone.contains(&now), "the rollback returned to state {number}");
        left.insert(name.as_str().to_owned(), (made, gone));
    }

    /// Runs a collection. `gc -n` must predict the result of `gc`, and no unneeded blob may be
    /// left.
    async fn collect(&mut self) {
        let registry = self.bench.registry();
        let planned = registry.would_collect().await.unwrap();
        let done = match registry.collect(false).await.map_err(Refusal::from) {
            Err(Refusal { code: exit::CONFLICT, .. }) => {
                assert!(self.model.versions.is_empty());
                registry.collect(true).await.unwrap()
            }
            other => other.unwrap(),
        };
        self.log.push(format!("collect {:?} {}", done.versions, done.blobs.len()));
        assert_eq!(planned, done);
        let left: BTreeSet<Digest> =
            registry.blobs().list().await.unwrap().iter().map(|blob| blob.digest).collect();
        let needed: BTreeSet<Digest> =
            registry.catalog.needs().await.unwrap().into_keys().collect();
        assert_eq!(left, needed);
        self.take_away_old().await;
    }

    /// Runs a collection, and stops it at a random moment, as if the program had crashed.
    async fn collect_cut_off(&mut self) {
        let patience = Duration::from_micros(self.dice.throw(3000) as u64);
        let cut = {
            let collecting = self.bench.registry().collect(true);
            tokio::time::timeout(patience, collecting).await.is_err()
        };
        self.log.push(format!("collect for {patience:?}, cut off: {cut}"));
        self.bench.reopen().await;
        self.take_away_old().await;
    }

    /// Removes deleted versions from the model. Checks that none of these versions was pinned or
    /// was one of the two newest.
    async fn take_away_old(&mut self) {
        let there = versions(self.bench.registry()).await;
        let gone: Vec<_> =
            self.model.versions.keys().filter(|key| !there.contains_key(*key)).cloned().collect();
        for key in gone {
            assert!(!self.model.pins.contains(&key), "{key:?} was pinned");
            let newer = self.model.versions.keys().filter(|other| {
                other.0 == key.0 && self.model.made[*other] > self.model.made[&key]
            });
            assert!(newer.count() >= 2, "{key:?} was one of the two newest");
            self.model.versions.remove(&key);
        }
    }

    /// Checks that every version, every kept state and every known layer has its complete blobs.
    async fn is_whole(&self) {
        let registry = self.bench.registry();
        let known = registry.catalog.layers().await.unwrap();
        assert_eq!(known, registry.known_layers(None).await.unwrap());
        assert_eq!(versions(registry).await, self.model.versions);
        for (digest, need) in registry.catalog.needs().await.unwrap() {
            let bytes = read(registry, digest).await;
            let bytes = bytes.unwrap_or_else(|err| panic!("{digest} {need:?}: {err}"));
            assert_eq!(Digest::of(&bytes), digest);
        }
        for name in registry.catalog.configuration_names(None, u64::MAX).await.unwrap() {
            let configuration = registry.catalog.configuration(&name).await.unwrap();
            for layer in configuration.layers() {
                assert!(registry.blobs().contains(layer.digest).await.unwrap(), "{name} {layer:?}");
            }
        }
    }
}

async fn versions(registry: &Registry) -> BTreeMap<(String, String), Digest> {
    let mut found = BTreeMap::new();
    for component in registry.catalog.components(None, u64::MAX).await.unwrap() {
        for layer in registry.catalog.versions(&component).await.unwrap() {
            let key = (component.as_str().to_owned(), layer.version.as_str().to_owned());
            found.insert(key, layer.digest);
        }
    }
    found
}

/// Runs one history, step by step.
async fn live(seed: u64) {
    let bench = Bench::new(settings()).await;
    let dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut history = History {
        seed,
        bench,
        model: Model::default(),
        dice,
        log: Vec::new(),
        left: BTreeMap::new(),
    };
    for _ in 0..STEPS {
        history.step().await;
    }
    let verified = history.bench.registry().verify(Scope::default()).await.unwrap();
    assert!(verified.findings.is_empty(), "DEPLOY_TEST_SEED={seed}: {verified:?}");
}

#[test]
fn needed_blobs_are_never_removed() {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect(name));
    let first: u64 = number("DEPLOY_TEST_SEED", std::process::id().into());
    let histories = number("DEPLOY_TEST_HISTORIES", 250);
    println!("DEPLOY_TEST_SEED={first}, {histories} histories of {STEPS} steps");
    // While one history waits for the disk, another history continues.
    std::thread::scope(|scope| {
        for lane in (0..LANES).map(u64::from) {
            scope.spawn(move || {
                let runtime = tokio::runtime::Runtime::new().unwrap();
                for seed in (first + lane..first + histories).step_by(LANES.into()) {
                    runtime.block_on(live(seed));
                }
            });
        }
    });
}
