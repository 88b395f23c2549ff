//! Pins and unpins versions. The registry keeps a pinned version until an operator unpins this
//! version.

use deploy_store::{ComponentName, VersionName};

use super::audit::Change;
use super::tx::{Tx, query, query_as};
use super::versions::require_version;
use super::{Catalog, Error, Result, nanoseconds};

impl Catalog {
    /// Pins a version. If the version is pinned already, the new pin replaces the old pin.
    pub async fn pin(
        &self,
        component: &ComponentName,
        version: &VersionName,
        message: &str,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        require_version(&mut transaction, component, version).await?;
        query(
            "INSERT INTO pins (component, version, message, who, since) \
             VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (component, version) DO UPDATE SET message = $3, who = $4, since = $5",
        )
        .bind(component.as_str())
        .bind(version.as_str())
        .bind(message)
        .bind(&change.key)
        .bind(nanoseconds(change.now))
        .execute(&mut transaction)
        .await?;
        transaction.commit().await
    }

    /// Unpins a version.
    pub async fn unpin(
        &self,
        component: &ComponentName,
        version: &VersionName,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        require_version(&mut transaction, component, version).await?;
        let deleted = query("DELETE FROM pins WHERE component = $1 AND version = $2")
            .bind(component.as_str())
            .bind(version.as_str())
            .execute(&mut transaction)
            .await?;
        if deleted == 0 {
            let text = format!("version \"{version}\" of component \"{component}\" is not pinned");
            return Err(Error::NotFound(text));
        }
        transaction.commit().await
    }
}

/// Fails if `version` of `component` is pinned. Without `version`, fails if any version of
/// `component` is pinned.
pub(super) async fn check_unpinned(
    transaction: &mut Tx,
    component: &ComponentName,
    version: Option<&VersionName>,
) -> Result<()> {
    let pinned: Vec<(String, String)> =
        query_as("SELECT version, message FROM pins WHERE component = $1 ORDER BY version")
            .bind(component.as_str())
            .fetch_all(&mut *transaction)
            .await?;
    let hit = |name: &str| version.is_none_or(|version| version.as_str() == name);
    let Some((name, message)) = pinned.into_iter().find(|(name, _)| hit(name)) else {
        return Ok(());
    };
    let message = if message.is_empty() { message } else { format!(" ({message})") };
    let text = format!("version \"{name}\" is pinned{message}; unpin it first");
    Err(Error::Conflict(text))
}
