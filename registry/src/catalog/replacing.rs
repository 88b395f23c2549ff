//! Layers that replace others: which may enter a configuration, and what goes for them.

use deploy_store::{ComponentName, ConfigurationName, Layer, VersionName};
use deploy_wire::command::Hash;
use deploy_wire::exit;
use sqlx::{Sqlite, Transaction};

use crate::catalog::audit::Change;
use crate::catalog::blob_rows;
use crate::catalog::configurations::{current, load, save};
use crate::catalog::versions::find_version;
use crate::catalog::{Result, refuse};

/// What a change of layers came to.
pub(super) struct Replaced {
    /// Layers that are another version now.
    pub(super) layers: Vec<Layer>,
    /// Whether anything is not as it was.
    pub(super) differs: bool,
}

/// Says that a configuration is there, and which of its layers would go for those `wanted`.
pub(super) fn is_there(name: &ConfigurationName, layers: &[Layer], wanted: &[Layer]) -> String {
    let is_wanted = |old: &Layer| {
        wanted.iter().any(|new| (&new.component, &new.version) == (&old.component, &old.version))
    };
    let going: Vec<String> = layers
        .iter()
        .filter(|layer| !is_wanted(layer))
        .map(|layer| format!("{}:{}", layer.component, layer.version))
        .collect();
    let what = match (&going[..], layers.len() == wanted.len()) {
        ([], true) => "has these layers".to_owned(),
        ([], false) => "has a part of these layers".to_owned(),
        (going, _) => format!("would lose {}", going.join(", ")),
    };
    format!(
        "configuration \"{name}\" already exists and {what}; nothing was changed: changeconf \
         changes one layer, addconf -replace all of them"
    )
}

/// The version, if agents can have it.
pub(super) async fn find_whole(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
    version: &VersionName,
) -> Result<Layer> {
    let layer = find_version(transaction, component, version).await?;
    check_whole(transaction, &layer).await?;
    Ok(layer)
}

/// Refuses a version whose file was damaged, or is not there.
pub(super) async fn check_whole(
    transaction: &mut Transaction<'_, Sqlite>,
    layer: &Layer,
) -> Result<()> {
    if blob_rows::is_live(transaction, layer.digest).await? {
        return Ok(());
    }
    refuse(exit::CORRUPT, not_whole(layer))
}

/// Why a version cannot enter a configuration.
pub fn not_whole(layer: &Layer) -> String {
    let Layer { component, version, digest, .. } = layer;
    format!(
        "version \"{version}\" of component \"{component}\" is damaged or missing here, and no \
         agent could have it; upload the same archive again ({digest}), and it can be used"
    )
}

/// Replaces layers of a configuration by those of the same components, and saves the new state.
pub(super) async fn replace(
    transaction: &mut Transaction<'_, Sqlite>,
    name: &ConfigurationName,
    by: Vec<Layer>,
    if_hash: Option<Hash>,
    change: &Change,
) -> Result<Replaced> {
    let number = current(transaction, name).await?;
    let configuration = load(transaction, name, number).await?;
    if let Some(wanted) = if_hash.filter(|wanted| !wanted.is_of(configuration.id())) {
        let id = configuration.id();
        let text = format!("configuration \"{name}\" has hash {id}, not {wanted}; look again");
        return refuse(exit::CONFLICT, text);
    }
    let mut layers = configuration.layers().to_vec();
    let mut replaced = Replaced { layers: Vec::new(), differs: false };
    for new in by {
        let Some(old) = layers.iter_mut().find(|layer| layer.component == new.component) else {
            let component = new.component;
            let text = format!("configuration has no layer for component \"{component}\"");
            return refuse(exit::NOT_FOUND, text);
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
