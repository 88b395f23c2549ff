//! Finds references: the reasons to keep a blob or a version.

use std::collections::{BTreeMap, BTreeSet};

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use futures_util::TryStreamExt as _;

use super::tx::{Tx, query_as, query_scalar};
use super::{Catalog, Result, column};

/// A reason to keep a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// The blob is a layer of the current state of a configuration.
    Current {
        /// The configuration.
        configuration: ConfigurationName,
        /// The state's number.
        number: u64,
    },
    /// The blob is a layer of another kept state: a rollback target, the target of an active
    /// rollout, a state that a host runs, or a state that the registry offers to a held host.
    RollbackTarget {
        /// The configuration.
        configuration: ConfigurationName,
        /// The state's number.
        number: u64,
    },
    /// A pinned version is bound to the blob.
    Pin {
        /// The component.
        component: ComponentName,
        /// The version.
        version: VersionName,
        /// The message of the pin.
        message: String,
    },
    /// A version is bound to the blob.
    Version {
        /// The component.
        component: ComponentName,
        /// The version.
        version: VersionName,
    },
}

impl Reference {
    /// The kind of this reference.
    pub fn need(&self) -> Need {
        match self {
            Self::Current { .. } => Need::Current,
            Self::RollbackTarget { .. } => Need::RollbackTarget,
            Self::Pin { .. } => Need::Pin,
            Self::Version { .. } => Need::Version,
        }
    }
}

/// A kind of reason to keep a blob. The variants have the order of [`Reference`], strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The blob is a layer of the current state of a configuration.
    Current,
    /// The blob is a layer of another kept state, see [`Reference::RollbackTarget`].
    RollbackTarget,
    /// A pinned version is bound to the blob.
    Pin,
    /// A version is bound to the blob.
    Version,
}

/// Every blob with a reference, and the strongest reason to keep the blob.
pub type Needs = BTreeMap<Digest, Need>;

/// Versions of components.
pub type Versions = Vec<(ComponentName, VersionName)>;

/// A kept state that uses a version. `current` is true for the current state, and for the target of
/// an active rollout.
#[derive(Debug)]
pub(super) struct VersionUse {
    pub configuration: ConfigurationName,
    pub number: i64,
    pub current: bool,
}

impl VersionUse {
    /// A text that says why the registry keeps the version, and how an operator can delete the
    /// version.
    pub fn needed(&self) -> String {
        let (number, name) = (self.number, &self.configuration);
        format!(
            "used by state {number} of configuration \"{name}\", which a rollback or a host may \
             need; use -force to delete it anyway"
        )
    }
}

impl Catalog {
    /// All references to a blob, sorted.
    pub async fn references_of(&self, digest: Digest) -> Result<Vec<Reference>> {
        self.first_references(digest, u64::MAX).await
    }

    /// References to a blob, sorted. The result has references from at most `limit` kept states,
    /// current states first, and from at most `limit` versions, pinned versions first.
    pub async fn first_references(&self, digest: Digest, limit: u64) -> Result<Vec<Reference>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut transaction = self.read_tx().await?;
        let mut references = Vec::new();
        let rows: Vec<(String, i64, bool)> = query_as(
            "SELECT c.name, u.number, u.number = c.current FROM uses u \
             JOIN configurations c ON c.history = u.history WHERE u.digest = $1 \
             ORDER BY u.number = c.current DESC, c.name, u.number LIMIT $2",
        )
        .bind(digest.to_string())
        .bind(limit)
        .fetch_all(&mut transaction)
        .await?;
        for (configuration, number, current) in rows {
            let (configuration, number) = (column(&configuration)?, number.cast_unsigned());
            references.push(if current {
                Reference::Current { configuration, number }
            } else {
                Reference::RollbackTarget { configuration, number }
            });
        }
        let rows: Vec<(String, String, Option<String>)> = query_as(
            "SELECT v.component, v.name, p.message FROM versions v \
             LEFT JOIN pins p ON p.component = v.component AND p.version = v.name \
             WHERE v.digest = $1 \
             ORDER BY p.version IS NULL, v.component, v.name LIMIT $2",
        )
        .bind(digest.to_string())
        .bind(limit)
        .fetch_all(&mut transaction)
        .await?;
        for (component, version, pin) in rows {
            let (component, version): (ComponentName, VersionName) =
                (column(&component)?, column(&version)?);
            if let Some(message) = pin {
                let (component, version) = (component.clone(), version.clone());
                references.push(Reference::Pin { component, version, message });
            }
            references.push(Reference::Version { component, version });
        }
        references.sort();
        references.dedup();
        Ok(references)
    }

    /// Every blob with a reference, and the strongest reason to keep the blob.
    pub async fn needs(&self) -> Result<Needs> {
        let mut transaction = self.scan_tx().await?;
        needs(&mut transaction, &BTreeSet::new()).await
    }

    /// Digests of known blobs that begin with the hex digits `prefix`. The search takes at most two
    /// digests from each of three tables.
    pub async fn blobs_like(&self, prefix: &str) -> Result<BTreeSet<Digest>> {
        let mut found = BTreeSet::new();
        for query in [
            "SELECT DISTINCT digest FROM versions WHERE digest >= $1 AND digest < $2 LIMIT 2",
            "SELECT DISTINCT digest FROM uses WHERE digest >= $1 AND digest < $2 LIMIT 2",
            "SELECT digest FROM blobs WHERE digest >= $1 AND digest < $2 \
             AND state != 'condemned' LIMIT 2",
        ] {
            let digests: Vec<String> = query_scalar(query)
                .bind(prefix)
                // All hex digits are less than "g".
                .bind(format!("{prefix}g"))
                .fetch_all(&mut self.read_tx().await?)
                .await?;
            for digest in digests {
                found.insert(column(&digest)?);
            }
        }
        Ok(found)
    }
}

/// Every blob with a reference, and the strongest reason to keep the blob. References from the
/// versions in `without` do not count.
pub(super) async fn needs(
    transaction: &mut Tx,
    without: &BTreeSet<&(ComponentName, VersionName)>,
) -> Result<Needs> {
    let mut needs = Needs::new();
    let mut uses = query_as(
        "SELECT u.digest, CAST(MAX(CASE WHEN u.number = c.current THEN 1 ELSE 0 END) AS BIGINT) FROM uses u \
         JOIN configurations c ON c.history = u.history GROUP BY u.digest",
    )
    .fetch(&mut *transaction)?;
    while let Some((digest, current)) = uses.try_next().await? {
        let (digest, current): (String, i64) = (digest, current);
        needs.insert(
            column(&digest)?,
            if current == 1 { Need::Current } else { Need::RollbackTarget },
        );
    }
    drop(uses);
    let mut versions = query_as(
        "SELECT v.digest, v.component, v.name, p.component IS NOT NULL FROM versions v \
         LEFT JOIN pins p ON p.component = v.component AND p.version = v.name",
    )
    .fetch(&mut *transaction)?;
    while let Some(row) = versions.try_next().await? {
        let (digest, component, version, pinned): (String, String, String, bool) = row;
        let version = (column(&component)?, column(&version)?);
        if without.contains(&version) {
            continue;
        }
        let need = if pinned { Need::Pin } else { Need::Version };
        needs.entry(column(&digest)?).and_modify(|old| *old = need.min(*old)).or_insert(need);
    }
    Ok(needs)
}

/// Whether a version or a kept state refers to the blob.
pub(super) async fn is_referenced(transaction: &mut Tx, digest: Digest) -> Result<bool> {
    let found: bool = query_scalar(
        "SELECT EXISTS (SELECT 1 FROM versions WHERE digest = $1) \
         OR EXISTS (SELECT 1 FROM uses WHERE digest = $1)",
    )
    .bind(digest.to_string())
    .fetch_one(&mut *transaction)
    .await?;
    Ok(found)
}

/// Finds a use of `version` by a kept state. Without `version`, finds a use of any version of the
/// component. A use by a current state, or by the target of an active rollout, comes first.
pub(super) async fn find_use(
    transaction: &mut Tx,
    component: &ComponentName,
    version: Option<&VersionName>,
) -> Result<Option<VersionUse>> {
    let row: Option<(String, i64, bool)> = query_as(
        "SELECT c.name, u.number, u.number = c.current OR EXISTS (SELECT 1 FROM rollouts r \
           WHERE r.configuration = c.name AND r.target = u.number AND r.ended IS NULL) AS current \
         FROM uses u JOIN configurations c ON c.history = u.history \
         WHERE u.component = $1 AND u.version >= $2 AND u.version <= $3 \
         ORDER BY current DESC, c.name, u.number DESC LIMIT 1",
    )
    .bind(component.as_str())
    .bind(version.map_or("", VersionName::as_str))
    // No character is greater than U+10FFFF.
    .bind(version.map_or("\u{10ffff}", VersionName::as_str))
    .fetch_optional(&mut *transaction)
    .await?;
    let found = |(name, number, current): (String, i64, bool)| {
        Ok(VersionUse { configuration: column(&name)?, number, current })
    };
    row.map(found).transpose()
}
