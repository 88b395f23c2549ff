//! What is deleted: versions, components, and the rows of blobs that nothing refers to.

use std::collections::BTreeSet;

use deploy_store::{BlobInfo, ComponentName, Digest, VersionName};
use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::audit::Change;
use super::blob_rows::{self, BlobState};
use super::pins::check_unpinned;
use super::references::{References, Versions, all_references, version_uses};
use super::versions::{delete, has_component, require_version};
use super::{Catalog, Error, Result, column, image_layers};

impl Catalog {
    /// Deletes a version that no configuration uses. Without `force`, it also keeps a version that
    /// a rollback would need.
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
        for used in version_uses(&mut transaction, self.keep_states).await? {
            if used.component != *component || used.version != *version {
                continue;
            }
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
        Ok(transaction.commit().await?)
    }

    /// Deletes a component with all its versions, under the conditions of
    /// [`Catalog::delete_version`].
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
        let mut uses = version_uses(&mut transaction, self.keep_states).await?;
        uses.retain(|used| used.component == *component);
        if let Some(used) = uses.iter().find(|used| used.current) {
            let name = &used.configuration;
            let text = format!("component is used by configuration \"{name}\"");
            return Err(Error::Conflict(text));
        }
        if let Some(used) = uses.first().filter(|_| !force) {
            return Err(Error::Conflict(format!("component is {}", used.needed())));
        }
        for statement in
            ["DELETE FROM versions WHERE component = $1", "DELETE FROM components WHERE name = $1"]
        {
            sqlx::query(statement).bind(component.as_str()).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// The versions that [`Catalog::delete_old_versions`] would delete, and the references that
    /// would remain.
    pub async fn old_versions(&self, keep: usize) -> Result<(Versions, References)> {
        // Deletes them and rolls back.
        let mut transaction = self.write_tx().await?;
        let old = delete_old(&mut transaction, keep, self.keep_states).await?;
        let left = all_references(&mut transaction, self.keep_states).await?;
        transaction.rollback().await?;
        Ok((old, left))
    }

    /// Deletes the versions of every component beyond the newest `keep` (0 keeps all). It keeps
    /// versions that are pinned or that a configuration or a rollback target uses. Returns the
    /// deleted versions and the remaining references.
    pub async fn delete_old_versions(&self, keep: usize) -> Result<(Versions, References)> {
        let mut transaction = self.write_tx().await?;
        let old = delete_old(&mut transaction, keep, self.keep_states).await?;
        let left = all_references(&mut transaction, self.keep_states).await?;
        transaction.commit().await?;
        Ok((old, left))
    }

    /// Condemns those of `blobs` that nothing refers to and that no importer was told about at
    /// `leased` or later, and returns them. Their files may be removed then;
    /// [`Catalog::forget`] comes last.
    pub async fn condemn(
        &self,
        blobs: &[BlobInfo],
        leased: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<BlobInfo>> {
        let mut transaction = self.write_tx().await?;
        let references = all_references(&mut transaction, self.keep_states).await?;
        let mut needed: BTreeSet<Digest> = references.into_keys().collect();
        needed.extend(image_layers::leased_since(&mut transaction, leased).await?);
        let unneeded: Vec<BlobInfo> =
            blobs.iter().filter(|blob| !needed.contains(&blob.digest)).cloned().collect();
        for blob in &unneeded {
            let (digest, bytes) = (blob.digest, blob.bytes);
            blob_rows::put(&mut transaction, digest, bytes, BlobState::Condemned, now).await?;
        }
        transaction.commit().await?;
        Ok(unneeded)
    }

    /// Deletes the rows of condemned blobs whose files are removed, and of the layers that they
    /// were made from.
    pub async fn forget(&self, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        for digest in digests {
            image_layers::forget(&mut transaction, digest).await?;
            sqlx::query("DELETE FROM blobs WHERE digest = $1 AND state = 'condemned'")
                .bind(digest.to_string())
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
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
    let used = version_uses(transaction, keep_states).await?;
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
            (column(&component)?, column(&name)?);
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
