//! What refers to what: the reasons to keep a blob or a version.

use std::collections::{BTreeMap, BTreeSet};

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use sqlx::{Sqlite, Transaction};

use super::{Catalog, Result, column};

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
    /// A layer of a state that a rollback may restore.
    RollbackTarget {
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
        /// The message of the pin.
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

/// Every blob that something refers to, with all its references, sorted.
pub type References = BTreeMap<Digest, Vec<Reference>>;

/// Versions of components.
pub type Versions = Vec<(ComponentName, VersionName)>;

/// A use of a version by a state that is current or a rollback target.
#[derive(Debug)]
pub(super) struct VersionUse {
    pub configuration: ConfigurationName,
    pub number: i64,
    pub current: bool,
    pub component: ComponentName,
    pub version: VersionName,
    pub digest: Digest,
}

impl VersionUse {
    /// Says why the version is kept, and how to delete it.
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
        let mut transaction = self.read_tx().await?;
        all_references(&mut transaction, self.keep_states).await
    }
}

/// Every reference to every blob.
pub(super) async fn all_references(
    transaction: &mut Transaction<'_, Sqlite>,
    keep_states: usize,
) -> Result<References> {
    let mut references = References::new();
    let mut add = |digest, reference| references.entry(digest).or_default().push(reference);
    for used in version_uses(transaction, keep_states).await? {
        let (configuration, number) = (used.configuration, used.number.cast_unsigned());
        let reference = if used.current {
            Reference::Current { configuration, number }
        } else {
            Reference::RollbackTarget { configuration, number }
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
        let digest = column(&digest)?;
        let (component, version): (ComponentName, VersionName) =
            (column(&component)?, column(&version)?);
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

/// The states that are kept. The value says whether a state is current.
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
pub(super) async fn version_uses(
    transaction: &mut Transaction<'_, Sqlite>,
    keep_states: usize,
) -> Result<Vec<VersionUse>> {
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
        uses.push(VersionUse {
            configuration: column(&configuration)?,
            number,
            current,
            component: column(&component)?,
            version: column(&version)?,
            digest: column(&digest)?,
        });
    }
    uses.sort_by_key(|used| !used.current);
    Ok(uses)
}
