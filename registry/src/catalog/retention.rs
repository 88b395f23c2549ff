//! Deletes versions, components, and rows of unneeded blobs.

use deploy_store::{BlobInfo, ComponentName, Digest, VersionName};
use jiff::Timestamp;

use super::audit::Change;
use super::blob_rows::{self, BlobState};
use super::pins::check_unpinned;
use super::references::{Needs, Versions, find_use, is_referenced, needs};
use super::tx::{Tx, query, query_as};
use super::versions::{delete, has_component, require_version};
use super::{Catalog, Error, Result, column, image_layers};

/// Maximum number of versions that one transaction deletes. With this limit, other writers wait
/// only for milliseconds.
const BATCH: usize = 100;

impl Catalog {
    /// Deletes a version. The function fails if the version is pinned, or if a current state or the
    /// target of an active rollout uses the version. Without `force`, the function also fails if
    /// another kept state uses the version.
    pub async fn delete_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
        force: bool,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        require_version(&mut transaction, component, version).await?;
        check_unpinned(&mut transaction, component, Some(version)).await?;
        if let Some(used) = find_use(&mut transaction, component, Some(version)).await? {
            if used.current {
                let name = used.configuration;
                let text = format!("version is used by configuration \"{name}\"");
                return Err(Error::Conflict(text));
            }
            if !force {
                return Err(Error::Conflict(format!("version is {}", used.needed())));
            }
        }
        delete(&mut transaction, component, version).await?;
        transaction.commit().await
    }

    /// Deletes a component with all its versions. The conditions of [`Catalog::delete_version`]
    /// apply to every version.
    pub async fn delete_component(
        &self,
        component: &ComponentName,
        force: bool,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        if !has_component(&mut transaction, component).await? {
            return Err(Error::NotFound(format!("\"{component}\" component not found")));
        }
        check_unpinned(&mut transaction, component, None).await?;
        if let Some(used) = find_use(&mut transaction, component, None).await? {
            if used.current {
                let name = &used.configuration;
                let text = format!("component is used by configuration \"{name}\"");
                return Err(Error::Conflict(text));
            }
            if !force {
                return Err(Error::Conflict(format!("component is {}", used.needed())));
            }
        }
        for statement in
            ["DELETE FROM versions WHERE component = $1", "DELETE FROM components WHERE name = $1"]
        {
            query(statement).bind(component.as_str()).execute(&mut transaction).await?;
        }
        transaction.commit().await
    }

    /// The versions that [`Catalog::delete_old_versions`] would delete, and the blobs that would
    /// still be needed afterwards.
    pub async fn old_versions(&self, keep: usize) -> Result<(Versions, Needs)> {
        let mut transaction = self.scan_tx().await?;
        let old = old_versions(&mut transaction, keep).await?;
        let needs = needs(&mut transaction, &old.iter().collect()).await?;
        Ok((old, needs))
    }

    /// Deletes old versions. The function keeps the newest `keep` versions of every component,
    /// pinned versions, and versions that a kept state uses. If `keep` is 0, the function deletes
    /// no version. Returns the deleted versions.
    pub async fn delete_old_versions(&self, keep: usize) -> Result<Versions> {
        let mut transaction = self.scan_tx().await?;
        let old = old_versions(&mut transaction, keep).await?;
        drop(transaction);
        let mut deleted = Versions::new();
        for some in old.chunks(BATCH) {
            let mut transaction = self.write_tx().await?;
            for (component, version) in some {
                if delete_old(&mut transaction, component, version, keep).await? {
                    deleted.push((component.clone(), version.clone()));
                }
            }
            transaction.commit().await?;
        }
        Ok(deleted)
    }

    /// Condemns each blob of `blobs` that has no reference and was not leased at `leased` or later.
    /// Returns the condemned blobs. The caller then removes the files and calls
    /// [`Catalog::forget`].
    pub async fn condemn(
        &self,
        blobs: &[BlobInfo],
        leased: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<BlobInfo>> {
        let mut transaction = self.write_tx().await?;
        let mut unneeded = Vec::new();
        for blob in blobs {
            let (digest, bytes) = (blob.digest, blob.bytes);
            if is_referenced(&mut transaction, digest).await?
                || image_layers::is_leased(&mut transaction, digest, leased).await?
            {
                continue;
            }
            blob_rows::put(&mut transaction, digest, bytes, BlobState::Condemned, now).await?;
            unneeded.push(blob.clone());
        }
        transaction.commit().await?;
        Ok(unneeded)
    }

    /// Deletes the rows of condemned blobs after their files were removed. Also deletes the rows
    /// that record the origins of these blobs.
    pub async fn forget(&self, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        for digest in digests {
            image_layers::forget(&mut transaction, digest).await?;
            query("DELETE FROM blobs WHERE digest = $1 AND state = 'condemned'")
                .bind(digest.to_string())
                .execute(&mut transaction)
                .await?;
        }
        transaction.commit().await
    }
}

/// The old versions of every component. An old version is not pinned, not used by a kept state, and
/// not among the newest `keep` versions.
async fn old_versions(transaction: &mut Tx, keep: usize) -> Result<Versions> {
    if keep == 0 {
        return Ok(Versions::new());
    }
    let rows: Vec<(String, String)> = query_as(
        "SELECT component, name FROM \
           (SELECT component, name, \
            ROW_NUMBER() OVER (PARTITION BY component ORDER BY number DESC) AS place \
            FROM versions) AS v \
         WHERE place > $1 \
         AND NOT EXISTS (SELECT 1 FROM pins p WHERE p.component = v.component AND p.version = v.name) \
         AND NOT EXISTS (SELECT 1 FROM uses u WHERE u.component = v.component AND u.version = v.name) \
         ORDER BY component, place",
    )
    .bind(i64::try_from(keep).unwrap_or(i64::MAX))
    .fetch_all(&mut *transaction)
    .await?;
    rows.iter().map(|(component, name)| Ok((column(component)?, column(name)?))).collect()
}

/// Deletes the version if it is still an old version, see [`old_versions`]. Returns whether the
/// version was deleted.
async fn delete_old(
    transaction: &mut Tx,
    component: &ComponentName,
    version: &VersionName,
    keep: usize,
) -> Result<bool> {
    let deleted = query(
        "DELETE FROM versions AS v WHERE component = $1 AND name = $2 \
         AND NOT EXISTS (SELECT 1 FROM pins p WHERE p.component = $1 AND p.version = $2) \
         AND NOT EXISTS (SELECT 1 FROM uses u WHERE u.component = $1 AND u.version = $2) \
         AND $3 <= (SELECT COUNT(*) FROM \
           (SELECT 1 FROM versions n WHERE n.component = $1 AND n.number > v.number LIMIT $3) AS newer)",
    )
    .bind(component.as_str())
    .bind(version.as_str())
    .bind(i64::try_from(keep).unwrap_or(i64::MAX))
    .execute(&mut *transaction)
    .await?;
    Ok(deleted > 0)
}
