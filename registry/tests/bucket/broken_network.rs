//! Uploads, binds, deletions, gc and restarts, while the network before the S3 server drops requests,
//! delays them, loses answers and carries out deletions late. Every acknowledged version keeps its
//! right bytes, and no reader ever gets wrong bytes.

#![allow(clippy::print_stdout, reason = "the test prints the seed")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deploy_registry::catalog::ObjectState;
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_registry::verbs::verify_blobs::Scope;
use deploy_store::Digest;
use deploy_testing::{FaultProxy, Faults, server_bucket};

use crate::bench::{archive, bucket, change, fast_dir, read, try_upload};

/// How many clients change the registry at the same time.
const CLIENTS: u64 = 4;
/// How many changes each client tries between two restarts.
const CHANGES: usize = 12;
/// The faults of the network, in each of 1,000 requests.
const FAULTS: Faults = Faults { drop: 80, delay: 60, lose_answer: 80, late_delete: 300 };

/// A generator of random numbers (xorshift64*).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % sides
    }
}

/// The versions of one client that the registry has acknowledged.
type Acknowledged = BTreeMap<String, Digest>;

fn settings() -> Settings {
    // Uploads expire, and unneeded objects are deleted, as soon as gc runs.
    Settings { max_versions: 0, grace: Duration::ZERO, ..Settings::default() }
}

/// An archive. Clients upload archives with the same few texts again and again. One of the archives
/// is so long that it is sent in parts.
fn some_archive(dice: &mut Dice) -> Vec<u8> {
    match dice.throw(24) {
        0 => archive(&"long".repeat(17 << 18)),
        n => archive(&(n % 8).to_string()),
    }
}

/// The changes of one client.
async fn client(
    registry: Arc<Registry>,
    client: u64,
    mut dice: Dice,
    mut own: Acknowledged,
) -> Acknowledged {
    for _ in 0..CHANGES {
        let version = format!("c{client}-{}", dice.throw(1 << 30));
        let (code, name) = ("code".parse().unwrap(), version.parse().unwrap());
        match dice.throw(8) {
            0 | 1 => {
                let Some(version) = own.keys().nth(dice.throw(own.len().max(1))).cloned() else {
                    continue;
                };
                let name = version.parse().unwrap();
                let deleted = registry.catalog.delete_version(&code, &name, false, &change()).await;
                deleted.unwrap();
                own.remove(&version);
            }
            2 => {
                let Some(digest) = own.values().nth(dice.throw(own.len().max(1))) else { continue };
                // The bucket may not answer, but it must not give wrong bytes.
                if let Ok(bytes) = read(&registry, *digest).await {
                    assert_eq!(Digest::of(&bytes), *digest);
                }
            }
            _ => {
                let bytes = some_archive(&mut dice);
                let Ok(digest) = try_upload(&registry, &bytes).await else { continue };
                assert_eq!(digest, Digest::of(&bytes));
                // gc may have removed the upload, because it expires at once.
                if registry.add_version(&code, &name, digest, &change()).await.is_ok() {
                    own.insert(version, digest);
                }
            }
        }
    }
    own
}

fn empty_cache(reg: &Path) {
    for copy in fs::read_dir(reg.join("cache")).unwrap() {
        fs::remove_file(copy.unwrap().path()).unwrap();
    }
}

/// One life of the registry, from its start to its end. Returns the acknowledged versions.
async fn life(place: Place, dice: &mut Dice, before: Vec<Acknowledged>) -> Vec<Acknowledged> {
    let registry = loop {
        match Registry::open(place.clone(), settings()).await {
            Ok(registry) => break Arc::new(registry),
            Err(err) => assert!(err.to_string().contains("bucket"), "{err}"),
        }
    };
    empty_cache(&place.dir);
    let done = Arc::new(AtomicBool::new(false));
    let (ended, collecting) = (Arc::clone(&done), Arc::clone(&registry));
    let gc = tokio::spawn(async move {
        while !ended.load(Ordering::Relaxed) {
            let collected = collecting.collect(true).await;
            collected.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut clients = Vec::new();
    for (number, own) in (0..CLIENTS).zip(before) {
        let dice = Dice(dice.throw(1 << 30) as u64 | 1);
        clients.push(tokio::spawn(client(Arc::clone(&registry), number, dice, own)));
    }
    let mut acknowledged = Vec::new();
    for client in clients {
        acknowledged.push(client.await.unwrap());
    }
    done.store(true, Ordering::Relaxed);
    if dice.throw(2) == 0 {
        gc.await.unwrap();
    } else {
        // A crash in the midst of a collection.
        gc.abort();
        let _ = gc.await;
    }
    registry.catalog.close().await;
    acknowledged
}

/// Checks that every acknowledged version has its right bytes in the bucket.
async fn is_whole(registry: &Registry, reg: &Path, acknowledged: &[Acknowledged], seed: u64) {
    empty_cache(reg);
    for (version, digest) in acknowledged.iter().flatten() {
        let bytes = read(registry, *digest).await;
        let bytes = bytes.unwrap_or_else(|err| panic!("seed {seed}: {version} {digest}: {err}"));
        assert_eq!(Digest::of(&bytes), *digest, "seed {seed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_acknowledged_is_lost_on_a_broken_network() {
    let dir = fast_dir();
    let Some(address) = server_bucket(dir.path()) else { return };
    let number = |name: &str, default| {
        std::env::var(name).map_or(default, |text| text.parse::<u64>().expect(name))
    };
    let seed = number("DEPLOY_TEST_SEED", std::process::id().into());
    let lives = number("DEPLOY_TEST_LIVES", 4);
    println!("DEPLOY_TEST_SEED={seed}, {lives} lives");
    let (before, rest) = address.split_once("endpoint=http://").unwrap();
    let (target, after) = rest.split_once('&').unwrap();
    let proxy = FaultProxy::start(target, seed);
    let address = format!("{before}endpoint={}&{after}", proxy.url());
    let reg = dir.path().join("reg");
    let bucket = Some(bucket(&address, Duration::ZERO));
    let catalogue = deploy_testing::catalogue(&reg);
    let place = Place { dir: reg.clone(), catalogue, bucket };
    Registry::open(place.clone(), settings()).await.unwrap().catalog.close().await;
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut acknowledged = vec![Acknowledged::new(); usize::try_from(CLIENTS).unwrap()];
    for _ in 0..lives {
        proxy.set(FAULTS);
        acknowledged = life(place.clone(), &mut dice, acknowledged).await;
    }
    proxy.set(Faults::default());
    let registry = Registry::open(place, settings()).await.unwrap();
    is_whole(&registry, &reg, &acknowledged, seed).await;
    proxy.settle();
    is_whole(&registry, &reg, &acknowledged, seed).await;
    let verified = registry.verify(Scope::default()).await.unwrap();
    assert!(verified.findings.is_empty(), "seed {seed}: {verified:?}");
    // gc leaves exactly the objects that versions need.
    for _ in 0..2 {
        let done = registry.collect(true).await.unwrap();
        assert_eq!(done.unfinished, None, "seed {seed}");
    }
    let counts = registry.catalog.object_counts().await.unwrap();
    let needed = registry.catalog.needs().await.unwrap().len() as u64;
    let live = counts.get(&ObjectState::Live).map_or(0, |count| count.blobs);
    assert_eq!((live, counts.len()), (needed, usize::from(needed > 0)), "seed {seed}: {counts:?}");
    let versions: usize = acknowledged.iter().map(BTreeMap::len).sum();
    println!("{versions} versions, {needed} blobs");
    assert!(versions > 0, "seed {seed}: no upload succeeded");
    is_whole(&registry, &reg, &acknowledged, seed).await;
}
