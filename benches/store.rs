//! Benchmarks of the store's steps; docs/PERFORMANCE.md says how to read them.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use deploy_benches::{archive, plain};
use deploy_store::layer::index::Index;
use deploy_store::root::merge::merge;
use deploy_store::{Configuration, Digest, Layer, Limits, LinkMode, Options, Store, check_archive};

const FILES: usize = 2000;

fn open(dir: &std::path::Path) -> Store {
    let (limits, link) = (Limits::STANDARD, LinkMode::Auto);
    let options = Options { limits, link, max_blob: 1 << 30, keep_blobs: false };
    Store::open(dir, options).unwrap()
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
    let store = open(temp.path());
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
    group.finish();
}

fn extract_and_build(criterion: &mut Criterion) {
    let code = archive(FILES, 200);
    let config = archive(20, 2);
    let mut group = criterion.benchmark_group("agent");
    group.sample_size(10);
    group.bench_function("extract", |bencher| {
        bencher.iter_batched(
            || {
                let temp = tempfile::tempdir().unwrap();
                let store = open(temp.path());
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
    group.bench_function("root", |bencher| {
        let temp = tempfile::tempdir().unwrap();
        let store = open(temp.path());
        let layers = vec![layer(&store, "code", &code), layer(&store, "config", &config)];
        for layer in &layers {
            store.extract(layer.digest).unwrap();
        }
        let configuration = configuration(layers);
        bencher.iter_batched(
            || store.sweep_roots(&[]).unwrap(),
            |_| store.root(&configuration).unwrap(),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, hash_and_decode, load_and_merge, extract_and_build);
criterion_main!(benches);
