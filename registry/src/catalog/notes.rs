//! Reads and writes notes: small records, such as the result of the registry's last gc. Each note
//! has a name.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tx::{Query, query, query_scalar};
use super::{Catalog, Result};

impl Catalog {
    /// The note `name`. `None` if there is no such note, or if the note cannot be parsed.
    pub async fn note<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let text: Option<String> = query_scalar("SELECT value FROM notes WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut self.read_tx().await?)
            .await?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Writes the note `name`, and replaces an earlier note of this name.
    pub async fn set_note(&self, name: &str, value: &impl Serialize) -> Result<()> {
        self.write_one(put(name, value)).await?;
        Ok(())
    }

    /// Deletes the note `name`. A missing note counts as success.
    pub async fn delete_note(&self, name: &str) -> Result<()> {
        self.write_one(query("DELETE FROM notes WHERE name = $1").bind(name)).await?;
        Ok(())
    }
}

impl Catalog {
    /// Writes the note `name`, unless there is such a note already. Returns the note. If several
    /// registries call this function, all get the same note.
    pub async fn claim_note<T: DeserializeOwned + Serialize>(
        &self,
        name: &str,
        value: T,
    ) -> Result<T> {
        self.change_note(name, |noted: Option<T>| noted.unwrap_or(value)).await
    }

    /// Replaces the note `name` with the result of `change`, in one transaction. Returns the new
    /// note.
    pub async fn change_note<T: DeserializeOwned + Serialize>(
        &self,
        name: &str,
        change: impl FnOnce(Option<T>) -> T,
    ) -> Result<T> {
        let mut transaction = self.begin_write().await?;
        let text: Option<String> = query_scalar("SELECT value FROM notes WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut transaction)
            .await?;
        let value = change(text.and_then(|text| serde_json::from_str(&text).ok()));
        put(name, &value).execute(&mut transaction).await?;
        transaction.commit().await?;
        Ok(value)
    }
}

/// The statement that writes the note `name`.
pub(super) fn put(name: &str, value: &impl Serialize) -> Query<()> {
    let text = serde_json::to_string(value).unwrap_or_default();
    query(
        "INSERT INTO notes (name, value) VALUES ($1, $2) \
         ON CONFLICT (name) DO UPDATE SET value = $2",
    )
    .bind(name)
    .bind(text)
}
