//! Makes archives that are large in different ways, and prints the peak memory of one operation on
//! an archive. `scripts/memory` runs this program.

#![allow(clippy::print_stdout, reason = "the program prints its results")]

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use deploy_store::{
    Configuration, Digest, Hasher, Layer, Limits, LinkMode, Options, Store, check_archive, unpack,
};
use flate2::Compression;
use flate2::write::GzEncoder;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let archive = |dir: &str, name: &str| Path::new(dir).join(format!("{name}.tar.gz"));
    let (limits, link) = (Limits::STANDARD, LinkMode::Auto);
    let options = Options { limits, link, max_blob: 1 << 40, keep_blobs: false };
    match words[..] {
        ["make", dir] => {
            make(&archive(dir, "large"), 1, 1 << 30);
            make(&archive(dir, "tiny"), 1_000_000, 20);
            make(&archive(dir, "half"), 500_000, 20);
            make(&archive(dir, "one"), 1, 20);
            make(&archive(dir, "other"), 1, 21);
            return;
        }
        ["check", dir, name] => {
            check_archive(File::open(archive(dir, name)).unwrap(), Limits::STANDARD).unwrap();
        }
        ["extract", dir, name] => {
            let store = Store::open(&Path::new(dir).join("out"), options).unwrap();
            let digest = digest_of(&archive(dir, name));
            store.blobs().ingest(digest, File::open(archive(dir, name)).unwrap()).unwrap();
            store.extract(digest).unwrap();
        }
        ["unpack", dir, name] => {
            unpack(&[archive(dir, name)], &Path::new(dir).join("out"), options).unwrap();
        }
        ["deploy", dir] => {
            let store = Store::open(&Path::new(dir).join("out"), options).unwrap();
            store.root(&configuration(dir, &store, "one")).unwrap();
        }
        ["bump", dir] => {
            let store = Store::open(&Path::new(dir).join("out"), options).unwrap();
            store.prepare_spare(&configuration(dir, &store, "one")).unwrap();
            let root = store.root(&configuration(dir, &store, "other")).unwrap();
            assert!(root.from_spare);
        }
        _ => panic!("make DIR | check, extract or unpack DIR NAME | deploy or bump DIR"),
    }
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    println!("{} MiB", peak / 1024);
}

/// A configuration with a layer of half a million files, and a small layer on top.
fn configuration(dir: &str, store: &Store, config: &str) -> Configuration {
    let layer = |component: &str, name: &str| {
        let path = Path::new(dir).join(format!("{name}.tar.gz"));
        let digest = digest_of(&path);
        if !store.has_layer(digest).unwrap() {
            store.blobs().ingest(digest, File::open(path).unwrap()).unwrap();
            store.extract(digest).unwrap();
        }
        let created = "2026-01-01T00:00:00Z".parse().unwrap();
        let (component, version) = (component.parse().unwrap(), name.parse().unwrap());
        Layer { component, version, digest, created }
    };
    let layers = vec![layer("code", "half"), layer("config", config)];
    let modified = "2026-01-01T00:00:00Z".parse().unwrap();
    Configuration::new("memory".parse().unwrap(), layers, modified).unwrap()
}

fn digest_of(path: &Path) -> Digest {
    let mut file = File::open(path).unwrap();
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finish(),
            n => hasher.update(&buffer[..n]),
        }
    }
}

fn make(path: &Path, files: u64, size: u64) {
    let file = BufWriter::new(File::create(path).unwrap());
    let mut builder = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for n in 0..files {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        let path = format!("d{}/e{}/file{n}", n / 500, n / 50 % 10);
        let contents = format!("contents of {n}\n").into_bytes();
        let contents = Repeat { bytes: contents, at: 0 }.take(size);
        builder.append_data(&mut header, path, contents).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap().flush().unwrap();
}

/// A reader that repeats the same bytes.
struct Repeat {
    bytes: Vec<u8>,
    at: usize,
}

impl Read for Repeat {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = (&self.bytes[self.at..]).read(buffer)?;
        self.at = (self.at + n) % self.bytes.len();
        Ok(n)
    }
}
