//! Looks up the contents of a place. A directory lists items, and a file is a blob or a document.
//! Agents see `configs` and `files`, and operators see all directories.

use bytes::Bytes;
use deploy_store::{Configuration, ConfigurationName, Digest, Layer, escape_json};
use deploy_wire::path::encode;
use jiff::Timestamp;

use super::items::Item;
use super::view_path::Place;
use crate::bucket::BlobFile;
use crate::catalog::{ObjectState, Position};
use crate::error::{Error, Result};
use crate::registry::Registry;
use crate::uploads::downloads::Download;
use crate::verbs::fleet_status::FleetQuery;

/// An open file.
#[derive(Debug)]
pub enum OpenFile {
    /// A blob. If the client opened the path of a version, the value includes the time of the
    /// version.
    Blob(BlobFile, Download, Option<Timestamp>),
    /// A document and its time. For a configuration, and for a document of the fleet, the time is
    /// the present.
    Document(Bytes, Timestamp),
}

/// The attributes of a blob.
#[derive(Debug, Clone, Copy)]
pub struct BlobTimes {
    /// The length in bytes.
    pub bytes: u64,
    /// When the blob or the version was made, in seconds since 1970.
    pub modified: i64,
}

/// Whether `place` is a directory. Fails with [`Error::NotFound`] if `place` is the directory of a
/// component or of a history that does not exist.
pub async fn is_directory(registry: &Registry, place: &Place) -> Result<bool> {
    match place {
        Place::Component(_) | Place::History(_) => list(registry, place, true).await.map(|_| true),
        Place::Configuration(_)
        | Place::Blob(_)
        | Place::Version(..)
        | Place::State(..)
        | Place::Fleet(_) => Ok(false),
        _ => Ok(true),
    }
}

/// Lists a directory. In the root directory, an operator sees more than an agent.
pub async fn list(registry: &Registry, place: &Place, operator: bool) -> Result<Vec<Item>> {
    let catalog = &registry.catalog;
    Ok(match place {
        Place::Root if operator => ["components", "configs", "files", "fleet", "history", "put"]
            .map(Item::directory)
            .into(),
        Place::Root => ["configs", "files"].map(Item::directory).into(),
        Place::Put => Vec::new(),
        Place::PutInto(name) => match catalog.find_versions(name).await? {
            None => Vec::new(),
            Some(versions) => version_items(registry, versions).await?,
        },
        Place::Configurations => {
            catalog.configurations(|configuration| Item::configuration(&configuration)).await?
        }
        Place::Files => registry.blobs().list().await?.into_iter().map(Item::Blob).collect(),
        Place::Components => {
            let names = catalog.components(None, u64::MAX).await?;
            names.iter().map(|name| Item::directory(name.as_str())).collect()
        }
        Place::Histories => {
            let names = catalog.configuration_names(None, u64::MAX).await?;
            names.iter().map(|name| Item::directory(name.as_str())).collect()
        }
        Place::Component(name) => version_items(registry, catalog.versions(name).await?).await?,
        Place::History(name) => {
            let item = |number, state: Configuration| Item::Document {
                name: format!("{number}.json"),
                size: state.to_json().len() as u64,
                modified: state.modified(),
            };
            catalog.states(name, item).await?
        }
        Place::Fleets => fleet_items(registry).await?,
        Place::Configuration(_)
        | Place::Blob(_)
        | Place::Version(..)
        | Place::State(..)
        | Place::Fleet(_) => {
            return Err(Error::Failed("is not a directory".to_owned()));
        }
    })
}

async fn version_items(registry: &Registry, versions: Vec<Layer>) -> Result<Vec<Item>> {
    let digests = versions.iter().map(|layer| layer.digest).collect();
    let sizes = registry.blobs().sizes(digests).await?;
    let item = |layer: Layer| {
        let size = sizes.get(&layer.digest).copied().unwrap_or(0);
        let name = encode(layer.version.as_str());
        Item::Version { name, size, created: layer.created }
    };
    Ok(versions.into_iter().map(item).collect())
}

/// Opens a file. If the caller has just read the position of a configuration, the function need not
/// read it again.
pub async fn open(
    registry: &Registry,
    place: Place,
    position: Option<Position>,
) -> Result<OpenFile> {
    match place {
        Place::Configuration(name) => {
            let json = match position {
                Some(position) => registry.catalog.configuration_json_at(&name, position).await?,
                None => registry.catalog.configuration_json(&name).await?,
            };
            let none = || Error::NotFound(format!("configuration \"{name}\" not found"));
            Ok(OpenFile::Document(json.ok_or_else(none)?, Timestamp::now()))
        }
        Place::Blob(digest) => blob(registry, digest, None).await,
        Place::Version(component, version) => {
            let layer = registry.catalog.version(&component, &version).await?;
            blob(registry, layer.digest, Some(layer.created)).await
        }
        Place::State(name, number) => {
            let state = registry.catalog.state(&name, number).await?;
            Ok(OpenFile::Document(state.to_json().into(), state.modified()))
        }
        Place::Fleet(name) => {
            let query = FleetQuery { name: Some(name), ..FleetQuery::default() };
            let json = document(&registry.fleet_status(&query).await?)?;
            Ok(OpenFile::Document(json.into(), Timestamp::now()))
        }
        _ => Err(Error::Failed("is a directory".to_owned())),
    }
}

/// The length and the time of a blob in a bucket. An attribute needs no copy of the blob. `None` if
/// `place` is something else.
pub async fn blob_times(registry: &Registry, place: &Place) -> Result<Option<BlobTimes>> {
    let (digest, created) = match place {
        _ if registry.blobs().bucket().is_none() => return Ok(None),
        Place::Blob(digest) => (*digest, None),
        Place::Version(component, version) => {
            let layer = registry.catalog.version(component, version).await?;
            (layer.digest, Some(layer.created))
        }
        _ => return Ok(None),
    };
    let object = match registry.catalog.object(digest).await {
        Ok(Some(object)) => object,
        Ok(None) => return Ok(None),
        // The attributes of the copy in the cache are used instead, if there is one.
        Err(Error::NoAnswer(_)) => return Ok(None),
        Err(err) => return Err(err),
    };
    let modified = created.unwrap_or(object.since).as_second();
    let is_stored = object.state == ObjectState::Live;
    Ok(is_stored.then_some(BlobTimes { bytes: object.bytes, modified }))
}

/// The items of `/fleet`: one document for each configuration. The registry makes a document only
/// when a client opens it, so the list shows the size 0. Clients read to the end in spite of this
/// size.
async fn fleet_items(registry: &Registry) -> Result<Vec<Item>> {
    let names = registry.catalog.configuration_names(None, u64::MAX).await?;
    let item = |name: &ConfigurationName| Item::Document {
        name: format!("{}.json", encode(name.as_str())),
        size: 0,
        modified: Timestamp::now(),
    };
    Ok(names.iter().map(item).collect())
}

/// A document as the verbs print it.
fn document(value: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|err| Error::Failed(format!("cannot write the document: {err}")))?;
    Ok(escape_json(&text) + "\n")
}

async fn blob(registry: &Registry, digest: Digest, created: Option<Timestamp>) -> Result<OpenFile> {
    let download = registry.downloads.begin(digest);
    let file = registry.blobs().open(digest).await?;
    Ok(OpenFile::Blob(file, download, created))
}
