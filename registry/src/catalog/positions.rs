//! Finds out, with one statement, whether what a registry has in memory is still valid. Other
//! registries of a shared catalogue may have changed it.

use deploy_store::ConfigurationName;

use super::tx::{query, query_as};
use super::write_tx::WriteTx;
use super::{Catalog, Result, single_statement};

/// The position of a configuration in the order of all changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The number of the last change of the configuration. `None`: there is no such configuration.
    pub revision: Option<u64>,
    /// The number of the last change of holds, of maintenance windows, or of the members of rollouts.
    pub shown: u64,
}

impl Catalog {
    /// The position of a configuration. It includes all changes that were acknowledged before this
    /// function was called. `None` if the catalogue is in a file: then this process knows all
    /// changes.
    pub async fn position(&self, name: &ConfigurationName) -> Result<Option<Position>> {
        let Some(server) = self.database.server() else { return Ok(None) };
        let position = query_as(
            "SELECT (SELECT revision FROM configurations WHERE name = $1), \
             (SELECT value FROM counters WHERE name = 'shown')",
        );
        let (revision, shown): (Option<i64>, i64) =
            single_statement::fetch_one(server, position.bind(name.as_str())).await?;
        let revision = revision.map(i64::cast_unsigned);
        Ok(Some(Position { revision, shown: shown.cast_unsigned() }))
    }

    /// The number of the last change of holds, of maintenance windows, or of the members of rollouts.
    pub async fn shown_number(&self) -> Result<u64> {
        let Some(server) = self.database.server() else { return Ok(0) };
        let number = query_as("SELECT value FROM counters WHERE name = 'shown'");
        let (number,): (i64,) = single_statement::fetch_one(server, number).await?;
        Ok(number.cast_unsigned())
    }
}

/// Raises the number of the last change of holds, of maintenance windows, or of the members of
/// rollouts. Only a shared catalogue needs the number.
pub(super) async fn raise_shown(transaction: &mut WriteTx) -> Result<()> {
    if transaction.is_shared() {
        query("UPDATE counters SET value = value + 1 WHERE name = 'shown'")
            .execute(transaction)
            .await?;
    }
    Ok(())
}
