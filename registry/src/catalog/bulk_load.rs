//! Taking in what a Go registry's catalogue held, in one transaction.

use deploy_store::{Configuration, Layer};
use serde::Serialize;
use sqlx::{Sqlite, Transaction};

use crate::catalog::audit::Change;
use crate::catalog::blob_rows;
use crate::catalog::{Catalog, Result, nanoseconds};
use crate::go_import::{Files, State};

/// Who made what was imported: the Go tool does not tell.
const WHO: &str = "unknown";

impl Catalog {
    /// Whether nothing was ever added here.
    pub async fn is_new(&self) -> Result<bool> {
        let count: i64 = sqlx::query_scalar(
            "SELECT (SELECT value FROM counters WHERE name = 'version') \
             + (SELECT COUNT(*) FROM components) + (SELECT COUNT(*) FROM configurations)",
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(count == 0)
    }

    /// Takes in all of `state`, with rows of `files`, and notes `note` under `name`. States
    /// that were, and need another file, are lost. Only for a new catalogue.
    pub async fn import(
        &self,
        state: &State,
        files: &Files,
        (name, note): (&str, &impl Serialize),
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.begin_change(change).await?;
        // Rows that were made of names alone, of what an earlier try may have set aside since.
        sqlx::query("DELETE FROM blobs").execute(&mut *transaction).await?;
        for component in &state.components {
            sqlx::query("INSERT INTO components (name) VALUES ($1)")
                .bind(component.as_str())
                .execute(&mut *transaction)
                .await?;
        }
        for (number, version) in (1_i64..).zip(&state.versions) {
            put_version(&mut transaction, version, number).await?;
        }
        sqlx::query("UPDATE counters SET value = $1 WHERE name = 'version'")
            .bind(i64::try_from(state.versions.len()).unwrap_or(i64::MAX))
            .execute(&mut *transaction)
            .await?;
        for (digest, bytes) in &files.sound {
            blob_rows::put(&mut transaction, *digest, *bytes, "live", change.now).await?;
        }
        for (digest, (bytes, _)) in &files.damaged {
            blob_rows::put(&mut transaction, *digest, *bytes, "damaged", change.now).await?;
        }
        for configuration in &state.configurations {
            let current = configuration.states.len();
            sqlx::query("INSERT INTO configurations (name, current) VALUES ($1, $2)")
                .bind(configuration.name.as_str())
                .bind(i64::try_from(current).unwrap_or(i64::MAX))
                .execute(&mut *transaction)
                .await?;
            for (number, was) in (1..).zip(&configuration.states) {
                let lost = number != current && !files.have_all_of(was);
                put_state(&mut transaction, number, was, lost, &change.command).await?;
            }
        }
        let note = serde_json::to_string(note).unwrap_or_default();
        sqlx::query("INSERT INTO notes (name, value) VALUES ($1, $2)")
            .bind(name)
            .bind(note)
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }
}

async fn put_version(
    transaction: &mut Transaction<'_, Sqlite>,
    version: &Layer,
    number: i64,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO versions (component, name, digest, created, number) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(version.component.as_str())
    .bind(version.version.as_str())
    .bind(version.digest.to_string())
    .bind(nanoseconds(version.created))
    .bind(number)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

async fn put_state(
    transaction: &mut Transaction<'_, Sqlite>,
    number: usize,
    state: &Configuration,
    lost: bool,
    command: &str,
) -> Result<()> {
    let number = i64::try_from(number).unwrap_or(i64::MAX);
    sqlx::query(
        "INSERT INTO states (configuration, number, hash, modified, who, command, lost) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(state.name().as_str())
    .bind(number)
    .bind(state.id().to_string())
    .bind(nanoseconds(state.modified()))
    .bind(WHO)
    .bind(command)
    .bind(lost)
    .execute(&mut **transaction)
    .await?;
    super::configurations::put_layers(transaction, state, number).await
}
