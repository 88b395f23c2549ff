//! Measures single steps of the store, mostly with 2,000 small files.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::print_stderr, reason = "the benchmark prints what it leaves out")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use deploy_benches::{archive, plain};
use deploy_store::layer::index::Index;
use deploy_store::root::diff::diff;
use deploy_store::root::merge::{add_layer, merge};
use deploy_store::{Configuration, Digest, Layer, Limits, LinkMode, Options, Store, check_archive};

const FILES: usize = 2000;

fn open(dir: &std::path::Path, link: LinkMode) -> deploy_store::Result<Store> {
    let limits = Limits::STANDARD;
    let options = Options { limits, link, max_blob: 1 << 30, keep_blobs: false };
    Store::open(dir, options)
}

fn layer(store: &Store, name: &str, bytes: &[u8]) -> Layer {
    let digest = Digest::of(bytes);
    store.blobs().ingest(digest, bytes).unwrap();
    let (component, version) = (name.parse().unwrap(), "v1".parse().unwrap());
    Layer { component, version, digest, created: "2026-01-01T00:00:00Z".parse().unwrap() }
}

fn configuration(layers: Vec<Layer>) -> Configuration {
    let modified = "2026-01-01T00:00:00Z".parse().unwrap();
    Configuration::new("bench".parse().unwrap(), layers, modified).unwrap()
}

fn hash_and_decode(criterion: &mut Criterion) {
    let bytes = archive(FILES, 200);
    let mut group = criterion.benchmark_group("archive");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("sha256", |bencher| bencher.iter(|| Digest::of(black_box(&bytes))));
    group.finish();
    let plain = plain(FILES, 200);
    let zstd = zstd::encode_all(&plain[..], 3).unwrap();
    let mut group = criterion.benchmark_group("check");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    for (form, bytes) in [("gzip", &bytes), ("zstd", &zstd), ("tar", &plain)] {
        group.bench_function(form, |bencher| {
            bencher.iter(|| check_archive(black_box(&bytes[..]), Limits::STANDARD).unwrap());
        });
    }
    group.finish();
}

fn load_and_merge(criterion: &mut Criterion) {
    let temp = tempfile::tempdir().unwrap();
    let store = open(temp.path(), LinkMode::Auto).unwrap();
    let index = |name: &str, bytes: &[u8]| {
        let digest = layer(&store, name, bytes).digest;
        store.extract(digest).unwrap();
        temp.path().join("layers").join(digest.to_string())
    };
    let path = index("code", &archive(FILES, 200));
    let code = std::fs::read(&path).unwrap();
    let config = std::fs::read(index("config", &archive(20, 2))).unwrap();
    let load = |bytes: &[u8]| Index::from_bytes(bytes, &path).unwrap();
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("load", |bencher| bencher.iter(|| load(black_box(&code))));
    let layers = [load(&code), load(&config)];
    group.bench_function("merge", |bencher| bencher.iter(|| merge(black_box(&layers)).unwrap()));
    let base = merge(&layers[..1]).unwrap();
    // As in an agent, this merge reuses the tree of the layers below the changed layer.
    let with = |config: &Index| {
        let mut tree = base.clone();
        add_layer(&mut tree, config.entries.iter().cloned().map(Ok)).unwrap();
        tree
    };
    let changed = load(&std::fs::read(index("config", &archive(21, 3))).unwrap());
    let (old, new) = (with(&layers[1]), with(&changed));
    group.throughput(Throughput::Elements(diff(&old, &new, true).len() as u64));
    group.bench_function("merge of a change", |bencher| bencher.iter(|| with(black_box(&changed))));
    group.bench_function("diff", |bencher| {
        bencher.iter(|| diff(black_box(&old), black_box(&new), true).len());
    });
    group.finish();
}

fn extract_and_build(criterion: &mut Criterion) {
    let code = archive(FILES, 200);
    let (config, changed) = (archive(20, 2), archive(21, 3));
    let mut group = criterion.benchmark_group("agent");
    group.sample_size(10);
    group.bench_function("extract", |bencher| {
        bencher.iter_batched(
            || {
                let temp = tempfile::tempdir().unwrap();
                let store = open(temp.path(), LinkMode::Auto).unwrap();
                let layer = layer(&store, "code", &code);
                (temp, store, layer.digest)
            },
            |(temp, store, digest)| {
                store.extract(digest).unwrap();
                (temp, store)
            },
            BatchSize::PerIteration,
        );
    });
    for link in [LinkMode::Reflink, LinkMode::Hardlink, LinkMode::Copy] {
        let temp = tempfile::tempdir().unwrap();
        let store = open(temp.path(), link).unwrap();
        let layers = [("code", &code), ("config", &config), ("config", &changed)]
            .map(|(name, bytes)| layer(&store, name, bytes));
        for layer in &layers {
            store.extract(layer.digest).unwrap();
        }
        let [old, new] = [1, 2].map(|n| configuration(vec![layers[0].clone(), layers[n].clone()]));
        if let Err(why) = store.root(&old) {
            eprintln!("not measured: {link:?} in {}: {why}", temp.path().display());
            continue;
        }
        group.bench_function(format!("root by {link:?}"), |bencher| {
            bencher.iter_batched(
                || store.sweep_roots(&[]).unwrap(),
                |_| store.root(&old).unwrap(),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(format!("root of a spare by {link:?}"), |bencher| {
            bencher.iter_batched(
                || {
                    store.sweep_roots(&[]).unwrap();
                    store.prepare_spare(&old).unwrap();
                },
                |()| store.root(&new).unwrap(),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, hash_and_decode, load_and_merge, extract_and_build);
criterion_main!(benches);
