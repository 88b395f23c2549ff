//! Rows of blobs: live, condemned before their file goes, damaged when it was set aside.

use std::collections::BTreeSet;

use deploy_store::{BlobInfo, Digest};
use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use crate::catalog::image_layers;
use crate::catalog::references;
use crate::catalog::{Catalog, Result, nanoseconds};

/// What a blob's row says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// The blob.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Whether its file was found to be damaged and set aside.
    pub damaged: bool,
}

impl Catalog {
    /// The rows of all blobs that are not condemned.
    pub async fn blobs(&self) -> Result<Vec<BlobRow>> {
        let rows: Vec<(String, i64, String)> = sqlx::query_as(
            "SELECT digest, bytes, state FROM blobs WHERE state != 'condemned' ORDER BY digest",
        )
        .fetch_all(&self.pool)
        .await?;
        let row = |(digest, bytes, state): (String, i64, String)| {
            let bytes = u64::try_from(bytes).unwrap_or(0);
            Ok(BlobRow { digest: digest.parse()?, bytes, damaged: state == "damaged" })
        };
        rows.into_iter().map(row).collect()
    }

    /// Makes rows of blobs that have none: those of a catalogue from before there were any,
    /// and those that a crash left without a version.
    pub async fn adopt(&self, blobs: &[BlobInfo], now: Timestamp) -> Result<()> {
        let mut transaction = self.begin().await?;
        for blob in blobs {
            sqlx::query(
                "INSERT INTO blobs (digest, bytes, state, since) VALUES ($1, $2, 'live', $3) \
                 ON CONFLICT (digest) DO NOTHING",
            )
            .bind(blob.digest.to_string())
            .bind(i64::try_from(blob.bytes).unwrap_or(i64::MAX))
            .bind(nanoseconds(now))
            .execute(&mut *transaction)
            .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Condemns those of `blobs` that nothing refers to and that nobody was told of at `asked`
    /// or later, and returns them. Their files may go; [`Catalog::forget`] comes last.
    pub async fn condemn(
        &self,
        blobs: &[BlobInfo],
        asked: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<BlobInfo>> {
        let mut transaction = self.begin().await?;
        let mut needed: BTreeSet<Digest> =
            references::all(&mut transaction, self.keep_states).await?.into_keys().collect();
        needed.extend(image_layers::asked_since(&mut transaction, asked).await?);
        let unneeded: Vec<BlobInfo> =
            blobs.iter().filter(|blob| !needed.contains(&blob.digest)).cloned().collect();
        for blob in &unneeded {
            put(&mut transaction, blob.digest, blob.bytes, "condemned", now).await?;
        }
        transaction.commit().await?;
        Ok(unneeded)
    }

    /// Blobs whose removal a crash cut short.
    pub async fn condemned(&self) -> Result<Vec<Digest>> {
        let rows: Vec<String> =
            sqlx::query_scalar("SELECT digest FROM blobs WHERE state = 'condemned'")
                .fetch_all(&self.pool)
                .await?;
        rows.iter().map(|digest| Ok(digest.parse()?)).collect()
    }

    /// Deletes the rows of condemned blobs, whose files are gone, and what they were made from.
    pub async fn forget(&self, digests: impl IntoIterator<Item = Digest>) -> Result<()> {
        let mut transaction = self.begin().await?;
        for digest in digests {
            image_layers::forget(&mut transaction, digest).await?;
            sqlx::query("DELETE FROM blobs WHERE digest = $1 AND state = 'condemned'")
                .bind(digest.to_string())
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Takes note that a blob was set aside because it is damaged.
    pub async fn mark_damaged(&self, digest: Digest, bytes: u64, now: Timestamp) -> Result<()> {
        let mut transaction = self.begin().await?;
        put(&mut transaction, digest, bytes, "damaged", now).await?;
        Ok(transaction.commit().await?)
    }

    /// Takes note that a blob is there, whole.
    pub async fn mark_live(&self, digest: Digest, bytes: u64, now: Timestamp) -> Result<()> {
        let mut transaction = self.begin().await?;
        put(&mut transaction, digest, bytes, "live", now).await?;
        Ok(transaction.commit().await?)
    }
}

/// Whether there is a whole file of it, by the catalogue.
pub(super) async fn is_live(
    transaction: &mut Transaction<'_, Sqlite>,
    digest: Digest,
) -> Result<bool> {
    let state: Option<String> = sqlx::query_scalar("SELECT state FROM blobs WHERE digest = $1")
        .bind(digest.to_string())
        .fetch_optional(&mut **transaction)
        .await?;
    Ok(state.is_some_and(|state| state == "live"))
}

pub(super) async fn put(
    transaction: &mut Transaction<'_, Sqlite>,
    digest: Digest,
    bytes: u64,
    state: &str,
    now: Timestamp,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO blobs (digest, bytes, state, since) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (digest) DO UPDATE SET bytes = $2, state = $3, since = $4",
    )
    .bind(digest.to_string())
    .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
    .bind(state)
    .bind(nanoseconds(now))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
