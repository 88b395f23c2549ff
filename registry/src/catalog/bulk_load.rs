//! Loads the data of a Go registry into a new catalogue, in one transaction.

use std::collections::BTreeSet;

use deploy_store::{ComponentName, Configuration, ConfigurationName, Layer};
use serde::Serialize;

use super::audit::Change;
use super::blob_rows::{self, BlobRow, BlobState};
use super::tx::{Tx, query};
use super::{Catalog, Result, configuration_rows, counters, nanoseconds, notes, uses};

/// The recorded author of each loaded state. The Go tool does not record who made a state.
const WHO: &str = "unknown";

/// The contents of a new catalogue.
#[derive(Debug)]
pub struct Contents<'a> {
    /// All components.
    pub components: &'a BTreeSet<ComponentName>,
    /// All versions, in the order in which they were added.
    pub versions: &'a [Layer],
    /// All blobs.
    pub blobs: Vec<BlobRow>,
    /// All configurations. Each has its states, oldest first, and the last state is current.
    pub configurations: Vec<(&'a ConfigurationName, Vec<StateToLoad<'a>>)>,
}

/// A state of a configuration.
#[derive(Debug)]
pub struct StateToLoad<'a> {
    /// The state's layers and time.
    pub state: &'a Configuration,
    /// Whether a file of the state's layers is missing. No rollback can restore such a state.
    pub lost: bool,
}

impl Catalog {
    /// Loads `contents` into a new catalogue, and saves `note` as the note with the name `name`.
    pub async fn load(
        &self,
        contents: &Contents<'_>,
        (name, note): (&str, &impl Serialize),
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        // The registry made the existing rows of blobs from the names of the files alone. Since
        // then, an interrupted import may have moved some of these files to quarantine. So the rows
        // of `contents` replace the existing rows.
        query("DELETE FROM blobs").execute(&mut transaction).await?;
        for component in contents.components {
            query("INSERT INTO components (name) VALUES ($1)")
                .bind(component.as_str())
                .execute(&mut transaction)
                .await?;
        }
        for (number, version) in (1_i64..).zip(contents.versions) {
            put_version(&mut transaction, version, number).await?;
        }
        query("UPDATE counters SET value = $1 WHERE name = 'version'")
            .bind(i64::try_from(contents.versions.len()).unwrap_or(i64::MAX))
            .execute(&mut transaction)
            .await?;
        for blob in &contents.blobs {
            let state = if blob.damaged { BlobState::Damaged } else { BlobState::Live };
            blob_rows::put(&mut transaction, blob.digest, blob.bytes, state, change.now).await?;
        }
        for (name, states) in &contents.configurations {
            let history = counters::count(&mut transaction, "history", 1).await?;
            let current = i64::try_from(states.len()).unwrap_or(i64::MAX);
            query("INSERT INTO configurations (name, current, history) VALUES ($1, $2, $3)")
                .bind(name.as_str())
                .bind(current)
                .bind(history)
                .execute(&mut transaction)
                .await?;
            for (number, StateToLoad { state, lost }) in (1..).zip(states) {
                let place = (history, number);
                put_state(&mut transaction, place, state, *lost, &change.command).await?;
            }
            counters::count(&mut transaction, "states", current).await?;
            uses::renew(&mut transaction, history, current).await?;
        }
        notes::put(name, note).execute(&mut transaction).await?;
        transaction.commit().await
    }
}

async fn put_version(transaction: &mut Tx, version: &Layer, number: i64) -> Result<()> {
    query(
        "INSERT INTO versions (component, name, digest, created, number) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(version.component.as_str())
    .bind(version.version.as_str())
    .bind(version.digest.to_string())
    .bind(nanoseconds(version.created))
    .bind(number)
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

async fn put_state(
    transaction: &mut Tx,
    (history, number): (i64, i64),
    state: &Configuration,
    lost: bool,
    command: &str,
) -> Result<()> {
    query(
        "INSERT INTO states (history, number, hash, modified, who, command, lost) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(history)
    .bind(number)
    .bind(state.id().to_string())
    .bind(nanoseconds(state.modified()))
    .bind(WHO)
    .bind(command)
    .bind(lost)
    .execute(&mut *transaction)
    .await?;
    configuration_rows::put_layers(transaction, history, number, state.layers()).await
}
