//! What refers to what: why a blob or a version is kept, and which versions may go.

use std::collections::{BTreeMap, BTreeSet};

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use sqlx::{Sqlite, Transaction};

use crate::catalog::versions::delete;
use crate::catalog::{Catalog, Result};

/// A reason to keep a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// A layer of the current state of a configuration.
    Current {
        /// The configuration.
        configuration: ConfigurationName,
        /// The state's number.
        number: u64,
    },
    /// A layer of a state that a rollback may go back to.
    Target {
        /// The configuration.
        configuration: ConfigurationName,
        /// The state's number.
        number: u64,
    },
    /// A pinned version is bound to it.
    Pin {
        /// The component.
        component: ComponentName,
        /// The version.
        version: VersionName,
        /// What the pin says.
        message: String,
    },
    /// A version is bound to it.
    Version {
        /// The component.
        component: ComponentName,
        /// The version.
        version: VersionName,
    },
}

/// Every blob that is referred to, with all that does, sorted.
pub type References = BTreeMap<Digest, Vec<Reference>>;

/// Versions of components.
pub type Versions = Vec<(ComponentName, VersionName)>;

/// A use of a version by a state that is current or a target of a rollback.
#[derive(Debug)]
pub(super) struct Use {
    pub configuration: ConfigurationName,
    pub number: i64,
    pub current: bool,
    pub component: ComponentName,
    pub version: VersionName,
    pub digest: Digest,
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
    /// All references to blobs.
    pub async fn references(&self) -> Result<References> {
        let mut transaction = self.look().await?;
        all(&mut transaction, self.keep_states).await
    }

    /// The versions that [`Catalog::delete_old_versions`] would delete, and the references
    /// that would be left.
    pub async fn old_versions(&self, keep: usize) -> Result<(Versions, References)> {
        // Deleted, looked at, and not committed.
        let mut transaction = self.begin().await?;
        let old = delete_old(&mut transaction, keep, self.keep_states).await?;
        let left = all(&mut transaction, self.keep_states).await?;
        transaction.rollback().await?;
        Ok((old, left))
    }

    /// Deletes the versions of every component beyond the newest `keep` (0 keeps all), but
    /// none that is pinned, or that a configuration or a target of a rollback uses. Returns
    /// those that went, and the references that are left.
    pub async fn delete_old_versions(&self, keep: usize) -> Result<(Versions, References)> {
        let mut transaction = self.begin().await?;
        let old = delete_old(&mut transaction, keep, self.keep_states).await?;
        let left = all(&mut transaction, self.keep_states).await?;
        transaction.commit().await?;
        Ok((old, left))
    }
}

async fn delete_old(
    transaction: &mut Transaction<'_, Sqlite>,
    keep: usize,
    keep_states: usize,
) -> Result<Versions> {
    let mut old = Versions::new();
    if keep == 0 {
        return Ok(old);
    }
    let used = uses(transaction, keep_states).await?;
    let used: BTreeSet<_> = used.iter().map(|used| (&used.component, &used.version)).collect();
    let rows: Vec<(String, String, bool)> = sqlx::query_as(
        "SELECT v.component, v.name, p.component IS NOT NULL FROM versions v \
         LEFT JOIN pins p ON p.component = v.component AND p.version = v.name \
         ORDER BY v.component, v.number DESC",
    )
    .fetch_all(&mut **transaction)
    .await?;
    let (mut last, mut seen) = (None, 0);
    for (component, name, pinned) in rows {
        let (component, version): (ComponentName, VersionName) =
            (component.parse()?, name.parse()?);
        if last.as_ref() != Some(&component) {
            (last, seen) = (Some(component.clone()), 0);
        }
        seen += 1;
        if seen > keep && !pinned && !used.contains(&(&component, &version)) {
            old.push((component, version));
        }
    }
    for (component, version) in &old {
        delete(transaction, component, version).await?;
    }
    Ok(old)
}

/// Every reference to every blob.
pub(super) async fn all(
    transaction: &mut Transaction<'_, Sqlite>,
    keep_states: usize,
) -> Result<References> {
    let mut references = References::new();
    let mut add = |digest, reference| references.entry(digest).or_default().push(reference);
    for used in uses(transaction, keep_states).await? {
        let (configuration, number) = (used.configuration, used.number.cast_unsigned());
        let reference = if used.current {
            Reference::Current { configuration, number }
        } else {
            Reference::Target { configuration, number }
        };
        add(used.digest, reference);
    }
    let rows: Vec<(String, String, String, Option<String>)> = sqlx::query_as(
        "SELECT v.component, v.name, v.digest, p.message FROM versions v \
         LEFT JOIN pins p ON p.component = v.component AND p.version = v.name",
    )
    .fetch_all(&mut **transaction)
    .await?;
    for (component, version, digest, pin) in rows {
        let digest = digest.parse()?;
        let (component, version): (ComponentName, VersionName) =
            (component.parse()?, version.parse()?);
        if let Some(message) = pin {
            let (component, version) = (component.clone(), version.clone());
            add(digest, Reference::Pin { component, version, message });
        }
        add(digest, Reference::Version { component, version });
    }
    for reasons in references.values_mut() {
        reasons.sort();
        reasons.dedup();
    }
    Ok(references)
}

/// The states that are kept, with whether they are current.
async fn kept_states(
    transaction: &mut Transaction<'_, Sqlite>,
    keep_states: usize,
) -> Result<BTreeMap<(String, i64), bool>> {
    let rows: Vec<(String, i64, String, i64)> = sqlx::query_as(
        "SELECT s.configuration, s.number, s.hash, c.current FROM states s \
         JOIN configurations c ON c.name = s.configuration \
         WHERE NOT s.lost OR s.number = c.current \
         ORDER BY s.configuration, s.number DESC",
    )
    .fetch_all(&mut **transaction)
    .await?;
    let mut kept = BTreeMap::new();
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (configuration, number, hash, current) in rows {
        let hashes = seen.entry(configuration.clone()).or_default();
        let new = hashes.len() < keep_states && hashes.insert(hash);
        if new || number == current {
            kept.insert((configuration, number), number == current);
        }
    }
    Ok(kept)
}

/// Every use of a version, those of current states first.
pub(super) async fn uses(
    transaction: &mut Transaction<'_, Sqlite>,
    keep_states: usize,
) -> Result<Vec<Use>> {
    let kept = kept_states(transaction, keep_states).await?;
    let rows: Vec<(String, i64, String, String, String)> = sqlx::query_as(
        "SELECT configuration, number, component, version, digest FROM state_layers \
         ORDER BY configuration, number DESC, position",
    )
    .fetch_all(&mut **transaction)
    .await?;
    let mut uses = Vec::new();
    for (configuration, number, component, version, digest) in rows {
        let Some(&current) = kept.get(&(configuration.clone(), number)) else { continue };
        uses.push(Use {
            configuration: configuration.parse()?,
            number,
            current,
            component: component.parse()?,
            version: version.parse()?,
            digest: digest.parse()?,
        });
    }
    uses.sort_by_key(|used| !used.current);
    Ok(uses)
}
