//! Stores on every filesystem named in `DEPLOY_TEST_DIRS` (colon-separated
//! directories); without the variable, on the temporary directory's.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deploy_store::{ComponentName, Configuration, Digest, Layer, Limits, LinkMode, Options, Store};

pub fn directories() -> Vec<PathBuf> {
    match std::env::var_os("DEPLOY_TEST_DIRS") {
        Some(dirs) => std::env::split_paths(&dirs).collect(),
        None => vec![std::env::temp_dir()],
    }
}

pub fn options(link: LinkMode) -> Options {
    Options { limits: Limits::STANDARD, link, max_blob: 1 << 30 }
}

pub fn run(program: &str, arguments: &[&str], dir: &Path) {
    let output = Command::new(program).args(arguments).current_dir(dir).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
}

/// Publishes and extracts `archive` as a layer of component `name`.
pub fn layer(store: &Store, name: &str, archive: &Path) -> Layer {
    let bytes = fs::read(archive).unwrap();
    let digest = Digest::of(&bytes);
    store.blobs().ingest(digest, &*bytes).unwrap();
    let extracted = store.extract(digest).unwrap().expect("nothing was extracted before");
    assert!(extracted.entries > 0);
    assert!(store.extract(digest).unwrap().is_none(), "extracted twice");
    Layer {
        component: name.parse::<ComponentName>().unwrap(),
        version: "v1".parse().unwrap(),
        digest,
        created: "2026-01-01T00:00:00Z".parse().unwrap(),
    }
}

pub fn configuration(layers: &[Layer]) -> Configuration {
    let modified = "2026-01-01T00:00:00Z".parse().unwrap();
    Configuration::new("p".parse().unwrap(), layers.to_vec(), modified).unwrap()
}
