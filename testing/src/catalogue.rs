//! Makes a catalogue on a database server, for tests that can use a catalogue on a server or in a
//! file.

#![allow(clippy::print_stdout, reason = "a test prints what it skips")]

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::process::Command;

/// The address of a catalogue for the registry in `dir`. Every call for the same directory returns
/// the same catalogue. If `DEPLOY_TEST_POSTGRES` is not set or is empty, the function returns
/// `None`, and the test uses a catalogue in a file. `DEPLOY_TEST_POSTGRES` has the form
/// `postgres://USER@localhost/NAME?host=DIR`.
///
/// # Panics
/// The function panics if `psql` cannot make the catalogue.
pub fn catalogue(dir: &Path) -> Option<String> {
    let server = std::env::var("DEPLOY_TEST_POSTGRES").ok().filter(|server| !server.is_empty())?;
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    let schema = format!("t{:016x}", hasher.finish());
    let made = Command::new("psql")
        .args(["-q", "-X", "-d", &server, "-c"])
        .arg(format!("SET client_min_messages = error; CREATE SCHEMA IF NOT EXISTS {schema}"))
        .output()
        .expect("psql is on the PATH");
    assert!(made.status.success(), "psql: {}", String::from_utf8_lossy(&made.stderr));
    Some(format!("{server}&options=-csearch_path%3D{schema}"))
}

/// Like [`catalogue`], for a test that needs a server. If there is none, the function prints that
/// the test is skipped.
///
/// # Panics
/// In CI, the function panics if there is no server.
pub fn server_catalogue(dir: &Path) -> Option<String> {
    let url = catalogue(dir);
    if url.is_none() {
        assert!(std::env::var_os("CI").is_none(), "run scripts/test, or set DEPLOY_TEST_POSTGRES");
        println!("NOT TESTED: a catalogue on a server; run scripts/test, or scripts/engines -h");
    }
    url
}
