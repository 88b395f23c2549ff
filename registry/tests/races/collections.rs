//! Tests that a garbage collection removes no blob that a verb uses at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use deploy_registry::verbs::verify_blobs::Scope;
use deploy_store::Digest;
use deploy_wire::image::{Compression, Image, ImageLayer, Origin};
use tokio::task::JoinSet;

use crate::{Bench, add, change};

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
                        // Another task has bound this upload and made the blob look old, and gc has
                        // removed the blob.
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
                // If `n` is odd, nothing uses the image's blob from here on, so gc may remove it.
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
