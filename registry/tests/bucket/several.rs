//! Tests of several registries on one catalogue and one bucket, in one process.

use std::path::PathBuf;
use std::time::Duration;

use deploy_registry::catalog::fleet::Sent;
use deploy_registry::catalog::{NewObject, ObjectState};
use deploy_registry::fleet::polls::Poller;
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_registry::ssh;
use deploy_store::{ConfigurationName, Digest};
use deploy_testing::{server_bucket, server_catalogue};
use deploy_wire::fleet::{Phase, Report};

use crate::bench::{archive, bucket, change, fast_dir, read, try_upload};

const HOUR: Duration = Duration::from_secs(3600);

/// The place that registries share.
struct Shared {
    dir: tempfile::TempDir,
    bucket: String,
    catalogue: String,
}

impl Shared {
    /// `None` if there is no S3 server or no database server.
    fn new() -> Option<Self> {
        let dir = fast_dir();
        let (bucket, catalogue) = (server_bucket(dir.path())?, server_catalogue(dir.path())?);
        Some(Self { dir, bucket, catalogue })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn place(&self, name: &str, abandon: Duration) -> Place {
        let mut bucket = bucket(&self.bucket, Duration::ZERO);
        bucket.abandon = abandon;
        Place {
            dir: self.path(name),
            catalogue: Some(self.catalogue.clone()),
            bucket: Some(bucket),
        }
    }

    async fn open(&self, name: &str) -> Registry {
        Registry::open(self.place(name, HOUR), settings()).await.unwrap()
    }
}

fn settings() -> Settings {
    Settings { max_versions: 0, grace: Duration::ZERO, ..Settings::default() }
}

async fn add(registry: &Registry, version: &str, digest: Digest) {
    let (component, version) = ("code".parse().unwrap(), version.parse().unwrap());
    registry.add_version(&component, &version, digest, &change()).await.unwrap();
}

async fn delete(registry: &Registry, version: &str) {
    let (component, version) = ("code".parse().unwrap(), version.parse().unwrap());
    registry.catalog.delete_version(&component, &version, false, &change()).await.unwrap();
}

async fn configure(registry: &Registry, name: &ConfigurationName, version: &str) {
    let layers = [("code".parse().unwrap(), version.parse().unwrap())];
    registry.catalog.add_configuration(name, &layers, true, &change()).await.unwrap();
}

async fn states(registry: &Registry) -> Vec<(ObjectState, u64)> {
    let counts = registry.catalog.object_counts().await.unwrap();
    counts.into_iter().map(|(state, count)| (state, count.blobs)).collect()
}

#[tokio::test]
async fn upload_at_one_registry_is_bound_and_read_at_another() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = (shared.open("a").await, shared.open("b").await);
    let bytes = archive("one");
    let digest = try_upload(&first, &bytes).await.unwrap();
    add(&second, "v1", digest).await;
    assert_eq!(read(&second, digest).await.unwrap(), bytes);
    let again = try_upload(&second, &bytes).await.unwrap();
    assert_eq!(again, digest);
    assert_eq!(states(&first).await, [(ObjectState::Live, 1)]);
}

/// A document that a registry returns is never older than a change that any registry has
/// acknowledged before.
#[tokio::test(flavor = "multi_thread")]
async fn change_at_one_registry_is_polled_at_another_at_once() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = (shared.open("a").await, shared.open("b").await);
    let name: ConfigurationName = "web".parse().unwrap();
    for n in 0..6 {
        let digest = try_upload(&first, &archive(&format!("{n}"))).await.unwrap();
        add(&first, &format!("v{n}"), digest).await;
    }
    let polled = async |registry: &Registry| {
        let json = registry.catalog.configuration_json(&name).await.unwrap();
        json.map(|json| String::from_utf8(json.to_vec()).unwrap())
    };
    assert_eq!(polled(&second).await, None);
    for n in 0..60 {
        let version = format!("v{}", n % 6);
        let (changed, other) = if n % 2 == 0 { (&first, &second) } else { (&second, &first) };
        configure(changed, &name, &version).await;
        for registry in [other, changed, other] {
            let json = polled(registry).await.unwrap();
            assert!(json.contains(&format!("\"{version}\"")), "{version} in {json}");
        }
    }
    first.catalog.delete_configuration(&name, &change()).await.unwrap();
    assert_eq!(polled(&second).await, None);
}

#[tokio::test]
async fn unfinished_upload_is_given_up_only_after_abandon_after() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = (shared.open("a").await, shared.open("b").await);
    let digest = Digest::of(b"one");
    let place = format!("blobs/{}/{digest}.{}", &digest.to_string()[..2], "0".repeat(26));
    let new = NewObject { place: &place, digest, bytes: 3, uploader: "me", checked: false };
    assert!(first.catalog.begin_object(new, u64::MAX).await.unwrap().is_none());
    second.sweep_objects().await.unwrap();
    assert_eq!(states(&second).await, [(ObjectState::Writing, 1)], "the first registry runs");
    assert!(!second.catalog.end_object(&place).await.unwrap(), "another one's object");
    first.catalog.close().await;
    second.sweep_objects().await.unwrap();
    assert_eq!(states(&second).await, [(ObjectState::Writing, 1)], "an hour has not passed");
    let third = Registry::open(shared.place("c", Duration::ZERO), settings()).await.unwrap();
    third.sweep_objects().await.unwrap();
    assert_eq!(states(&second).await, []);
}

#[tokio::test]
async fn concurrent_gc_of_two_registries_removes_only_unneeded_objects() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = (shared.open("a").await, shared.open("b").await);
    for n in 0..4 {
        let (one, other) = if n % 2 == 0 { (&first, &second) } else { (&second, &first) };
        let [kept, removed] = [format!("k{n}"), format!("r{n}")];
        for version in [&kept, &removed] {
            let digest = try_upload(one, &archive(version)).await.unwrap();
            add(other, version, digest).await;
        }
        delete(one, &removed).await;
        let (done, also) = tokio::join!(one.collect(false), other.collect(false));
        let unfinished = [done.unwrap().unfinished, also.unwrap().unfinished];
        assert_eq!(unfinished, [None, None]);
        assert_eq!(states(other).await, [(ObjectState::Live, n + 1)]);
    }
    // Both registries have raised the number in the marker, and each accepts the other's number.
    for registry in [&first, &second] {
        assert_eq!(registry.sweep_objects().await.unwrap().failed, None);
    }
}

#[tokio::test]
async fn two_registries_may_start_at_the_same_time() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = tokio::join!(shared.open("a"), shared.open("b"));
    for (registry, version) in [(&first, "v1"), (&second, "v2")] {
        let digest = try_upload(registry, &archive(version)).await.unwrap();
        add(registry, version, digest).await;
        assert_eq!(registry.sweep_objects().await.unwrap().failed, None);
    }
    let registries = first.catalog.registries().await.unwrap();
    assert_eq!(registries.rows.len(), 2);
    assert!(registries.rows.iter().all(|row| row.is_there(registries.now)), "{registries:?}");
    second.catalog.close().await;
    let registries = first.catalog.registries().await.unwrap();
    let running = registries.rows.iter().filter(|row| row.is_there(registries.now)).count();
    assert_eq!(running, 1, "{registries:?}");
}

#[tokio::test]
async fn registry_without_the_bucket_and_directory_of_another_catalogue_are_refused() {
    let (Some(shared), Some(others)) = (Shared::new(), Shared::new()) else { return };
    let first = shared.open("a").await;
    let alone = Place { bucket: None, ..shared.place("alone", HOUR) };
    let text = Registry::open(alone, settings()).await.unwrap_err().to_string();
    assert!(text.contains("another registry uses this catalogue"), "{text}");
    others.open("a").await.catalog.close().await;
    let foreign = Place { dir: others.path("a"), ..shared.place("a", HOUR) };
    let text = Registry::open(foreign, settings()).await.unwrap_err().to_string();
    assert!(text.contains("the directory belongs to another catalogue"), "{text}");
    let wrong = Place { catalogue: Some(others.catalogue.clone()), ..shared.place("d", HOUR) };
    let text = Registry::open(wrong, settings()).await.unwrap_err().to_string();
    assert!(text.contains("belongs to another catalogue"), "{text}");
    first.catalog.close().await;
}

#[tokio::test]
async fn only_the_host_key_of_the_catalogue_is_accepted() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = (shared.open("a").await, shared.open("b").await);
    let key = ssh::shared_host_key(&shared.path("a"), &first.catalog).await.unwrap();
    let missing = ssh::shared_host_key(&shared.path("b"), &second.catalog).await.unwrap_err();
    let text = missing.to_string();
    assert!(text.contains("is missing") && text.contains(&ssh::fingerprint(&key)), "{text}");
    assert!(!shared.path("b").join("host_key").exists(), "a key was made");
    let own = ssh::host_key(&shared.path("b")).unwrap();
    let other = ssh::shared_host_key(&shared.path("b"), &second.catalog).await.unwrap_err();
    let text = other.to_string();
    assert!(text.contains(&ssh::fingerprint(&own)) && text.contains("copy host_key"), "{text}");
    std::fs::copy(shared.path("a").join("host_key"), shared.path("b").join("host_key")).unwrap();
    ssh::shared_host_key(&shared.path("b"), &second.catalog).await.unwrap();
}

#[tokio::test]
async fn duty_belongs_to_one_registry_until_it_ends() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = (shared.open("a").await, shared.open("b").await);
    assert!(first.catalog.takes_duty("test").await.unwrap());
    assert!(!second.catalog.takes_duty("test").await.unwrap());
    assert!(first.catalog.takes_duty("test").await.unwrap());
    first.catalog.close().await;
    assert!(second.catalog.takes_duty("test").await.unwrap());
    assert!(first.catalog.takes_duty("test").await.is_err());
}

#[tokio::test]
async fn hold_at_one_registry_is_known_at_another_at_the_next_poll() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = (shared.open("a").await, shared.open("b").await);
    let name: ConfigurationName = "web".parse().unwrap();
    let digest = try_upload(&first, &archive("one")).await.unwrap();
    add(&first, "v1", digest).await;
    configure(&first, &name, "v1").await;
    let (_, _, id) = first.catalog.current_state(&name).await.unwrap().unwrap();
    for n in 0..20 {
        let before = second.fleet.catch_up(&name).await.unwrap().unwrap();
        let host = format!("host-{n}").parse().unwrap();
        let sent = Sent {
            key: format!("key-{n}"),
            host,
            name: name.clone(),
            instance: String::new(),
            report: Report {
                phase: Phase::Healthy,
                runs: Some(id),
                wants: Some(id),
                ..Report::default()
            },
        };
        let host = sent.host.clone();
        first.fleet.report(sent).await.unwrap();
        first.catalog.hold_host(&host, "wait", &change()).await.unwrap();
        let after = second.fleet.catch_up(&name).await.unwrap().unwrap();
        assert!(after.shown > before.shown);
        assert_eq!(after.revision, before.revision);
        let poller =
            Poller { name: name.clone(), key: format!("key-{n}"), address: [10, 0, 0, 1].into() };
        let held = second.fleet.polls.polled(poller, jiff::Timestamp::now());
        assert_eq!(held, Some(1), "the hold of host {n} is not known");
    }
}

/// Runs SQL on the catalogue's schema.
fn sql(shared: &Shared, statement: &str) {
    let ran = std::process::Command::new("psql")
        .args(["-q", "-X", "-d", &shared.catalogue, "-c", statement])
        .output()
        .unwrap();
    assert!(ran.status.success(), "psql: {}", String::from_utf8_lossy(&ran.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_notice_still_wakes_the_tasks_of_another_registry() {
    let Some(shared) = Shared::new() else { return };
    let (first, second) = (shared.open("a").await, shared.open("b").await);
    let name: ConfigurationName = "web".parse().unwrap();
    let digest = try_upload(&first, &archive("one")).await.unwrap();
    add(&first, "v1", digest).await;
    let mut changes = second.catalog.changes.subscribe(&name);
    let limit = Duration::from_secs(10);
    configure(&first, &name, "v1").await;
    tokio::time::timeout(limit, changes.changed()).await.unwrap().unwrap();
    for _ in 0..3 {
        // The server ends the connections that listen. The change comes before they are back.
        sql(
            &shared,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE query LIKE 'LISTEN \"deploy_registry_' || \
             CAST(CAST(hashtext(current_schema()) AS BIGINT) + 2147483648 AS TEXT) || '%'",
        );
        changes.borrow_and_update();
        configure(&first, &name, "v1").await;
        tokio::time::timeout(limit, changes.changed()).await.unwrap().unwrap();
    }
    // A number without a notice stands for a notice that was lost on its way.
    tokio::time::sleep(Duration::from_secs(3)).await;
    changes.borrow_and_update();
    sql(&shared, "UPDATE counters SET value = value + 1 WHERE name = 'signal'");
    tokio::time::timeout(limit, changes.changed()).await.unwrap().unwrap();
}
