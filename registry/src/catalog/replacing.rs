//! Replaces layers of configurations. This module decides which versions a configuration may use,
//! and which layers these versions replace.

use deploy_store::{ComponentName, ConfigurationName, Layer, VersionName};
use deploy_wire::command::Hash;

use super::audit::Change;
use super::configuration_rows::{load, require_current, save};
use super::tx::Tx;
use super::versions::require_version;
use super::write_tx::WriteTx;
use super::{Error, Result, blob_rows};

/// The result of replacing layers.
pub(super) struct Replaced {
    /// The old layers of the components whose version changed.
    pub(super) layers: Vec<Layer>,
    /// Whether the new layers differ from the old layers.
    pub(super) differs: bool,
}

/// The error text for a configuration that already exists. The text lists the layers that would be
/// lost if `wanted` replaced all layers.
pub(super) fn is_there(name: &ConfigurationName, layers: &[Layer], wanted: &[Layer]) -> String {
    let is_wanted = |old: &Layer| {
        wanted.iter().any(|new| (&new.component, &new.version) == (&old.component, &old.version))
    };
    let lost: Vec<String> = layers
        .iter()
        .filter(|layer| !is_wanted(layer))
        .map(|layer| format!("{}:{}", layer.component, layer.version))
        .collect();
    let what = match (&lost[..], layers.len() == wanted.len()) {
        ([], true) => "has these layers".to_owned(),
        ([], false) => "has a part of these layers".to_owned(),
        (lost, _) => format!("would lose {}", lost.join(", ")),
    };
    format!(
        "configuration \"{name}\" already exists and {what}; nothing was changed: changeconf \
         changes one layer, addconf -replace replaces all layers"
    )
}

/// The layer of a version. If the version does not exist, the function fails with
/// [`Error::NotFound`]. If the version's blob is damaged or missing, it fails with
/// [`Error::Damaged`].
pub(super) async fn find_whole(
    transaction: &mut Tx,
    component: &ComponentName,
    version: &VersionName,
) -> Result<Layer> {
    let layer = require_version(transaction, component, version).await?;
    check_whole(transaction, &layer).await?;
    Ok(layer)
}

/// Fails if the blob of a version is damaged or missing.
pub(super) async fn check_whole(transaction: &mut Tx, layer: &Layer) -> Result<()> {
    if blob_rows::is_live(transaction, layer.digest).await? {
        return Ok(());
    }
    Err(Error::Damaged(not_whole(layer)))
}

/// The error text for a version that a configuration cannot use, because its blob is damaged or
/// missing.
pub fn not_whole(layer: &Layer) -> String {
    let Layer { component, version, digest, .. } = layer;
    format!(
        "version \"{version}\" of component \"{component}\" is damaged or missing here, and no \
         agent could download it; upload the same archive again ({digest}) to use the version"
    )
}

/// Replaces layers of a configuration with layers of the same components, and saves the new state.
/// With `if_hash`, the function fails if the configuration has another id.
pub(super) async fn replace(
    transaction: &mut WriteTx,
    name: &ConfigurationName,
    by: Vec<Layer>,
    if_hash: Option<Hash>,
    change: &Change,
) -> Result<Replaced> {
    let number = require_current(transaction, name).await?;
    let configuration = load(transaction, name, number).await?;
    if let Some(wanted) = if_hash.filter(|wanted| !wanted.is_of(configuration.id())) {
        let id = configuration.id();
        let text = format!(
            "configuration \"{name}\" has hash {id}, not {wanted}; check the configuration again"
        );
        return Err(Error::Conflict(text));
    }
    let mut layers = configuration.layers().to_vec();
    let mut replaced = Replaced { layers: Vec::new(), differs: false };
    for new in by {
        let Some(old) = layers.iter_mut().find(|layer| layer.component == new.component) else {
            let component = new.component;
            let text = format!("configuration has no layer for component \"{component}\"");
            return Err(Error::NotFound(text));
        };
        let old = std::mem::replace(old, new.clone());
        replaced.differs |= (&old.version, old.digest) != (&new.version, new.digest);
        if old.version != new.version {
            replaced.layers.push(old);
        }
    }
    save(transaction, name, layers, change).await?;
    Ok(replaced)
}
