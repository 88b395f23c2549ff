//! What may go: versions beyond the number that is kept, and blobs that nothing needs.

use std::collections::{BTreeMap, BTreeSet};

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use sqlx::{Sqlite, Transaction};

use super::versions::delete;
use super::{Catalog, KEPT_STATES, Result};

/// A use of a version by a state that is current or a target of a rollback.
#[derive(Debug)]
pub(super) struct Use {
    pub configuration: ConfigurationName,
    pub number: i64,
    pub current: bool,
    pub version: VersionName,
}

impl Use {
    /// Why the version is kept.
    pub fn needed(&self) -> String {
        let (number, name) = (self.number, &self.configuration);
        format!(
            "used by state {number} of configuration \"{name}\", which a rollback would need; \
             use -force to delete it all the same"
        )
    }
}

impl Catalog {
    /// Deletes the versions of every component beyond the newest `keep`, but none that
    /// a configuration or a target of a rollback uses. Returns how many went.
    pub async fn delete_old_versions(&self, keep: usize) -> Result<u64> {
        let components = self.components().await?;
        let mut deleted = 0;
        for component in components {
            let mut transaction = self.begin().await?;
            let names: Vec<String> = sqlx::query_scalar(
                "SELECT name FROM versions WHERE component = $1 ORDER BY number DESC",
            )
            .bind(component.as_str())
            .fetch_all(&mut *transaction)
            .await?;
            let used = uses(&mut transaction, &component).await?;
            let used: BTreeSet<&VersionName> = used.iter().map(|used| &used.version).collect();
            for name in names.into_iter().skip(keep) {
                let version: VersionName = name.parse()?;
                if !used.contains(&version) {
                    delete(&mut transaction, &component, &version).await?;
                    deleted += 1;
                }
            }
            transaction.commit().await?;
        }
        Ok(deleted)
    }

    /// The blobs that a version or a kept state needs.
    pub async fn needed_blobs(&self) -> Result<BTreeSet<Digest>> {
        let mut transaction = self.begin().await?;
        let mut needed = BTreeSet::new();
        let bound: Vec<String> = sqlx::query_scalar("SELECT DISTINCT digest FROM versions")
            .fetch_all(&mut *transaction)
            .await?;
        let kept = kept_states(&mut transaction).await?;
        let layers: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT configuration, number, digest FROM state_layers")
                .fetch_all(&mut *transaction)
                .await?;
        let of_kept = layers.into_iter().filter_map(|(configuration, number, digest)| {
            kept.contains_key(&(configuration, number)).then_some(digest)
        });
        for digest in bound.into_iter().chain(of_kept) {
            needed.insert(digest.parse()?);
        }
        Ok(needed)
    }
}

/// The states that are kept, with whether they are current.
async fn kept_states(
    transaction: &mut Transaction<'_, Sqlite>,
) -> Result<BTreeMap<(String, i64), bool>> {
    let rows: Vec<(String, i64, String, i64)> = sqlx::query_as(
        "SELECT s.configuration, s.number, s.hash, c.current FROM states s \
         JOIN configurations c ON c.name = s.configuration \
         ORDER BY s.configuration, s.number DESC",
    )
    .fetch_all(&mut **transaction)
    .await?;
    let mut kept = BTreeMap::new();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (configuration, number, hash, current) in rows {
        let hashes = seen.entry(configuration.clone()).or_default();
        let new = hashes.len() < KEPT_STATES && hashes.insert(hash);
        if new || number == current {
            kept.insert((configuration, number), number == current);
        }
    }
    Ok(kept)
}

/// Every use of a version of `component`, those of current states first.
pub(super) async fn uses(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
) -> Result<Vec<Use>> {
    let kept = kept_states(transaction).await?;
    let rows: Vec<(String, i64, String)> = sqlx::query_as(
        "SELECT configuration, number, version FROM state_layers WHERE component = $1 \
         ORDER BY configuration, number DESC",
    )
    .bind(component.as_str())
    .fetch_all(&mut **transaction)
    .await?;
    let mut uses = Vec::new();
    for (configuration, number, version) in rows {
        if let Some(&current) = kept.get(&(configuration.clone(), number)) {
            let configuration = configuration.parse()?;
            uses.push(Use { configuration, number, current, version: version.parse()? });
        }
    }
    uses.sort_by_key(|used| !used.current);
    Ok(uses)
}
