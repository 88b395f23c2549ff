//! Tests of blobs in a bucket of a real S3 server: uploads, binds, downloads, gc, verify, the marker,
//! and what happens while the bucket does not answer.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use deploy_registry::catalog::ObjectState;
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_registry::verbs::verify_blobs::{Kind, Scope};
use deploy_store::Digest;
use deploy_testing::{FaultProxy, server_bucket};
use deploy_wire::command::Refusal;

use crate::bench::{archive, bucket, change, fast_dir, read, try_upload};

/// A registry with its blobs in a bucket, behind a proxy.
struct Bench {
    dir: tempfile::TempDir,
    proxy: FaultProxy,
    address: String,
    settings: Settings,
    linger: Duration,
    registry: Registry,
}

/// The same bucket, as seen through the proxy.
fn through(address: &str, proxy: &FaultProxy) -> String {
    let (before, rest) = address.split_once("endpoint=").unwrap();
    let (_, after) = rest.split_once('&').unwrap();
    format!("{before}endpoint={}&{after}", proxy.url())
}

fn place(dir: &Path, address: &str, linger: Duration) -> Place {
    let bucket = Some(bucket(address, linger));
    Place { catalogue: deploy_testing::catalogue(dir), bucket, ..Place::from(dir) }
}

fn settings() -> Settings {
    Settings { max_versions: 0, grace: Duration::ZERO, ..Settings::default() }
}

impl Bench {
    /// `None` if there is no S3 server.
    async fn new(settings: Settings, linger: Duration) -> Option<Self> {
        let dir = fast_dir();
        let address = server_bucket(dir.path())?;
        let target = address.split_once("http://").unwrap().1.split('&').next().unwrap();
        let proxy = FaultProxy::start(target, 1);
        let address = through(&address, &proxy);
        let place = place(&dir.path().join("reg"), &address, linger);
        let registry = Registry::open(place, settings).await.unwrap();
        Some(Self { dir, proxy, address, settings, linger, registry })
    }

    fn reg(&self) -> PathBuf {
        self.dir.path().join("reg")
    }

    async fn reopen(self) -> Self {
        let Self { dir, proxy, address, settings, linger, registry } = self;
        registry.catalog.close().await;
        drop(registry);
        let place = place(&dir.path().join("reg"), &address, linger);
        let registry = Registry::open(place, settings).await.unwrap();
        Self { dir, proxy, address, settings, linger, registry }
    }

    async fn put(&self, version: &str, bytes: &[u8]) -> Result<Digest, Refusal> {
        let digest = try_upload(&self.registry, bytes).await?;
        self.add(version, digest).await?;
        Ok(digest)
    }

    async fn add(&self, version: &str, digest: Digest) -> Result<(), Refusal> {
        let (component, version) = ("code".parse().unwrap(), version.parse().unwrap());
        Ok(self.registry.add_version(&component, &version, digest, &change()).await?)
    }

    async fn delete(&self, version: &str) {
        let (component, version) = ("code".parse().unwrap(), version.parse().unwrap());
        let catalog = &self.registry.catalog;
        catalog.delete_version(&component, &version, false, &change()).await.unwrap();
    }

    /// The number of objects in each state.
    async fn states(&self) -> Vec<(ObjectState, u64)> {
        let counts = self.registry.catalog.object_counts().await.unwrap();
        counts.into_iter().map(|(state, count)| (state, count.blobs)).collect()
    }

    /// Removes all copies from the cache.
    fn empty_cache(&self) {
        for copy in fs::read_dir(self.reg().join("cache")).unwrap() {
            fs::remove_file(copy.unwrap().path()).unwrap();
        }
    }

    fn requests(&self, method: &str) -> usize {
        let requests = self.proxy.take_requests();
        requests.iter().filter(|line| line.starts_with(&format!("{method} "))).count()
    }
}

#[tokio::test]
async fn upload_is_bound_read_and_collected() {
    let Some(bench) = Bench::new(settings(), Duration::ZERO).await else { return };
    let bytes = archive("one");
    let digest = try_upload(&bench.registry, &bytes).await.unwrap();
    assert_eq!(bench.states().await, [(ObjectState::Staged, 1)]);
    bench.proxy.take_requests();
    bench.add("v1", digest).await.unwrap();
    assert_eq!(bench.proxy.take_requests(), [""; 0], "a bind sends no request");
    assert_eq!(read(&bench.registry, digest).await.unwrap(), bytes);
    assert_eq!(bench.requests("GET"), 0, "the upload is in the cache");
    bench.empty_cache();
    let bench = bench.reopen().await;
    assert_eq!(read(&bench.registry, digest).await.unwrap(), bytes);
    bench.delete("v1").await;
    let planned = bench.registry.would_collect().await.unwrap();
    let done = bench.registry.collect(true).await.unwrap();
    assert_eq!(planned, done);
    assert_eq!(done.blobs.len(), 1);
    assert_eq!(bench.states().await, []);
    let missing = read(&bench.registry, digest).await.unwrap_err();
    assert!(missing.text.contains("no blob"), "{missing}");
    let deleted = bench.proxy.take_requests();
    let is_deletion = |line: &String| line.starts_with("DELETE ") || line.ends_with("?delete");
    assert!(deleted.iter().any(is_deletion), "{deleted:?}");
}

#[tokio::test]
async fn long_upload_is_sent_in_parts_and_read_by_many_with_one_request() {
    let Some(bench) = Bench::new(settings(), Duration::ZERO).await else { return };
    let bytes = archive(&"0123456789abcdef".repeat(2 << 20));
    bench.proxy.take_requests();
    let digest = bench.put("v1", &bytes).await.unwrap();
    let sent = bench.proxy.take_requests();
    let parts = sent.iter().filter(|line| line.contains("partNumber=")).count();
    assert_eq!(parts, bytes.len().div_ceil(8 << 20), "{sent:?}");
    bench.empty_cache();
    let registry = Arc::new(bench.registry);
    let mut reading = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let registry = Arc::clone(&registry);
        reading.spawn(async move { read(&registry, digest).await.unwrap() });
    }
    for read in reading.join_all().await {
        assert_eq!(Digest::of(&read), digest);
    }
    let got = bench.proxy.take_requests();
    assert_eq!(got.iter().filter(|line| line.starts_with("GET ")).count(), 1, "{got:?}");
}

#[tokio::test]
async fn same_bytes_are_stored_once_and_a_lost_object_is_replaced() {
    let Some(bench) = Bench::new(settings(), Duration::ZERO).await else { return };
    let bytes = archive("one");
    let digest = bench.put("v1", &bytes).await.unwrap();
    bench.put("v2", &bytes).await.unwrap();
    assert_eq!(bench.states().await, [(ObjectState::Live, 1)]);
    let place = bench.registry.catalog.object(digest).await.unwrap().unwrap().place;
    delete_object(&bench.address, &place);
    bench.empty_cache();
    let missing = read(&bench.registry, digest).await.unwrap_err();
    assert!(missing.text.contains("is missing in the bucket"), "{missing}");
    let verified = bench.registry.verify(Scope::default()).await.unwrap();
    let kinds: Vec<Kind> = verified.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::Missing]);
    assert!(!bench.registry.blobs().contains(digest).await.unwrap());
    assert_eq!(try_upload(&bench.registry, &bytes).await.unwrap(), digest);
    bench.empty_cache();
    assert_eq!(read(&bench.registry, digest).await.unwrap(), bytes);
    let verified = bench.registry.verify(Scope::default()).await.unwrap();
    assert!(verified.findings.is_empty(), "{verified:?}");
    bench.registry.collect(false).await.unwrap();
    assert_eq!(bench.states().await, [(ObjectState::Live, 1)]);
}

#[tokio::test]
async fn damaged_object_is_refused_and_replaced_by_an_upload() {
    let Some(bench) = Bench::new(settings(), Duration::ZERO).await else { return };
    let bytes = archive("one");
    let digest = bench.put("v1", &bytes).await.unwrap();
    let place = bench.registry.catalog.object(digest).await.unwrap().unwrap().place;
    let mut wrong = bytes.clone();
    wrong[600] ^= 1;
    put_object(&bench.address, &place, &wrong);
    // The copy in the cache is right.
    assert_eq!(read(&bench.registry, digest).await.unwrap(), bytes);
    bench.empty_cache();
    let refused = read(&bench.registry, digest).await.unwrap_err();
    assert!(refused.text.contains("is damaged"), "{refused}");
    assert_eq!(fs::read_dir(bench.reg().join("cache")).unwrap().count(), 0);
    // A second reading in the background finds the damage, too.
    while bench.registry.blobs().contains(digest).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let verified = bench.registry.verify(Scope::default()).await.unwrap();
    assert_eq!(verified.damaged(), 1, "{verified:?}");
    assert_eq!(verified.findings[0].kind, Kind::Damaged);
    try_upload(&bench.registry, &bytes).await.unwrap();
    assert_eq!(read(&bench.registry, digest).await.unwrap(), bytes);
    let now = bench.registry.catalog.object(digest).await.unwrap().unwrap();
    assert_ne!(now.place, place, "a key was used twice");
    assert_eq!(bench.registry.verify(Scope::default()).await.unwrap().damaged(), 0);
}

#[tokio::test]
async fn condemned_object_lingers_and_a_new_upload_revives_it() {
    let linger = Duration::from_secs(3600);
    let Some(bench) = Bench::new(settings(), linger).await else { return };
    let bytes = archive("one");
    let digest = bench.put("v1", &bytes).await.unwrap();
    bench.delete("v1").await;
    bench.registry.collect(true).await.unwrap();
    assert_eq!(bench.states().await, [(ObjectState::Condemned, 1)]);
    bench.registry.collect(true).await.unwrap();
    assert_eq!(bench.states().await, [(ObjectState::Condemned, 1)]);
    bench.proxy.take_requests();
    bench.put("v2", &bytes).await.unwrap();
    assert_eq!(bench.requests("PUT"), 0, "the bytes are in the bucket");
    assert_eq!(bench.states().await, [(ObjectState::Live, 1)]);
    assert!(bench.registry.blobs().contains(digest).await.unwrap());
}

#[tokio::test]
async fn polls_binds_and_cached_downloads_work_while_the_bucket_is_away() {
    let Some(bench) = Bench::new(settings(), Duration::ZERO).await else { return };
    let [one, two, three] = ["one", "two", "three"].map(archive);
    let cached = bench.put("v1", &one).await.unwrap();
    let staged = try_upload(&bench.registry, &two).await.unwrap();
    bench.proxy.set_away(true);
    let refused = try_upload(&bench.registry, &three).await.unwrap_err();
    assert!(refused.text.contains("send it again when the bucket answers"), "{refused}");
    bench.add("v2", staged).await.unwrap();
    assert_eq!(read(&bench.registry, cached).await.unwrap(), one);
    bench.empty_cache();
    let refused = read(&bench.registry, cached).await.unwrap_err();
    assert!(refused.text.contains("try again when the bucket answers"), "{refused}");
    let stat = bench.registry.stat().await.unwrap().bucket.unwrap();
    assert!(stat.away.is_some());
    bench.delete("v1").await;
    let done = bench.registry.collect(false).await.unwrap();
    assert!(done.unfinished.is_some(), "{done:?}");
    // A registry that knows its bucket starts without the bucket.
    let bench = bench.reopen().await;
    bench.add("v3", staged).await.unwrap();
    bench.proxy.set_away(false);
    // For some seconds after a check without an answer, the registry makes no other check.
    while bench.put("v4", &three).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(read(&bench.registry, staged).await.unwrap(), two);
    assert!(bench.registry.stat().await.unwrap().bucket.unwrap().away.is_none());
    bench.registry.collect(false).await.unwrap();
    assert_eq!(bench.states().await, [(ObjectState::Live, 2)]);
}

#[tokio::test]
async fn objects_of_a_crashed_registry_are_given_up() {
    let Some(bench) = Bench::new(settings(), Duration::ZERO).await else { return };
    if bench.registry.catalog.is_shared() {
        // `several` tests what other registries do with the objects.
        return;
    }
    let (catalog, digest) = (&bench.registry.catalog, Digest::of(b"one"));
    let place = format!("blobs/{}/{digest}.{}", &digest.to_string()[..2], "0".repeat(26));
    let new = deploy_registry::catalog::NewObject {
        place: &place,
        digest,
        bytes: 3,
        uploader: "me",
        checked: false,
    };
    assert!(catalog.begin_object(new, u64::MAX).await.unwrap().is_none());
    put_object(&bench.address, &place, b"one");
    bench.registry.sweep_objects().await.unwrap();
    assert_eq!(bench.states().await, [(ObjectState::Writing, 1)]);
    let bench = bench.reopen().await;
    assert!(!bench.registry.catalog.end_object(&place).await.unwrap(), "another one's object");
    bench.registry.sweep_objects().await.unwrap();
    assert_eq!(bench.states().await, []);
}

#[tokio::test]
async fn wrong_bucket_and_older_catalogue_are_refused() {
    let Some(bench) = Bench::new(settings(), Duration::ZERO).await else { return };
    if deploy_testing::catalogue(&bench.reg()).is_some() {
        return;
    }
    let digest = bench.put("v1", &archive("one")).await.unwrap();
    bench.registry.catalog.close().await;
    let Bench { dir, address, registry, .. } = bench;
    drop(registry);
    let reg = dir.path().join("reg");
    let backup = fs::read(reg.join("catalogue.db")).unwrap();
    let open = async |place: Place| Registry::open(place, settings()).await;
    let refused = async |place: Place| open(place).await.unwrap_err().to_string();

    // Another directory, another bucket, no bucket.
    let text = refused(place(&dir.path().join("other"), &address, Duration::ZERO)).await;
    assert!(text.contains("belongs to another catalogue"), "{text}");
    let elsewhere = format!("{address}x");
    let text = refused(place(&reg, &elsewhere, Duration::ZERO)).await;
    assert!(text.contains("has no marker"), "{text}");
    let text = refused(Place::from(&reg)).await;
    assert!(text.contains("give the bucket with -bucket"), "{text}");

    // After the backup, the registry removes an object.
    let own = || place(&reg, &address, Duration::ZERO);
    let registry = open(own()).await.unwrap();
    let (code, v1) = ("code".parse().unwrap(), "v1".parse().unwrap());
    registry.catalog.delete_version(&code, &v1, false, &change()).await.unwrap();
    let late = try_upload(&registry, &archive("late")).await.unwrap();
    let v2 = "v2".parse().unwrap();
    registry.add_version(&code, &v2, late, &change()).await.unwrap();
    registry.collect(false).await.unwrap();
    registry.catalog.close().await;
    drop(registry);
    fs::write(reg.join("catalogue.db"), backup).unwrap();
    let text = refused(own()).await;
    assert!(text.contains("the catalogue is older than the bucket"), "{text}");
    let number = text.split("-accept-older-catalogue ").nth(1).unwrap();
    let number = number.split(':').next().unwrap().parse().unwrap();
    let accepting = |number| {
        let mut place = own();
        place.bucket.as_mut().unwrap().accepts_older = Some(number);
        place
    };
    let text = refused(accepting(number + 1)).await;
    assert!(text.contains("the catalogue is older than the bucket"), "{text}");
    let registry = open(accepting(number)).await.unwrap();
    let text = registry.collect(true).await.unwrap_err().to_string();
    assert!(text.contains("nothing is removed"), "{text}");
    let verified = registry.verify(Scope::default()).await.unwrap();
    let lost = |kind| verified.findings.iter().any(|finding| finding.kind == kind);
    assert!(lost(Kind::Missing), "{verified:?}");
    assert!(read(&registry, digest).await.is_err());
    registry.catalog.close().await;
    drop(registry);
    open(own()).await.unwrap();
}

#[tokio::test]
async fn directory_with_blobs_refuses_a_bucket() {
    let dir = fast_dir();
    let Some(address) = server_bucket(dir.path()) else { return };
    let registry = Registry::open(dir.path(), settings()).await.unwrap();
    let digest = try_upload(&registry, &archive("one")).await.unwrap();
    let (code, v1) = ("code".parse().unwrap(), "v1".parse().unwrap());
    registry.add_version(&code, &v1, digest, &change()).await.unwrap();
    registry.catalog.close().await;
    drop(registry);
    let bucket = Some(bucket(&address, Duration::ZERO));
    let opened = Registry::open(Place { bucket, ..Place::from(dir.path()) }, settings()).await;
    let text = opened.unwrap_err().to_string();
    assert!(text.contains("has blobs in files/"), "{text}");
}

#[tokio::test]
async fn quota_counts_the_uploads_of_earlier_starts() {
    let settings = Settings { max_staged: 5000, grace: Duration::from_secs(3600), ..settings() };
    let Some(bench) = Bench::new(settings, Duration::ZERO).await else { return };
    let one = archive("one");
    assert!(one.len() > 1500 && one.len() < 2500);
    for text in ["one", "two"] {
        try_upload(&bench.registry, &archive(text)).await.unwrap();
    }
    let bench = bench.reopen().await;
    let refused = try_upload(&bench.registry, &archive("three")).await.unwrap_err();
    assert!(refused.text.contains("-max-staged"), "{refused}");
    bench.add("v1", Digest::of(&one)).await.unwrap();
    try_upload(&bench.registry, &archive("three")).await.unwrap();
}

#[tokio::test]
async fn bad_archive_is_stored_and_not_bound() {
    let Some(bench) = Bench::new(settings(), Duration::ZERO).await else { return };
    let digest = try_upload(&bench.registry, b"no archive").await.unwrap();
    let refused = bench.add("v1", digest).await.unwrap_err();
    assert!(refused.text.contains("no agent could unpack"), "{refused}");
    assert_eq!(bench.states().await, [(ObjectState::Staged, 1)]);
}

/// Sends a request to the server with curl, which signs it.
fn curl(address: &str, place: &str, more: &[&str]) {
    let (name, query) = address.strip_prefix("s3://").unwrap().split_once('?').unwrap();
    let value = |key: &str| {
        query.split('&').find_map(|pair| pair.strip_prefix(&format!("{key}="))).unwrap()
    };
    let url = format!("{}/{name}/{}/{place}", value("endpoint"), value("prefix"));
    let variable = |name: &str| std::env::var(name).unwrap();
    let user = format!("{}:{}", variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"));
    let sent = std::process::Command::new("curl")
        .args(["-sS", "--fail-with-body", "--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &user])
        .args(["-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD"])
        .args(more)
        .arg(&url)
        .output()
        .unwrap();
    assert!(sent.status.success(), "curl {url}: {}", String::from_utf8_lossy(&sent.stdout));
}

fn delete_object(address: &str, place: &str) {
    curl(address, place, &["-X", "DELETE"]);
}

fn put_object(address: &str, place: &str, bytes: &[u8]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    curl(address, place, &["-T", file.path().to_str().unwrap()]);
}
