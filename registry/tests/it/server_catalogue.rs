//! Tests that a registry opens a directory only together with the directory's own catalogue
//! on a server. With another catalogue, gc would remove all blobs that this catalogue does not list.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use deploy_registry::registry::{Place, Registry, Settings};
use deploy_testing::{DatabaseServer, eventually};

use crate::bench::{Bench, archive, change, place, upload};

async fn refused(place: Place) -> String {
    Registry::open(place, Settings::default()).await.unwrap_err().to_string()
}

fn on_server(dir: &Path, url: &str) -> Place {
    Place { catalogue: Some(url.to_owned()), ..Place::from(dir) }
}

#[tokio::test]
async fn second_registry_on_one_catalogue_is_refused() {
    let bench = Bench::new(Settings::default()).await;
    let Some(url) = deploy_testing::server_catalogue(&bench.path("")) else { return };
    let text = refused(on_server(&bench.path("other"), &url)).await;
    assert!(text.contains("another registry uses this catalogue"), "{text}");
    bench.put("code", "v1", "one").await;
}

#[tokio::test]
async fn directory_with_blobs_gets_no_new_catalogue_on_a_server() {
    let mut bench = Bench::new(Settings::default()).await;
    bench.put("code", "v1", "one").await;
    let Some(own) = deploy_testing::server_catalogue(&bench.path("")) else { return };
    let (dir, other) = (bench.path(""), bench.path("other"));
    bench.reopen().await;
    bench.close().await;
    let new = place(&other).catalogue.unwrap();
    let text = refused(on_server(&dir, &new)).await;
    assert!(text.contains("the catalogue on the database server is new"), "{text}");
    let text = refused(on_server(&other, &own)).await;
    assert!(text.contains("belongs to another directory"), "{text}");
}

async fn add(registry: &Registry, version: &str) -> Result<(), String> {
    let digest = upload(registry, &archive(version)).await;
    let (component, version) = ("code".parse().unwrap(), version.parse().unwrap());
    let added = registry.add_version(&component, &version, digest, &change()).await;
    added.map(drop).map_err(|err| err.to_string())
}

/// If the server ends the connection that holds the lock, the registry takes the lock again. If
/// another registry is faster, the first registry can change nothing, and removes no blob.
#[tokio::test(flavor = "multi_thread")]
async fn lost_lock_is_taken_again_or_belongs_to_the_faster_registry() {
    let [data, dir, copy] = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let Some(server) = DatabaseServer::start_in(data.path()) else { return };
    let open = async |dir: &Path| {
        let settings = Settings { grace: Duration::ZERO, max_versions: 1, ..Settings::default() };
        Registry::open(on_server(dir, &server.url()), settings).await
    };
    let holder = || server.run(&["SELECT pid FROM pg_locks WHERE locktype = 'advisory'"]);
    let end = |holder: &str| server.run(&[&format!("SELECT pg_terminate_backend({holder})")]);
    let first = open(dir.path()).await.unwrap();
    add(&first, "v1").await.unwrap();
    let before = holder();
    assert_eq!(end(&before), "t");
    eventually("the lock is taken again", || !["", &before].contains(&&*holder()));
    let refused = open(copy.path()).await.unwrap_err().to_string();
    assert!(refused.contains("another registry uses this catalogue"), "{refused}");
    add(&first, "v2").await.unwrap();

    // The second registry runs in a copy of the directory. Right after it took the lock again, the
    // first registry does not look for some seconds.
    for name in ["catalogue.id", "files"] {
        let mut copy_files = Command::new("cp");
        copy_files.arg("-a").arg(dir.path().join(name)).arg(copy.path());
        assert!(copy_files.status().unwrap().success());
    }
    let before = holder();
    end(&before);
    eventually("the lock is taken again", || !["", &before].contains(&&*holder()));
    end(&holder());
    let second = open(copy.path()).await.unwrap();
    let files = first.blobs().list().await.unwrap().len();
    let refused = add(&first, "v3").await.unwrap_err();
    assert!(refused.contains("another registry uses this catalogue now"), "{refused}");
    let refused = first.collect(false).await.unwrap_err().to_string();
    assert!(refused.contains("another registry uses this catalogue now"), "{refused}");
    assert!(first.blobs().list().await.unwrap().len() >= files);
    add(&second, "v3").await.unwrap();
    assert_eq!(second.collect(false).await.unwrap().versions.len(), 2);
    first.catalog.close().await;
    add(&second, "v4").await.unwrap();
    second.catalog.close().await;
}
