//! Freezes and unfreezes configurations. A frozen configuration changes only with `-override`,
//! until the freeze ends.

use deploy_store::{ConfigurationName, escape};
use jiff::Timestamp;

use super::running;
use crate::catalog::audit::Change;
use crate::catalog::tx::{Tx, query, query_as};
use crate::catalog::{Catalog, Error, Result, nanoseconds, timestamp};

/// The freeze of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// Why the configuration is frozen.
    pub message: String,
    /// The fingerprint and the comment of the key that froze the configuration.
    pub who: String,
    /// When the freeze began.
    pub since: Timestamp,
    /// When the freeze ends.
    pub until: Timestamp,
}

type Row = (String, String, i64, i64);

impl Catalog {
    /// Freezes a configuration until `until`. If the configuration is frozen already, the new
    /// freeze replaces the old freeze.
    pub async fn freeze(
        &self,
        name: &ConfigurationName,
        message: &str,
        until: Timestamp,
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        if running::current(&mut transaction, name).await?.is_none() {
            return Err(Error::NotFound(format!("configuration \"{name}\" not found")));
        }
        query(
            "INSERT INTO freezes (configuration, message, who, since, until) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (configuration) \
             DO UPDATE SET message = $2, who = $3, since = $4, until = $5",
        )
        .bind(name.as_str())
        .bind(message)
        .bind(&change.key)
        .bind(nanoseconds(change.now))
        .bind(nanoseconds(until))
        .execute(&mut transaction)
        .await?;
        transaction.commit().await
    }

    /// Ends the freeze of a configuration.
    pub async fn unfreeze(&self, name: &ConfigurationName, change: &Change) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        if find(&mut transaction, name, change.now).await?.is_none() {
            return Err(Error::NotFound(format!("configuration \"{name}\" is not frozen")));
        }
        query("DELETE FROM freezes WHERE configuration = $1")
            .bind(name.as_str())
            .execute(&mut transaction)
            .await?;
        transaction.commit().await
    }

    /// The freeze of a configuration; `None` if the configuration is not frozen at `now`.
    pub async fn frozen(&self, name: &ConfigurationName, now: Timestamp) -> Result<Option<Freeze>> {
        let mut transaction = self.read_tx().await?;
        find(&mut transaction, name, now).await
    }
}

/// The freeze of a configuration; `None` if the configuration is not frozen at `now`.
async fn find(
    transaction: &mut Tx,
    name: &ConfigurationName,
    now: Timestamp,
) -> Result<Option<Freeze>> {
    let row: Option<Row> = query_as(
        "SELECT message, who, since, until FROM freezes WHERE configuration = $1 AND until > $2",
    )
    .bind(name.as_str())
    .bind(nanoseconds(now))
    .fetch_optional(&mut *transaction)
    .await?;
    Ok(row.map(|(message, who, since, until)| Freeze {
        message,
        who,
        since: timestamp(since),
        until: timestamp(until),
    }))
}

/// Fails if the configuration is frozen at `now`.
pub async fn check(transaction: &mut Tx, name: &ConfigurationName, now: Timestamp) -> Result<()> {
    let Some(Freeze { message, who, until, .. }) = find(transaction, name, now).await? else {
        return Ok(());
    };
    let (message, who) = (escape(&message), escape(&who));
    let text = format!(
        "configuration \"{name}\" is frozen until {until:.0} by {who}: {message}; to change it \
         anyway, use -override, or end the freeze with freeze -off"
    );
    Err(Error::Conflict(text))
}
