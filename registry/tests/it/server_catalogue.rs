//! Tests that a registry opens a directory only together with the directory's own catalogue. With
//! another catalogue, gc would remove all blobs that this catalogue does not list.

#![allow(clippy::print_stdout, reason = "a test prints what it skips")]

use std::fs;
use std::path::Path;

use deploy_registry::registry::{Place, Registry, Settings};

use crate::bench::{Bench, place};

/// The address of a catalogue at which no server listens.
const NOWHERE: &str = "postgres://me@127.0.0.1:1/deploy";

async fn refused(place: Place) -> String {
    Registry::open(place, Settings::default()).await.unwrap_err().to_string()
}

fn on_server(dir: &Path, url: &str) -> Place {
    Place { catalogue: Some(url.to_owned()), ..Place::from(dir) }
}

/// The address of the catalogue for `dir` on the database server. `None` if the tests run without a
/// server.
fn server(dir: &Path) -> Option<String> {
    let url = deploy_testing::catalogue(dir);
    if url.is_none() {
        println!("NOT TESTED: a catalogue on a server; set DEPLOY_TEST_POSTGRES");
    }
    url
}

#[tokio::test]
async fn directory_with_a_catalogue_file_gets_no_catalogue_on_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path(), Settings::default()).await.unwrap();
    registry.catalog.close().await;
    drop(registry);
    let text = refused(on_server(dir.path(), NOWHERE)).await;
    assert!(text.contains("has the catalogue catalogue.db"), "{text}");
}

#[tokio::test]
async fn directory_of_a_catalogue_on_a_server_gets_no_catalogue_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("catalogue.id"), "x\n").unwrap();
    let text = refused(Place::from(dir.path())).await;
    assert!(text.contains("give the server's address with -catalogue"), "{text}");
    assert!(!dir.path().join("catalogue.db").exists(), "a catalogue file was made");
}

#[tokio::test]
async fn second_registry_on_one_catalogue_is_refused() {
    let bench = Bench::new(Settings::default()).await;
    let Some(url) = server(&bench.path("")) else { return };
    let text = refused(on_server(&bench.path("other"), &url)).await;
    assert!(text.contains("another registry uses this catalogue"), "{text}");
    bench.put("code", "v1", "one").await;
}

#[tokio::test]
async fn directory_with_blobs_gets_no_new_catalogue_on_a_server() {
    let mut bench = Bench::new(Settings::default()).await;
    bench.put("code", "v1", "one").await;
    let Some(own) = server(&bench.path("")) else { return };
    let (dir, other) = (bench.path(""), bench.path("other"));
    bench.reopen().await;
    bench.close().await;
    let new = place(&other).catalogue.unwrap();
    let text = refused(on_server(&dir, &new)).await;
    assert!(text.contains("the catalogue on the database server is new"), "{text}");
    let text = refused(on_server(&other, &own)).await;
    assert!(text.contains("belongs to another directory"), "{text}");
}
