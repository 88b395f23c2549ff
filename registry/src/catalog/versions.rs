//! Components and their versions.

use deploy_store::{ComponentName, Digest, Layer, VersionName};
use deploy_wire::exit;
use sqlx::{Sqlite, Transaction};

use crate::catalog::audit::Change;
use crate::catalog::blob_rows;
use crate::catalog::pins::check_unpinned;
use crate::catalog::references::uses;
use crate::catalog::{Catalog, Error, Result, nanoseconds, refuse, timestamp};

/// A version's row: component, name, digest, time.
pub(super) type Row = (String, String, String, i64);

impl Catalog {
    /// Fails as [`Catalog::add_version`] would, as far as that can be told before.
    pub async fn check_new_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
    ) -> Result<()> {
        let mut transaction = self.look().await?;
        check_new(&mut transaction, component, version).await
    }

    /// Binds a blob of `bytes` bytes to a new version, making the component if it is new.
    pub async fn add_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
        digest: Digest,
        bytes: u64,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.begin_change(change).await?;
        insert_version(&mut transaction, component, version, digest, change).await?;
        blob_rows::put(&mut transaction, digest, bytes, "live", change.now).await?;
        Ok(transaction.commit().await?)
    }

    /// Whether any version is bound to the blob.
    pub async fn is_bound(&self, digest: Digest) -> Result<bool> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM versions WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_one(&self.pool)
            .await?;
        Ok(count > 0)
    }

    /// Whether any version, or any state of a configuration, needs the blob.
    pub async fn is_needed(&self, digest: Digest) -> Result<bool> {
        let count: i64 = sqlx::query_scalar(
            "SELECT (SELECT COUNT(*) FROM versions WHERE digest = $1) \
             + (SELECT COUNT(*) FROM state_layers WHERE digest = $1)",
        )
        .bind(digest.to_string())
        .fetch_one(&self.pool)
        .await?;
        Ok(count > 0)
    }

    /// Names of all components, in byte order.
    pub async fn components(&self) -> Result<Vec<ComponentName>> {
        let names: Vec<String> = sqlx::query_scalar("SELECT name FROM components ORDER BY name")
            .fetch_all(&self.pool)
            .await?;
        names.iter().map(|name| Ok(name.parse()?)).collect()
    }

    /// The versions of a component, oldest first.
    pub async fn versions(&self, component: &ComponentName) -> Result<Vec<Layer>> {
        let mut transaction = self.look().await?;
        if !has_component(&mut transaction, component).await? {
            return refuse(exit::NOT_FOUND, format!("no component \"{component}\" found"));
        }
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT component, name, digest, created FROM versions WHERE component = $1 \
             ORDER BY number",
        )
        .bind(component.as_str())
        .fetch_all(&mut *transaction)
        .await?;
        rows.into_iter().map(layer).collect()
    }

    /// One version of a component.
    pub async fn version(&self, component: &ComponentName, version: &VersionName) -> Result<Layer> {
        let mut transaction = self.look().await?;
        find_version(&mut transaction, component, version).await
    }

    /// Deletes a version that no configuration uses; with `force` also one that an
    /// earlier state would need.
    pub async fn delete_version(
        &self,
        component: &ComponentName,
        version: &VersionName,
        force: bool,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.begin_change(change).await?;
        find_version(&mut transaction, component, version).await?;
        check_unpinned(&mut transaction, component, Some(version)).await?;
        for used in uses(&mut transaction, self.keep_states).await? {
            if used.component != *component || used.version != *version {
                continue;
            }
            if used.current {
                let name = used.configuration;
                let text = format!("version is used by configuration \"{name}\"");
                return refuse(exit::CONFLICT, text);
            }
            if !force {
                return refuse(exit::CONFLICT, format!("version is {}", used.needed()));
            }
        }
        delete(&mut transaction, component, version).await?;
        Ok(transaction.commit().await?)
    }

    /// Deletes a component with all its versions; the rest as for a version.
    pub async fn delete_component(
        &self,
        component: &ComponentName,
        force: bool,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.begin_change(change).await?;
        if !has_component(&mut transaction, component).await? {
            return refuse(exit::NOT_FOUND, format!("\"{component}\" component not found"));
        }
        check_unpinned(&mut transaction, component, None).await?;
        let mut uses = uses(&mut transaction, self.keep_states).await?;
        uses.retain(|used| used.component == *component);
        if let Some(used) = uses.iter().find(|used| used.current) {
            let name = &used.configuration;
            let text = format!("component is used by configuration \"{name}\"");
            return refuse(exit::CONFLICT, text);
        }
        if let Some(used) = uses.first().filter(|_| !force) {
            return refuse(exit::CONFLICT, format!("component is {}", used.needed()));
        }
        for statement in
            ["DELETE FROM versions WHERE component = $1", "DELETE FROM components WHERE name = $1"]
        {
            sqlx::query(statement).bind(component.as_str()).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}

async fn check_new(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
    version: &VersionName,
) -> Result<()> {
    let refused = |err: deploy_store::Error| Error::Refused(err.into());
    version.check_new().map_err(refused)?;
    if !has_component(transaction, component).await? {
        component.check_new().map_err(refused)?;
    }
    match find_version(transaction, component, version).await {
        Ok(_) => refuse(exit::CONFLICT, format!("version \"{version}\" already exists")),
        Err(Error::Refused(_)) => Ok(()),
        Err(err) => Err(err),
    }
}

/// The new version of that name, and its component if that is new.
pub(super) async fn insert_version(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
    version: &VersionName,
    digest: Digest,
    change: &Change,
) -> Result<Layer> {
    check_new(transaction, component, version).await?;
    sqlx::query("INSERT INTO components (name) VALUES ($1) ON CONFLICT (name) DO NOTHING")
        .bind(component.as_str())
        .execute(&mut **transaction)
        .await?;
    let number: i64 = sqlx::query_scalar(
        "UPDATE counters SET value = value + 1 WHERE name = 'version' RETURNING value",
    )
    .fetch_one(&mut **transaction)
    .await?;
    sqlx::query(
        "INSERT INTO versions (component, name, digest, created, number) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(component.as_str())
    .bind(version.as_str())
    .bind(digest.to_string())
    .bind(nanoseconds(change.now))
    .bind(number)
    .execute(&mut **transaction)
    .await?;
    let (component, version) = (component.clone(), version.clone());
    Ok(Layer { component, version, digest, created: change.now })
}

async fn has_component(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
) -> Result<bool> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM components WHERE name = $1")
        .bind(component.as_str())
        .fetch_one(&mut **transaction)
        .await?;
    Ok(count > 0)
}

/// The version, or a refusal in the words of the Go tool.
pub(super) async fn find_version(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
    version: &VersionName,
) -> Result<Layer> {
    let row: Option<Row> = sqlx::query_as(
        "SELECT component, name, digest, created FROM versions \
         WHERE component = $1 AND name = $2",
    )
    .bind(component.as_str())
    .bind(version.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    match row {
        Some(row) => layer(row),
        None => {
            let text = format!("no version \"{version}\" for component \"{component}\" found");
            refuse(exit::NOT_FOUND, text)
        }
    }
}

/// The version that was added last.
pub(super) async fn latest_version(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
) -> Result<Layer> {
    if !has_component(transaction, component).await? {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM components")
            .fetch_one(&mut **transaction)
            .await?;
        let text = match count {
            0 => "no components found".to_owned(),
            _ => format!("no component \"{component}\" found"),
        };
        return refuse(exit::NOT_FOUND, text);
    }
    let row: Option<Row> = sqlx::query_as(
        "SELECT component, name, digest, created FROM versions WHERE component = $1 \
         ORDER BY number DESC LIMIT 1",
    )
    .bind(component.as_str())
    .fetch_optional(&mut **transaction)
    .await?;
    match row {
        Some(row) => layer(row),
        None => {
            let text = format!("no versions for component \"{component}\" found");
            refuse(exit::NOT_FOUND, text)
        }
    }
}

pub(super) async fn delete(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
    version: &VersionName,
) -> Result<()> {
    sqlx::query("DELETE FROM versions WHERE component = $1 AND name = $2")
        .bind(component.as_str())
        .bind(version.as_str())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

pub(super) fn layer((component, version, digest, created): Row) -> Result<Layer> {
    Ok(Layer {
        component: component.parse()?,
        version: version.parse()?,
        digest: digest.parse()?,
        created: timestamp(created),
    })
}
