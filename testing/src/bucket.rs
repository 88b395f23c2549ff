//! Chooses the place of the blobs, for tests that use both a directory and a bucket.

#![allow(clippy::print_stdout, reason = "a test prints what it skips")]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

/// The address of a bucket for the registry in `dir`. Every call for the same directory returns the
/// same address. If `DEPLOY_TEST_S3` is not set or is empty, the function returns `None`, and the
/// test uses files in the directory. `DEPLOY_TEST_S3` has the form `s3://NAME?endpoint=URL`.
pub fn bucket(dir: &Path) -> Option<String> {
    let server = std::env::var("DEPLOY_TEST_S3").ok().filter(|server| !server.is_empty())?;
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    Some(format!("{server}&prefix=t{:016x}", hasher.finish()))
}

/// Like [`bucket`], for a test that needs a bucket. If there is none, the function prints that the
/// test is skipped.
///
/// # Panics
/// In CI, the function panics if there is no server.
pub fn server_bucket(dir: &Path) -> Option<String> {
    let address = bucket(dir);
    if address.is_none() {
        assert!(std::env::var_os("CI").is_none(), "run scripts/test, or set DEPLOY_TEST_S3");
        println!("NOT TESTED: blobs in a bucket; run scripts/test, or scripts/engines -h");
    }
    address
}
