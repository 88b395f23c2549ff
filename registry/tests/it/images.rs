//! Tests configurations that are made from images, and the known layers of images. The registry
//! makes a change completely or not at all. If the registry tells an importer that it has a layer,
//! gc keeps this layer for the grace period.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::bench::{Bench, archive, change};
use deploy_registry::catalog::Imaged;
use deploy_registry::registry::Settings;
use deploy_registry::uploads::upload::Upload;
use deploy_registry::verbs::verify_blobs::Scope;
use deploy_store::{ComponentName, Digest, VersionName};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use deploy_wire::image::{Compression, Image, ImageLayer, Origin};
use jiff::Timestamp;

/// The origin of a layer with the contents `text`.
fn origin(text: &str) -> Origin {
    let (diff_id, removals) = (Digest::of(text.as_bytes()), Digest::of(b""));
    Origin { diff_id, removals, compression: Compression::Gzip }
}

/// An image with layers `l1`, `l2`, … that have `texts` as their contents.
fn image(texts: &[&str]) -> Image {
    let layer = |(n, text): (usize, &&str)| ImageLayer {
        component: format!("l{}", n + 1).parse().unwrap(),
        hash: Digest::of(&archive(text)),
        origin: Some(origin(text)),
    };
    Image { layers: texts.iter().enumerate().map(layer).collect() }
}

type Upper = Vec<(ComponentName, VersionName)>;

fn upper(layers: &[(&str, &str)]) -> Upper {
    let parsed = |(component, version): &(&str, &str)| {
        (component.parse().unwrap(), version.parse().unwrap())
    };
    layers.iter().map(parsed).collect()
}

async fn add(bench: &Bench, image: &Image, on_top: &[(&str, &str)]) -> Result<Imaged, Refusal> {
    let name = "img".parse().unwrap();
    Ok(bench.registry().add_image(&name, image, &upper(on_top), &change()).await?)
}

/// Everything that a failed change could leave behind: names, states, rows and files.
async fn everything(bench: &Bench) -> String {
    let catalog = &bench.registry().catalog;
    let mut all = Vec::new();
    for component in catalog.components(None, 99).await.unwrap() {
        all.push(format!("{:?}", catalog.versions(&component).await.unwrap()));
    }
    for name in catalog.configuration_names(None, 99).await.unwrap() {
        all.push(format!(
            "{:?}",
            catalog.states(&name, |number, state| (number, state)).await.unwrap()
        ));
    }
    all.push(format!("{:?}", catalog.blobs().await.unwrap()));
    all.push(format!("{:?}", catalog.layers().await.unwrap()));
    for dir in ["files", "uploads"] {
        all.push(format!("{:?}", names(&bench.path(dir))));
    }
    all.join("\n")
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

fn age(file: &Path) {
    File::options().append(true).open(file).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
}

async fn known(bench: &Bench, texts: &[&str]) -> Vec<Digest> {
    let asked: Vec<Origin> = texts.iter().map(|text| origin(text)).collect();
    let known = bench.registry().known_layers(Some(&asked)).await.unwrap();
    known.iter().map(|layer| layer.hash).collect()
}

fn digests(texts: &[&str]) -> Vec<Digest> {
    texts.iter().map(|text| Digest::of(&archive(text))).collect()
}

#[tokio::test]
async fn importing_an_image_twice_makes_one_state() {
    let bench = Bench::new(Settings::default()).await;
    bench.put("config", "v1", "config").await;
    for text in ["a", "b", "c"] {
        bench.upload(text).await;
    }
    let first = add(&bench, &image(&["a", "b", "a"]), &[("config", "v1")]).await.unwrap();
    assert_eq!((first.number, first.before, first.is_as_it_was()), (1, None, false));
    let catalog = &bench.registry().catalog;
    let name = "img".parse().unwrap();
    let configuration = catalog.configuration(&name).await.unwrap();
    assert_eq!(configuration.id(), first.id);
    let layers: Vec<String> =
        configuration.layers().iter().map(|layer| layer.component.to_string()).collect();
    assert_eq!(layers, ["l1", "l2", "l3", "config"]);
    for layer in &configuration.layers()[..3] {
        assert_eq!(layer.version.to_string(), layer.digest.to_string());
    }
    let again = add(&bench, &image(&["a", "b", "a"]), &[("config", "v1")]).await.unwrap();
    assert!(again.is_as_it_was() && again.id == first.id);
    let changed = add(&bench, &image(&["a", "b", "c"]), &[("config", "v1")]).await.unwrap();
    assert_eq!((changed.number, changed.before), (2, Some(1)));
    assert_eq!(catalog.states(&name, |number, state| (number, state)).await.unwrap().len(), 2);
    assert_eq!(names(&bench.path("uploads")), [""; 0]);
    // The audit trail has an entry for each command, even if the command changed nothing.
    assert_eq!(catalog.audit(None, None, 3).await.unwrap()[2].change.command, "test");
    assert_eq!(catalog.audit(None, None, 100).await.unwrap().len(), 4);
    // gc does not remove old versions that a state needs.
    assert!(bench.registry().collect(false).await.unwrap().versions.is_empty());
}

#[tokio::test]
async fn refused_image_changes_nothing() {
    let bench = Bench::new(Settings::default()).await;
    bench.put("config", "v1", "config").await;
    let [a, b] = [bench.upload("a").await, bench.upload("b").await];
    let bad = crate::bench::upload(bench.registry(), b"no archive").await;
    // The name of this version is not the hash of its blob.
    bench.put("l2", &Digest::of(&archive("wrong")).to_string(), "right").await;
    bench.upload("wrong").await;
    let with = |hash: Digest| {
        let mut image = image(&["a", "b"]);
        image.layers[1].hash = hash;
        image
    };
    let mut twice = image(&["a", "b"]);
    twice.layers[1].component = twice.layers[0].component.clone();
    let before = everything(&bench).await;
    for (image, on_top, code, why) in [
        (image(&["a", "x", "b", "y"]), vec![], exit::NOT_FOUND, "2 of 4 layers are missing"),
        (with(bad), vec![], exit::FAILED, "no agent could unpack"),
        (
            image(&["a", "wrong"]),
            vec![],
            exit::CONFLICT,
            "but the version is named after another digest",
        ),
        (image(&["a", "b"]), vec![("config", "v2")], exit::FAILED, "no version \"v2\""),
        (image(&["a", "b"]), vec![("config", "v1"), ("config", "v1")], exit::FAILED, "config"),
        (twice, vec![], exit::FAILED, "l1"),
        (Image::default(), vec![], exit::FAILED, "layer"),
    ] {
        let refused = add(&bench, &image, &on_top).await.unwrap_err();
        assert!(refused.text.contains(why), "{why}: {refused}");
        assert_eq!(refused.code, code, "{refused}");
        assert_eq!(everything(&bench).await, before, "{why}");
    }
    let named = add(&bench, &image(&["x", "a"]), &[]).await.unwrap_err().text;
    assert!(named.ends_with(&format!("\n{}  l1", Digest::of(&archive("x")))), "{named}");
    let name = "-img".parse().unwrap();
    let image = image(&["a", "b"]);
    let refused = bench.registry().add_image(&name, &image, &[], &change()).await.unwrap_err();
    assert!(refused.to_string().contains("cannot start with -"), "{refused}");
    assert_eq!(everything(&bench).await, before);
    add(&bench, &image, &[]).await.unwrap();
    for digest in [a, b] {
        assert!(bench.registry().blobs().contains(digest).await.unwrap());
    }
}

#[tokio::test]
async fn only_present_and_sound_layers_are_known() {
    let mut bench = Bench::new(Settings { max_versions: 1, ..Settings::default() }).await;
    for text in ["a", "b", "c"] {
        bench.upload(text).await;
    }
    assert!(known(&bench, &["a"]).await.is_empty(), "a layer that is only uploaded is known");
    add(&bench, &image(&["a", "b", "c"]), &[]).await.unwrap();
    let other = Origin { compression: Compression::Zstd, ..origin("a") };
    assert!(bench.registry().known_layers(Some(&[other])).await.unwrap().is_empty());
    // The answer has the order of the request, and lists each layer once.
    assert_eq!(known(&bench, &["c", "x", "a", "c"]).await, digests(&["c", "a"]));
    let all = bench.registry().known_layers(None).await.unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|layer| layer.bytes == archive("a").len() as u64));
    // One file is damaged, and one is lost.
    let file = |text: &str| bench.path("files").join(Digest::of(&archive(text)).to_string());
    let mut bytes = fs::read(file("b")).unwrap();
    bytes[600] ^= 1;
    fs::write(file("b"), bytes).unwrap();
    fs::remove_file(file("c")).unwrap();
    assert_eq!(bench.registry().verify(Scope::default()).await.unwrap().damaged(), 2);
    assert_eq!(known(&bench, &["a", "b", "c"]).await, digests(&["a"]));
    let refused = add(&bench, &image(&["a", "b", "c"]), &[]).await.unwrap_err();
    assert_eq!(refused.code, exit::NOT_FOUND, "{refused}");
    // Both files are uploaded again. `take_back` restores one file, as at the end of an upload, and
    // the import restores the other file.
    let c = bench.upload("c").await;
    bench.upload("b").await;
    assert!(bench.registry().take_back(c).await.unwrap());
    assert!(add(&bench, &image(&["a", "b", "c"]), &[]).await.unwrap().is_as_it_was());
    assert_eq!(known(&bench, &["a", "b", "c"]).await, digests(&["a", "b", "c"]));
    bench.reopen().await;
    assert_eq!(known(&bench, &["a", "b", "c"]).await, digests(&["a", "b", "c"]));
}

#[tokio::test]
async fn origin_is_known_with_its_newest_blob() {
    let bench = Bench::new(Settings::default()).await;
    let [_, b] = [bench.upload("a").await, bench.upload("b").await];
    add(&bench, &image(&["a"]), &[]).await.unwrap();
    let mut other = image(&["a"]);
    other.layers[0].hash = b;
    add(&bench, &other, &[]).await.unwrap();
    assert_eq!(known(&bench, &["a"]).await, [b]);
}

/// Removes all references to the image's blobs, and makes the blobs look old.
async fn abandon(bench: &Bench, image: &Image) {
    let catalog = &bench.registry().catalog;
    catalog.delete_configuration(&"img".parse().unwrap(), &change()).await.unwrap();
    for layer in &image.layers {
        catalog.delete_component(&layer.component, true, &change()).await.unwrap();
        age(&bench.path("files").join(layer.hash.to_string()));
    }
}

#[tokio::test]
async fn layers_reported_as_known_survive_the_next_gc() {
    let hour = Duration::from_secs(3600);
    let mut bench = Bench::new(Settings { grace: hour, ..Settings::default() }).await;
    bench.put("other", "v1", "other").await;
    for text in ["a", "b"] {
        bench.upload(text).await;
    }
    let image = image(&["a", "b"]);
    add(&bench, &image, &[]).await.unwrap();
    abandon(&bench, &image).await;
    assert_eq!(known(&bench, &["a"]).await, digests(&["a"]));
    let planned = bench.registry().would_collect().await.unwrap();
    let done = bench.registry().collect(false).await.unwrap();
    assert_eq!((planned.blobs, planned.kept), (done.blobs.clone(), done.kept));
    let gone: Vec<Digest> = done.blobs.iter().map(|blob| blob.digest).collect();
    assert_eq!(gone, digests(&["b"]));
    assert_eq!(known(&bench, &["a", "b"]).await, digests(&["a"]));
    let rows = bench.registry().catalog.layers().await.unwrap();
    assert_eq!(rows.len(), 1, "the rows of the removed blob were not deleted");
    bench.reopen().await;
    bench.upload("b").await;
    add(&bench, &image, &[]).await.unwrap();
    assert_eq!(known(&bench, &["a", "b"]).await, digests(&["a", "b"]));
    assert_eq!(bench.registry().verify(Scope::default()).await.unwrap().findings, []);
}

#[tokio::test]
async fn gc_without_grace_removes_known_layers() {
    let settings = Settings { grace: Duration::ZERO, ..Settings::default() };
    let bench = Bench::new(settings).await;
    bench.put("other", "v1", "other").await;
    bench.upload("a").await;
    let image = image(&["a"]);
    add(&bench, &image, &[]).await.unwrap();
    abandon(&bench, &image).await;
    assert_eq!(known(&bench, &["a"]).await, digests(&["a"]));
    assert_eq!(bench.registry().collect(false).await.unwrap().blobs.len(), 1);
    assert!(known(&bench, &["a"]).await.is_empty());
    let refused = add(&bench, &image, &[]).await.unwrap_err();
    assert_eq!(refused.code, exit::NOT_FOUND, "{refused}");
}

#[tokio::test]
async fn layer_that_an_importer_asks_for_after_the_gc_plan_is_kept() {
    let hour = Duration::from_secs(3600);
    let bench = Bench::new(Settings { grace: hour, ..Settings::default() }).await;
    for text in ["a", "b"] {
        bench.upload(text).await;
    }
    let image = image(&["a", "b"]);
    add(&bench, &image, &[]).await.unwrap();
    abandon(&bench, &image).await;
    let planned = bench.registry().blobs().list().await.unwrap();
    let before = Timestamp::now();
    assert_eq!(known(&bench, &["a"]).await, digests(&["a"]));
    let catalog = &bench.registry().catalog;
    let condemned = catalog.condemn(&planned, before, Timestamp::now()).await.unwrap();
    let condemned: Vec<Digest> = condemned.iter().map(|blob| blob.digest).collect();
    assert_eq!(condemned, digests(&["b"]));
}

async fn send(bench: &Bench, key: &str, text: &str) -> Digest {
    let mut upload = Upload::begin(&bench.registry().uploads, key, None).await.unwrap();
    upload.write(0, archive(text).into()).await.unwrap();
    bench.registry().finish_upload(upload).await.unwrap()
}

#[tokio::test]
async fn uploads_of_a_key_expire_together() {
    let settings = Settings { grace: Duration::ZERO, ..Settings::default() };
    let bench = Bench::new(settings).await;
    let [mine, also] = [send(&bench, "me", "a").await, send(&bench, "me", "b").await];
    let others = send(&bench, "you", "c").await;
    for digest in [mine, also, others] {
        age(&bench.path("uploads").join(digest.to_string()));
    }
    let last = send(&bench, "me", "d").await;
    let swept = bench.registry().expire_uploads(Duration::from_secs(3600)).await.unwrap();
    assert_eq!(swept.files, 1);
    let left: Vec<String> = names(&bench.path("uploads"));
    let mut expected = [mine, also, last].map(|digest| digest.to_string());
    expected.sort();
    assert_eq!(left, expected);
}
