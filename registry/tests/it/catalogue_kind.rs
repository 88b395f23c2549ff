//! Tests that a directory accepts only the kind of catalogue that it has: a file, or a catalogue on a
//! server.

use std::fs;
use std::path::Path;

use deploy_registry::registry::{Place, Registry, Settings};

/// The address of a catalogue at which no server listens.
const NOWHERE: &str = "postgres://me@127.0.0.1:1/deploy";

async fn refused(dir: &Path, catalogue: Option<&str>) -> String {
    let place = Place { catalogue: catalogue.map(str::to_owned), ..Place::from(dir) };
    Registry::open(place, Settings::default()).await.unwrap_err().to_string()
}

#[tokio::test]
async fn directory_with_a_catalogue_file_gets_no_catalogue_on_a_server() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(dir.path(), Settings::default()).await.unwrap();
    registry.catalog.close().await;
    drop(registry);
    let text = refused(dir.path(), Some(NOWHERE)).await;
    assert!(text.contains("has the catalogue catalogue.db"), "{text}");
}

#[tokio::test]
async fn directory_of_a_catalogue_on_a_server_gets_no_catalogue_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("catalogue.id"), "x\n").unwrap();
    let text = refused(dir.path(), None).await;
    assert!(text.contains("give the server's address with -catalogue"), "{text}");
    assert!(!dir.path().join("catalogue.db").exists(), "a catalogue file was made");
}
