//! Tests that a verification neither quarantines a repaired blob nor reports a removed blob as
//! missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use deploy_registry::registry::{Registry, Settings};
use deploy_registry::verbs::verify_blobs::Scope;
use tokio::task::JoinSet;

use crate::{Bench, change, place, settings};

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
    // The slow verification begins during this pause. It reads for about ten seconds.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let found = bench.registry.verify(Scope::default()).await.unwrap();
    assert_eq!(found.findings.len(), 1, "{found:?}");
    assert_eq!(bench.upload(&text), digest);
    assert!(bench.registry.take_back(digest).await.unwrap());
    assert!(!reading.is_finished(), "the slow verification ended before the repair");
    let found = reading.await.unwrap();
    assert!(found.findings.is_empty(), "{found:?}");
    assert!(bench.blobs().contains(digest).unwrap());
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
