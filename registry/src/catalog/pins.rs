//! Pins: versions that are kept until somebody says otherwise.

use deploy_store::{ComponentName, VersionName};
use deploy_wire::exit;
use sqlx::{Sqlite, Transaction};

use crate::catalog::audit::Change;
use crate::catalog::versions::find_version;
use crate::catalog::{Catalog, Result, nanoseconds, refuse};

impl Catalog {
    /// Pins a version, or gives its pin another message.
    pub async fn pin(
        &self,
        component: &ComponentName,
        version: &VersionName,
        message: &str,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.begin_change(change).await?;
        find_version(&mut transaction, component, version).await?;
        sqlx::query(
            "INSERT INTO pins (component, version, message, who, since) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (component, version) DO UPDATE SET message = $3, who = $4, since = $5",
        )
        .bind(component.as_str())
        .bind(version.as_str())
        .bind(message)
        .bind(&change.who)
        .bind(nanoseconds(change.now))
        .execute(&mut *transaction)
        .await?;
        Ok(transaction.commit().await?)
    }

    /// Takes the pin of a version away.
    pub async fn unpin(
        &self,
        component: &ComponentName,
        version: &VersionName,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.begin_change(change).await?;
        find_version(&mut transaction, component, version).await?;
        let gone = sqlx::query("DELETE FROM pins WHERE component = $1 AND version = $2")
            .bind(component.as_str())
            .bind(version.as_str())
            .execute(&mut *transaction)
            .await?;
        if gone.rows_affected() == 0 {
            let text = format!("version \"{version}\" of component \"{component}\" is not pinned");
            return refuse(exit::NOT_FOUND, text);
        }
        Ok(transaction.commit().await?)
    }
}

/// Refuses to delete a version of `component` that is pinned: `version`, or any.
pub(super) async fn check_unpinned(
    transaction: &mut Transaction<'_, Sqlite>,
    component: &ComponentName,
    version: Option<&VersionName>,
) -> Result<()> {
    let pinned: Vec<(String, String)> =
        sqlx::query_as("SELECT version, message FROM pins WHERE component = $1 ORDER BY version")
            .bind(component.as_str())
            .fetch_all(&mut **transaction)
            .await?;
    let hit = |name: &str| version.is_none_or(|version| version.as_str() == name);
    let Some((name, message)) = pinned.into_iter().find(|(name, _)| hit(name)) else {
        return Ok(());
    };
    let message = if message.is_empty() { message } else { format!(" ({message})") };
    refuse(exit::CONFLICT, format!("version \"{name}\" is pinned{message}; unpin it first"))
}
