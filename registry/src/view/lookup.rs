//! What there is at the places of a path: directories are lists, files are blobs or
//! documents. Services see `configs` and `files`; operators all.

use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use deploy_store::{ComponentName, Digest, Error, escape};
use deploy_wire::command;
use deploy_wire::exit;
use deploy_wire::path::encode;
use jiff::Timestamp;
use russh_sftp::protocol::StatusCode;
use tokio::task::spawn_blocking;

use crate::registry::Registry;
use crate::ssh::sftp::Refusal;
use crate::uploads::downloads::Transfer;
use crate::view::items::Item;
use crate::view::view_path::Place;

/// A file.
#[derive(Debug)]
pub enum Contents {
    /// A blob, with the time that it has as a version, if it is looked at as one.
    Blob(File, Transfer, Option<Timestamp>),
    /// A document, and when it was changed; a configuration's is as new as the look at it.
    Document(Bytes, Timestamp),
}

/// Whether `place` is a directory; one that names what there is not, is none.
pub async fn is_directory(registry: &Registry, place: &Place) -> Result<bool, Refusal> {
    match place {
        Place::Component(_) | Place::History(_) => list(registry, place, true).await.map(|_| true),
        Place::Configuration(_) | Place::Blob(_) | Place::Version(..) | Place::State(..) => {
            Ok(false)
        }
        _ => Ok(true),
    }
}

/// What is in a directory.
pub async fn list(
    registry: &Registry,
    place: &Place,
    operator: bool,
) -> Result<Vec<Item>, Refusal> {
    let catalog = &registry.catalog;
    Ok(match place {
        Place::Root if operator => {
            ["components", "configs", "files", "history", "put"].map(Item::directory).into()
        }
        Place::Root => ["configs", "files"].map(Item::directory).into(),
        Place::Put => Vec::new(),
        Place::PutInto(name) => match versions(registry, name).await {
            Err(Refusal { code: StatusCode::NoSuchFile, .. }) => Vec::new(),
            listed => listed?,
        },
        Place::Configurations => {
            let all = registry.configurations().await.map_err(refused)?;
            all.iter().map(Item::configuration).collect()
        }
        Place::Files => {
            let blobs = Arc::clone(registry.blobs());
            let all = blocking(move || blobs.list()).await?;
            all.into_iter().map(Item::Blob).collect()
        }
        Place::Components => {
            let names = catalog.components().await.map_err(refused)?;
            names.iter().map(|name| Item::directory(name.as_str())).collect()
        }
        Place::Histories => {
            let names = catalog.configuration_names().await.map_err(refused)?;
            names.iter().map(|name| Item::directory(name.as_str())).collect()
        }
        Place::Component(name) => versions(registry, name).await?,
        Place::History(name) => {
            let states = catalog.states(name).await.map_err(refused)?;
            let item = |(number, state): &(u64, deploy_store::Configuration)| Item::Document {
                name: format!("{number}.json"),
                size: state.to_json().len() as u64,
                modified: state.modified(),
            };
            states.iter().map(item).collect()
        }
        Place::Configuration(_) | Place::Blob(_) | Place::Version(..) | Place::State(..) => {
            return Err(Refusal::failure("is no directory"));
        }
    })
}

async fn versions(registry: &Registry, name: &ComponentName) -> Result<Vec<Item>, Refusal> {
    let versions = registry.catalog.versions(name).await.map_err(refused)?;
    let blobs = Arc::clone(registry.blobs());
    let item = move |layer: deploy_store::Layer| {
        let size = blobs.size(layer.digest)?.unwrap_or(0);
        let name = encode(layer.version.as_str());
        Ok(Item::Version { name, size, created: layer.created })
    };
    blocking(move || versions.into_iter().map(item).collect()).await
}

/// Opens a file.
pub async fn open(registry: &Registry, place: Place) -> Result<Contents, Refusal> {
    match place {
        Place::Configuration(name) => {
            let json = registry.configuration_json(&name).await.map_err(refused)?;
            let json = json.ok_or_else(Refusal::not_found)?;
            Ok(Contents::Document(json, Timestamp::now()))
        }
        Place::Blob(digest) => blob(registry, digest, None).await,
        Place::Version(component, version) => {
            let layer = registry.catalog.version(&component, &version).await.map_err(refused)?;
            blob(registry, layer.digest, Some(layer.created)).await
        }
        Place::State(name, number) => {
            let state = registry.catalog.state(&name, number).await.map_err(refused)?;
            Ok(Contents::Document(state.to_json().into(), state.modified()))
        }
        _ => Err(Refusal::failure("is a directory")),
    }
}

async fn blob(
    registry: &Registry,
    digest: Digest,
    created: Option<Timestamp>,
) -> Result<Contents, Refusal> {
    let blobs = Arc::clone(registry.blobs());
    let transfer = registry.transfers.begin(digest);
    let file = blocking(move || blobs.reader(digest)).await?;
    Ok(Contents::Blob(file, transfer, created))
}

fn refused(refusal: impl Into<command::Refusal>) -> Refusal {
    let refusal = refusal.into();
    if refusal.code == exit::NOT_FOUND {
        return Refusal::not_found();
    }
    Refusal::failure(refusal.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> deploy_store::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    match spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Error::NoSuchBlob(_))) => Err(Refusal::not_found()),
        Ok(Err(err)) => Err(Refusal::failure(escape(&err.to_string()))),
        Err(err) => Err(Refusal::failure(format!("internal error: {err}"))),
    }
}
