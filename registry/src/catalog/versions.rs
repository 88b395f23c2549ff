//! Reads and writes components and their versions.

use deploy_store::{ComponentName, Digest, Layer, VersionName};

use super::audit::Change;
use super::blob_rows::{self, BlobState};
use super::tx::{Tx, query, query_as, query_scalar};
use super::{Catalog, Error, Result, column, nanoseconds, object_rows, timestamp};

/// The columns of a version: component, name, digest, time of creation.
pub(super) type Row = (String, String, String, i64);

impl Catalog {
    /// Fails if [`Catalog::add_version`] would fail, and changes nothing.
    pub async fn check_new_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
    ) -> Result<()> {
        let mut transaction = self.read_tx().await?;
        check_new(&mut transaction, component, version).await
    }

    /// Creates a version, and binds a blob of `bytes` bytes to it. Creates the component if it does
    /// not exist.
    pub async fn add_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
        digest: Digest,
        bytes: u64,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        insert_version(&mut transaction, component, version, digest, change).await?;
        object_rows::bind(&mut transaction, digest).await?;
        blob_rows::put(&mut transaction, digest, bytes, BlobState::Live, change.now).await?;
        transaction.commit().await
    }

    /// Whether any version is bound to the blob.
    pub async fn is_bound(&self, digest: Digest) -> Result<bool> {
        let count: i64 = query_scalar("SELECT COUNT(*) FROM versions WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_one(&mut self.read_tx().await?)
            .await?;
        Ok(count > 0)
    }

    /// Whether any version or any kept state needs the blob.
    pub async fn is_needed(&self, digest: Digest) -> Result<bool> {
        let count: i64 = query_scalar(
            "SELECT (SELECT COUNT(*) FROM versions WHERE digest = $1) \
             + (SELECT COUNT(*) FROM uses WHERE digest = $1)",
        )
        .bind(digest.to_string())
        .fetch_one(&mut self.read_tx().await?)
        .await?;
        Ok(count > 0)
    }

    /// The first `limit` names of components after the name `after`, in byte order.
    pub async fn components(
        &self,
        after: Option<&ComponentName>,
        limit: u64,
    ) -> Result<Vec<ComponentName>> {
        let names: Vec<String> =
            query_scalar("SELECT name FROM components WHERE name > $1 ORDER BY name LIMIT $2")
                .bind(after.map_or("", ComponentName::as_str))
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut self.scan_tx().await?)
                .await?;
        names.iter().map(|name| column(name)).collect()
    }

    /// The versions of a component, oldest first; [`Error::NotFound`] if there is no such
    /// component.
    pub async fn versions(&self, component: &ComponentName) -> Result<Vec<Layer>> {
        let versions = self.find_versions(component).await?;
        versions.ok_or_else(|| no_component(component))
    }

    /// The versions of a component, oldest first; `None` if there is no such component.
    pub async fn find_versions(&self, component: &ComponentName) -> Result<Option<Vec<Layer>>> {
        let mut transaction = self.scan_tx().await?;
        if !has_component(&mut transaction, component).await? {
            return Ok(None);
        }
        let rows: Vec<Row> = query_as(
            "SELECT component, name, digest, created FROM versions WHERE component = $1 \
             ORDER BY number",
        )
        .bind(component.as_str())
        .fetch_all(&mut transaction)
        .await?;
        rows.into_iter().map(layer).collect::<Result<_>>().map(Some)
    }

    /// The newest `limit` versions of a component that were added before the version `before`,
    /// oldest first. [`Error::NotFound`] if there is no such component, or no version `before`.
    pub async fn newest_versions(
        &self,
        component: &ComponentName,
        before: Option<&VersionName>,
        limit: u64,
    ) -> Result<Vec<Layer>> {
        let mut transaction = self.scan_tx().await?;
        if !has_component(&mut transaction, component).await? {
            return Err(no_component(component));
        }
        let mut below = i64::MAX;
        if let Some(version) = before {
            require_version(&mut transaction, component, version).await?;
            below = query_scalar("SELECT number FROM versions WHERE component = $1 AND name = $2")
                .bind(component.as_str())
                .bind(version.as_str())
                .fetch_one(&mut transaction)
                .await?;
        }
        let rows: Vec<Row> = query_as(
            "SELECT component, name, digest, created FROM versions \
             WHERE component = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
        )
        .bind(component.as_str())
        .bind(below)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut transaction)
        .await?;
        rows.into_iter().rev().map(layer).collect()
    }

    /// One version of a component; [`Error::NotFound`] if there is no such version.
    pub async fn version(&self, component: &ComponentName, version: &VersionName) -> Result<Layer> {
        let mut transaction = self.read_tx().await?;
        require_version(&mut transaction, component, version).await
    }

    /// One version of a component, if it exists.
    pub async fn find_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
    ) -> Result<Option<Layer>> {
        let mut transaction = self.read_tx().await?;
        find_version(&mut transaction, component, version).await
    }
}

/// Fails if the version exists, if its name is not allowed, or if its component is new and has a
/// name that is not allowed.
async fn check_new(
    transaction: &mut Tx,
    component: &ComponentName,
    version: &VersionName,
) -> Result<()> {
    version.check_new()?;
    if !has_component(transaction, component).await? {
        component.check_new()?;
    }
    match find_version(transaction, component, version).await? {
        Some(_) => Err(Error::Conflict(format!("version \"{version}\" already exists"))),
        None => Ok(()),
    }
}

/// Adds a version, and also its component if the component does not exist.
pub(super) async fn insert_version(
    transaction: &mut Tx,
    component: &ComponentName,
    version: &VersionName,
    digest: Digest,
    change: &Change,
) -> Result<Layer> {
    check_new(transaction, component, version).await?;
    query("INSERT INTO components (name) VALUES ($1) ON CONFLICT (name) DO NOTHING")
        .bind(component.as_str())
        .execute(&mut *transaction)
        .await?;
    let number: i64 = query_scalar(
        "UPDATE counters SET value = value + 1 WHERE name = 'version' RETURNING value",
    )
    .fetch_one(&mut *transaction)
    .await?;
    query(
        "INSERT INTO versions (component, name, digest, created, number) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(component.as_str())
    .bind(version.as_str())
    .bind(digest.to_string())
    .bind(nanoseconds(change.now))
    .bind(number)
    .execute(&mut *transaction)
    .await?;
    let (component, version) = (component.clone(), version.clone());
    Ok(Layer { component, version, digest, created: change.now })
}

pub(super) async fn has_component(transaction: &mut Tx, component: &ComponentName) -> Result<bool> {
    let count: i64 = query_scalar("SELECT COUNT(*) FROM components WHERE name = $1")
        .bind(component.as_str())
        .fetch_one(&mut *transaction)
        .await?;
    Ok(count > 0)
}

/// The version, if it exists.
pub(super) async fn find_version(
    transaction: &mut Tx,
    component: &ComponentName,
    version: &VersionName,
) -> Result<Option<Layer>> {
    let row: Option<Row> = query_as(
        "SELECT component, name, digest, created FROM versions \
         WHERE component = $1 AND name = $2",
    )
    .bind(component.as_str())
    .bind(version.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    row.map(layer).transpose()
}

/// The version, or [`Error::NotFound`].
pub(super) async fn require_version(
    transaction: &mut Tx,
    component: &ComponentName,
    version: &VersionName,
) -> Result<Layer> {
    let found = find_version(transaction, component, version).await?;
    found.ok_or_else(|| Error::NotFound(no_version(component, version)))
}

/// The Go tool's error text for a version that does not exist.
pub(super) fn no_version(component: &ComponentName, version: &VersionName) -> String {
    format!("no version \"{version}\" for component \"{component}\" found")
}

fn no_component(component: &ComponentName) -> Error {
    Error::NotFound(format!("no component \"{component}\" found"))
}

/// The newest version of a component; [`Error::NotFound`] if there is no version.
pub(super) async fn latest_version(
    transaction: &mut Tx,
    component: &ComponentName,
) -> Result<Layer> {
    if !has_component(transaction, component).await? {
        let count: i64 =
            query_scalar("SELECT COUNT(*) FROM components").fetch_one(&mut *transaction).await?;
        return Err(match count {
            0 => Error::NotFound("no components found".to_owned()),
            _ => no_component(component),
        });
    }
    let row: Option<Row> = query_as(
        "SELECT component, name, digest, created FROM versions WHERE component = $1 \
         ORDER BY number DESC LIMIT 1",
    )
    .bind(component.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    let none = || Error::NotFound(format!("no versions for component \"{component}\" found"));
    layer(row.ok_or_else(none)?)
}

/// Deletes the row of a version.
pub(super) async fn delete(
    transaction: &mut Tx,
    component: &ComponentName,
    version: &VersionName,
) -> Result<()> {
    query("DELETE FROM versions WHERE component = $1 AND name = $2")
        .bind(component.as_str())
        .bind(version.as_str())
        .execute(&mut *transaction)
        .await?;
    Ok(())
}

/// The layer that a row describes.
pub(super) fn layer((component, version, digest, created): Row) -> Result<Layer> {
    Ok(Layer {
        component: column(&component)?,
        version: column(&version)?,
        digest: column(&digest)?,
        created: timestamp(created),
    })
}
