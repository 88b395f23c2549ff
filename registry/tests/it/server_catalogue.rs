//! Tests that a directory accepts only its own catalogue on a server. So gc never removes the blobs
//! of another catalogue.

use std::path::Path;

use deploy_registry::registry::{Place, Registry, Settings};

use crate::bench::{Bench, place};

async fn refused(place: Place) -> String {
    Registry::open(place, Settings::default()).await.unwrap_err().to_string()
}

fn on_server(dir: &Path, url: &str) -> Place {
    Place { catalogue: Some(url.to_owned()), ..Place::from(dir) }
}

#[tokio::test]
async fn second_registry_on_one_catalogue_is_refused() {
    let bench = Bench::new(Settings::default()).await;
    let Some(url) = deploy_testing::server_catalogue(&bench.path("")) else { return };
    let text = refused(on_server(&bench.path("other"), &url)).await;
    assert!(text.contains("another registry uses this catalogue"), "{text}");
    bench.put("code", "v1", "one").await;
}

#[tokio::test]
async fn blobs_get_no_new_catalogue_on_a_server() {
    let mut bench = Bench::new(Settings::default()).await;
    bench.put("code", "v1", "one").await;
    let Some(own) = deploy_testing::server_catalogue(&bench.path("")) else { return };
    let (dir, other) = (bench.path(""), bench.path("other"));
    bench.reopen().await;
    bench.close().await;
    let new = place(&other).catalogue.unwrap();
    let text = refused(on_server(&dir, &new)).await;
    assert!(text.contains("the catalogue on the database server is new"), "{text}");
    let text = refused(on_server(&other, &own)).await;
    assert!(text.contains("belongs to another directory"), "{text}");
}
