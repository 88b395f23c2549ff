//! Runs verbs and garbage collections at the same time. Each verb makes its whole change or no
//! change, and no version ever lacks its blob.

mod collections;
mod verifications;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deploy_registry::catalog::Change;
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_store::{Blobs, ComponentName, ConfigurationName, Digest};
use jiff::Timestamp;
use tokio::task::JoinSet;

const AT_ONCE: usize = 16;

fn place(dir: &Path) -> Place {
    Place { catalogue: deploy_testing::catalogue(dir), ..Place::from(dir) }
}

struct Bench {
    dir: tempfile::TempDir,
    registry: Arc<Registry>,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry =
            Arc::new(Registry::open(place(&dir.path().join("reg")), settings()).await.unwrap());
        Self { dir, registry }
    }

    fn blobs(&self) -> &Blobs {
        self.registry.blobs().local()
    }

    /// Uploads an archive with one file, which contains `text`.
    fn upload(&self, text: &str) -> Digest {
        let mut header = tar::Header::new_ustar();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "file", text.as_bytes()).unwrap();
        let mut staging = self.blobs().stage().unwrap();
        staging.write_at(0, &archive.into_inner().unwrap()).unwrap();
        staging.finish().unwrap()
    }

    async fn add(&self, component: &str, version: &str, digest: Digest) -> Result<(), String> {
        add(&self.registry, component, version, digest).await
    }

    /// Checks that the blob of every version exists.
    async fn is_whole(&self) {
        for component in self.registry.catalog.components(None, u64::MAX).await.unwrap() {
            for layer in self.registry.catalog.versions(&component).await.unwrap() {
                assert!(self.blobs().contains(layer.digest).unwrap(), "{layer:?}");
            }
        }
    }
}

async fn add(
    registry: &Registry,
    component: &str,
    version: &str,
    digest: Digest,
) -> Result<(), String> {
    let (component, version) = (component.parse().unwrap(), version.parse().unwrap());
    registry
        .add_version(&component, &version, digest, &change())
        .await
        .map_err(|err| err.to_string())
}

fn change() -> Change {
    Change {
        user: "me".into(),
        key: "test".into(),
        address: "here".into(),
        command: "test".into(),
        now: Timestamp::now(),
        overrides: false,
        rolling: deploy_wire::command::Rolling::default(),
    }
}

fn settings() -> Settings {
    Settings { max_upload: 1 << 20, max_versions: 0, ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_addver_binds_the_version_and_the_others_keep_their_uploads() {
    let bench = Bench::new().await;
    let digests: Vec<Digest> = (0..AT_ONCE).map(|n| bench.upload(&n.to_string())).collect();
    let mut adding = JoinSet::new();
    for digest in digests.clone() {
        let registry = Arc::clone(&bench.registry);
        adding.spawn(async move { (digest, add(&registry, "code", "v1", digest).await) });
    }
    let (won, lost): (Vec<_>, Vec<_>) =
        adding.join_all().await.into_iter().partition(|(_, added)| added.is_ok());
    assert_eq!((won.len(), lost.len()), (1, AT_ONCE - 1));
    for (digest, refused) in lost {
        assert_eq!(refused.unwrap_err(), "version \"v1\" already exists");
        assert!(!bench.blobs().contains(digest).unwrap(), "a failed addver left its blob");
        bench.add("other", &digest.to_string(), digest).await.unwrap();
    }
    bench.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_blob_can_be_bound_concurrently() {
    let bench = Bench::new().await;
    let digest = bench.upload("one");
    let mut adding = JoinSet::new();
    for n in 0..AT_ONCE {
        let registry = Arc::clone(&bench.registry);
        adding.spawn(async move { add(&registry, "code", &format!("v{n}"), digest).await });
    }
    for added in adding.join_all().await {
        assert_eq!(added, Ok(()));
    }
    assert_eq!(bench.blobs().list().unwrap().len(), 1);
    bench.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_never_sees_an_older_state_again() {
    const CHANGES: u64 = 150;
    let bench = Bench::new().await;
    let digests = [bench.upload("even"), bench.upload("odd")];
    bench.add("code", "v0", digests[0]).await.unwrap();
    bench.add("code", "v1", digests[1]).await.unwrap();
    let code: ComponentName = "code".parse().unwrap();
    let name: ConfigurationName = "p".parse().unwrap();
    let layer = |n: u64| (code.clone(), format!("v{}", n % 2).parse().unwrap());
    bench.registry.catalog.add_configuration(&name, &[layer(0)], false, &change()).await.unwrap();
    // The number of acknowledged changes, and the number of changes that may have begun.
    let (done, begun) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut reading = JoinSet::new();
    for _ in 0..3 {
        let registry = Arc::clone(&bench.registry);
        let (name, done, begun) = (name.clone(), Arc::clone(&done), Arc::clone(&begun));
        reading.spawn(async move {
            let mut reads = 0;
            while done.load(Ordering::SeqCst) < CHANGES {
                let before = done.load(Ordering::SeqCst);
                let json = registry.catalog.configuration_json(&name).await.unwrap().unwrap();
                let after = begun.load(Ordering::SeqCst);
                let text = String::from_utf8(json.to_vec()).unwrap();
                let odd = u64::from(text.contains("\"v1\""));
                assert!((before..=after).any(|n| n % 2 == odd), "{before} to {after}: {text}");
                reads += 1;
                tokio::task::yield_now().await;
            }
            reads
        });
    }
    for n in 1..=CHANGES {
        begun.store(n, Ordering::SeqCst);
        let catalog = &bench.registry.catalog;
        catalog.change_configuration(&name, &[layer(n)], None, &change()).await.unwrap();
        done.store(n, Ordering::SeqCst);
        // The pause gives the readers time to read the current state.
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let reads: u64 = reading.join_all().await.iter().sum();
    assert!(reads > CHANGES, "only {reads} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_with_if_hash_have_one_winner() {
    let bench = Bench::new().await;
    let (code, project) = ("code".parse().unwrap(), "project1".parse().unwrap());
    for n in 0..=AT_ONCE {
        let digest = bench.upload(&n.to_string());
        bench.add("code", &format!("v{n}"), digest).await.unwrap();
    }
    let catalog = &bench.registry.catalog;
    let first = vec![(Clone::clone(&code), "v0".parse().unwrap())];
    catalog.add_configuration(&project, &first, false, &change()).await.unwrap();
    let id = catalog.configuration(&project).await.unwrap().id();
    for (if_hash, winners) in [(Some(id), 1), (None, AT_ONCE)] {
        let mut changing = JoinSet::new();
        for n in 1..=AT_ONCE {
            let registry = Arc::clone(&bench.registry);
            let changes = vec![(Clone::clone(&code), format!("v{n}").parse().unwrap())];
            let project = Clone::clone(&project);
            changing.spawn(async move {
                let catalog = &registry.catalog;
                let if_hash = if_hash.map(Into::into);
                catalog.change_configuration(&project, &changes, if_hash, &change()).await.is_ok()
            });
        }
        let won = changing.join_all().await.into_iter().filter(|won| *won).count();
        assert_eq!(won, winners);
    }
    let history = catalog.history(&project, None, u64::MAX).await.unwrap();
    let numbers: Vec<u64> = history.iter().map(|state| state.number).collect();
    let expected: Vec<u64> = (1..=2 + AT_ONCE as u64).rev().collect();
    assert_eq!(numbers, expected);
    assert_eq!(history.iter().filter(|state| state.current).count(), 1);
}
