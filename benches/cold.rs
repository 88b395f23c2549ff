//! Measures how long it takes to build the root of real archives, without and with cached layers.
//! `deploy-cold DIR LINK RUNS BLOB…` extracts the archives, lowest layer first, into a store in
//! DIR, and builds their root. It then builds the root RUNS times again, from the cached layers
//! alone and without a spare. The program prints the milliseconds of each step.

#![allow(clippy::print_stdout, reason = "the program prints its results")]

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use deploy_store::{Configuration, Hasher, Layer, Limits, LinkMode, Options, Store};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, link, runs, blobs @ ..] = &words[..] else { panic!("DIR LINK RUNS BLOB…") };
    let link = match link.as_str() {
        "auto" => LinkMode::Auto,
        "reflink" => LinkMode::Reflink,
        "hardlink" => LinkMode::Hardlink,
        "copy" => LinkMode::Copy,
        other => panic!("{other} is not a link mode"),
    };
    let options = Options { limits: Limits::STANDARD, link, max_blob: 1 << 40, keep_blobs: false };
    let store = Store::open(Path::new(dir), options).unwrap();
    let layers: Vec<Layer> = blobs.iter().map(|blob| ingest(&store, Path::new(blob))).collect();
    let modified = "2026-01-01T00:00:00Z".parse().unwrap();
    let configuration = Configuration::new("cold".parse().unwrap(), layers, modified).unwrap();
    let started = Instant::now();
    for layer in configuration.layers() {
        store.extract(layer.digest).unwrap();
    }
    let extracted = started.elapsed().as_millis();
    store.root(&configuration).unwrap();
    println!("cold: {extracted} extract, {} all", started.elapsed().as_millis());
    for _ in 0..runs.parse().unwrap() {
        store.sweep_roots(&[]).unwrap();
        let started = Instant::now();
        let root = store.root(&configuration).unwrap();
        println!("place: {} {:?}", started.elapsed().as_millis(), root.placed);
    }
}

fn ingest(store: &Store, blob: &Path) -> Layer {
    let mut hasher = Hasher::default();
    std::io::copy(&mut File::open(blob).unwrap(), &mut Hashing(&mut hasher)).unwrap();
    let digest = hasher.finish();
    store.blobs().ingest(digest, File::open(blob).unwrap()).unwrap();
    let (component, version) = ("cold".parse().unwrap(), "v1".parse().unwrap());
    Layer { component, version, digest, created: "2026-01-01T00:00:00Z".parse().unwrap() }
}

struct Hashing<'a>(&'a mut Hasher);

impl std::io::Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
