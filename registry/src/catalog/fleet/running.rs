//! Records the states that hosts run, and the states that the registry offers to held hosts. The
//! registry keeps the layers of these states, because an agent may need them to repair its root.

use deploy_store::{ConfigurationName, Digest};

use crate::catalog::tx::{Tx, query, query_as, query_scalar};
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Result, uses};

/// The history and the current state of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The number of the configuration's history.
    pub history: i64,
    /// The number of the current state.
    pub number: i64,
    /// The number of the change that made the state current.
    pub revision: u64,
    /// The id of the current state.
    pub hash: String,
}

/// The history and the current state of a configuration, if there is such a configuration.
pub async fn current(transaction: &mut Tx, name: &ConfigurationName) -> Result<Option<Current>> {
    let row: Option<(i64, i64, i64, String)> = query_as(
        "SELECT c.history, c.current, c.revision, s.hash FROM configurations c \
         JOIN states s ON s.history = c.history AND s.number = c.current WHERE c.name = $1",
    )
    .bind(name.as_str())
    .fetch_optional(&mut *transaction)
    .await?;
    Ok(row.map(|(history, number, revision, hash)| Current {
        history,
        number,
        revision: revision.cast_unsigned(),
        hash,
    }))
}

/// The number of the current state, if it has the id `id`. Otherwise, the number of the newest kept
/// state with this id; `None` if there is no such state.
pub async fn find(transaction: &mut Tx, current: &Current, id: Digest) -> Result<Option<i64>> {
    let id = id.to_string();
    if current.hash == id {
        return Ok(Some(current.number));
    }
    Ok(query_scalar(
        "SELECT MAX(n.number) FROM (SELECT DISTINCT number FROM uses WHERE history = $1) n \
         JOIN states s ON s.history = $1 AND s.number = n.number WHERE s.hash = $2",
    )
    .bind(current.history)
    .bind(id)
    .fetch_one(&mut *transaction)
    .await?)
}

/// Subtracts one host from the count of the state `old`, and adds one host to the count of the
/// state `new`. `None` stands for no state. While the count of a state is above zero, the registry
/// keeps the layers of the state.
pub async fn change(
    transaction: &mut WriteTx,
    current: &Current,
    old: Option<i64>,
    new: Option<i64>,
) -> Result<()> {
    if old == new {
        return Ok(());
    }
    if let Some(number) = new {
        let hosts: i64 = query_scalar(
            "INSERT INTO running (history, number, hosts) VALUES ($1, $2, 1) \
             ON CONFLICT (history, number) DO UPDATE SET hosts = running.hosts + 1 RETURNING hosts",
        )
        .bind(current.history)
        .bind(number)
        .fetch_one(&mut *transaction)
        .await?;
        if hosts == 1 {
            uses::protect(transaction, current.history, number).await?;
        }
    }
    let Some(number) = old else { return Ok(()) };
    let hosts: Option<i64> = query_scalar(
        "UPDATE running SET hosts = hosts - 1 WHERE history = $1 AND number = $2 RETURNING hosts",
    )
    .bind(current.history)
    .bind(number)
    .fetch_optional(&mut *transaction)
    .await?;
    if hosts.is_some_and(|hosts| hosts <= 0) {
        query("DELETE FROM running WHERE history = $1 AND number = $2")
            .bind(current.history)
            .bind(number)
            .execute(&mut *transaction)
            .await?;
        uses::renew(transaction, current.history, current.number).await?;
    }
    Ok(())
}

/// Deletes the records of the states that a configuration's agents run, and of the states that the
/// registry offers to held hosts. The caller then deletes the configuration.
pub async fn forget(
    transaction: &mut WriteTx,
    name: &ConfigurationName,
    history: i64,
) -> Result<()> {
    query(
        "UPDATE agents SET state = NULL, held_state = NULL, revision = 0 WHERE configuration = $1",
    )
    .bind(name.as_str())
    .execute(&mut *transaction)
    .await?;
    query("DELETE FROM running WHERE history = $1")
        .bind(history)
        .execute(&mut *transaction)
        .await?;
    Ok(())
}
