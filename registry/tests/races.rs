//! Runs verbs and collections at the same time. Each verb makes its whole change or none, and no
//! version ever lacks its blob.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use deploy_registry::catalog::Change;
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_registry::verbs::verify_blobs::Scope;
use deploy_store::{Blobs, ComponentName, ConfigurationName, Digest};
use deploy_wire::image::{Compression, Image, ImageLayer, Origin};
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
        self.registry.blobs()
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
async fn one_of_many_binds_the_version_and_others_keep_their_uploads() {
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
async fn gc_keeps_a_blob_that_is_being_bound() {
    let bench = Bench::new().await;
    let shared = bench.upload("shared");
    bench.add("code", "first", shared).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut sweeping = JoinSet::new();
    let (registry, stop) = (Arc::clone(&bench.registry), Arc::clone(&done));
    sweeping.spawn(async move {
        let mut removed = 0;
        while !stop.load(Ordering::Relaxed) {
            removed += registry.collect(false).await.unwrap().blobs.len();
        }
        removed
    });
    let mut adding = JoinSet::new();
    for task in 0..4 {
        let registry = Arc::clone(&bench.registry);
        let files = bench.dir.path().join("reg/files");
        let mine: Vec<Digest> = (0..50).map(|n| bench.upload(&format!("{task} {n}"))).collect();
        adding.spawn(async move {
            for (n, digest) in mine.into_iter().enumerate() {
                let name = format!("{task}-{n}");
                add(&registry, "code", &name, digest).await.unwrap();
                if n % 2 == 0 {
                    // This makes the blob old enough for removal.
                    let file = files.join(digest.to_string());
                    let file = std::fs::File::options().append(true).open(file).unwrap();
                    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
                    let (code, name) = ("code".parse().unwrap(), name.parse().unwrap());
                    registry.catalog.delete_version(&code, &name, false, &change()).await.unwrap();
                }
            }
        });
    }
    adding.join_all().await;
    done.store(true, Ordering::Relaxed);
    let removed: usize = sweeping.join_all().await.iter().sum();
    bench.is_whole().await;
    let kept = bench.registry.catalog.versions(&"code".parse().unwrap()).await.unwrap();
    assert_eq!(kept.len(), 101);
    assert!(removed > 10, "gc removed too few blobs for a race: {removed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn upload_during_gc_of_the_same_blob_is_kept() {
    let bench = Bench::new().await;
    bench.add("other", "v1", bench.upload("other")).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut collecting = JoinSet::new();
    let (registry, stop) = (Arc::clone(&bench.registry), Arc::clone(&done));
    collecting.spawn(async move {
        let mut removed = 0;
        while !stop.load(Ordering::Relaxed) {
            removed += registry.collect(false).await.unwrap().blobs.len();
        }
        removed
    });
    let bench = Arc::new(bench);
    let mut adding = JoinSet::new();
    for task in 0..4 {
        let bench = Arc::clone(&bench);
        adding.spawn(async move {
            let (component, v1) = (format!("c{task}"), "v1".parse().unwrap());
            let name = component.parse().unwrap();
            for n in 0..60 {
                // All tasks use the same few blobs.
                let text = format!("shared {}", n % 3);
                let digest = loop {
                    let digest = bench.upload(&text);
                    match bench.add(&component, "v1", digest).await {
                        Ok(()) => break digest,
                        // Another task has bound this upload, and has made the blob look old.
                        Err(err) => assert!(err.contains("no uploaded file"), "{err}"),
                    }
                };
                let file = bench.dir.path().join("reg/files").join(digest.to_string());
                let bytes = std::fs::read(&file).unwrap();
                assert_eq!(Digest::of(&bytes), digest);
                let file = std::fs::File::options().append(true).open(file).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
                bench.registry.catalog.delete_version(&name, &v1, false, &change()).await.unwrap();
            }
        });
    }
    while let Some(added) = adding.join_next().await {
        added.unwrap();
    }
    done.store(true, Ordering::Relaxed);
    let removed: usize = collecting.join_all().await.iter().sum();
    assert!(removed > 20, "gc removed too few blobs: {removed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_repaired_during_verify_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { max_upload: 64 << 20, ..settings() };
    let registry =
        Arc::new(Registry::open(place(&dir.path().join("reg")), settings).await.unwrap());
    let bench = Bench { dir, registry };
    let text = "x".repeat(20 << 20);
    let digest = bench.upload(&text);
    bench.add("code", "v1", digest).await.unwrap();
    let file = bench.dir.path().join("reg/files").join(digest.to_string());
    let file = std::fs::File::options().write(true).open(file).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"y", 1000).unwrap();
    let registry = Arc::clone(&bench.registry);
    let slow = Scope { rate: Some(2 << 20), ..Scope::default() };
    let reading = tokio::spawn(async move { registry.verify(slow).await.unwrap() });
    // The verification begins now. Its limited rate makes it read for at least ten seconds.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = bench.registry.verify(Scope::default()).await.unwrap();
    assert_eq!(found.findings.len(), 1, "{found:?}");
    assert_eq!(bench.upload(&text), digest);
    assert!(bench.registry.take_back(digest).await.unwrap());
    assert!(!reading.is_finished(), "the background run was too fast to overlap");
    let found = reading.await.unwrap();
    assert!(found.findings.is_empty(), "{found:?}");
    assert!(bench.blobs().contains(digest).unwrap());
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
        // The pause gives the readers time to read the present state.
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    let reads: u64 = reading.join_all().await.iter().sum();
    assert!(reads > CHANGES, "{reads} reads only");
}

/// An image of one layer with a unique origin.
fn image_of(component: &str, digest: Digest) -> Image {
    let origin = Origin { diff_id: digest, removals: digest, compression: Compression::Gzip };
    let component = component.parse().unwrap();
    Image { layers: vec![ImageLayer { component, hash: digest, origin: Some(origin) }] }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_reported_to_an_importer_are_not_removed() {
    let bench = Bench::new().await;
    bench.add("other", "v1", bench.upload("other")).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut collecting = JoinSet::new();
    let (registry, stop) = (Arc::clone(&bench.registry), Arc::clone(&done));
    collecting.spawn(async move {
        let mut removed = 0;
        while !stop.load(Ordering::Relaxed) {
            removed += registry.collect(false).await.unwrap().blobs.len();
        }
        removed
    });
    let bench = Arc::new(bench);
    let mut importing = JoinSet::new();
    for task in 0..4 {
        let bench = Arc::clone(&bench);
        importing.spawn(async move {
            let (registry, name) = (&bench.registry, format!("i{task}"));
            let configuration = name.parse().unwrap();
            let mut reused = 0;
            for n in 0..50 {
                let digest = bench.upload(&format!("{task} {n}"));
                let image = image_of(&name, digest);
                let added = registry.add_image(&configuration, &image, &[], &change()).await;
                added.unwrap();
                let file = bench.dir.path().join("reg/files").join(digest.to_string());
                let file = std::fs::File::options().append(true).open(file).unwrap();
                file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
                let catalog = &registry.catalog;
                catalog.delete_configuration(&configuration, &change()).await.unwrap();
                let component = &image.layers[0].component;
                catalog.delete_component(component, true, &change()).await.unwrap();
                // If `n` is odd, gc may remove the blob of the image.
                let origin = image.layers[0].origin.unwrap();
                if n % 2 == 0 && !registry.known_layers(Some(&[origin])).await.unwrap().is_empty() {
                    // The registry knows the layer, so the client does not send the layer again.
                    let added = registry.add_image(&configuration, &image, &[], &change()).await;
                    added.unwrap();
                    reused += 1;
                }
            }
            reused
        });
    }
    let reused: usize = importing.join_all().await.iter().sum();
    done.store(true, Ordering::Relaxed);
    let removed: usize = collecting.join_all().await.iter().sum();
    assert!(removed > 10 && reused > 10, "{removed} removed, {reused} reused");
    bench.is_whole().await;
    let verified = bench.registry.verify(Scope::default()).await.unwrap();
    assert!(verified.findings.is_empty(), "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blob_removed_during_verify_is_not_reported_missing() {
    let bench = Bench::new().await;
    bench.add("other", "v1", bench.upload("other")).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let mut verifying = JoinSet::new();
    let (registry, stop) = (Arc::clone(&bench.registry), Arc::clone(&done));
    verifying.spawn(async move {
        let mut runs = 0;
        while !stop.load(Ordering::Relaxed) {
            let verified = registry.verify(Scope::default()).await.unwrap();
            assert!(verified.findings.is_empty(), "{verified:?}");
            runs += 1;
        }
        runs
    });
    let (code, v1) = ("code".parse().unwrap(), "v1".parse().unwrap());
    for n in 0..200 {
        let digest = bench.upload(&n.to_string());
        bench.add("code", "v1", digest).await.unwrap();
        let file = bench.dir.path().join("reg/files").join(digest.to_string());
        let file = std::fs::File::options().append(true).open(file).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        bench.registry.catalog.delete_version(&code, &v1, false, &change()).await.unwrap();
        assert_eq!(bench.registry.collect(false).await.unwrap().blobs.len(), 1);
    }
    done.store(true, Ordering::Relaxed);
    assert!(verifying.join_all().await[0] > 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_changes_of_a_state_have_one_winner() {
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
