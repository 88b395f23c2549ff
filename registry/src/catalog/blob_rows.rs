//! Reads and writes the rows of blobs. A row says whether the blob is live, condemned (gc may
//! remove the blob's file at any time) or damaged (the blob's file is in quarantine).

use std::collections::BTreeSet;

use deploy_store::{BlobInfo, Digest};
use jiff::Timestamp;

use super::tx::{Tx, query, query_as, query_scalar};
use super::{Catalog, Result, column, nanoseconds};

/// The row of a blob that is not condemned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRow {
    /// The digest of the blob.
    pub digest: Digest,
    /// The length of the blob, in bytes.
    pub bytes: u64,
    /// Whether the blob's file was damaged and moved to quarantine.
    pub damaged: bool,
}

/// What a row says about the file of its blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlobState {
    /// The file exists and is complete.
    Live,
    /// The garbage collection (gc) may remove the file at any time.
    Condemned,
    /// The file was damaged and is in quarantine.
    Damaged,
}

impl BlobState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Condemned => "condemned",
            Self::Damaged => "damaged",
        }
    }
}

impl Catalog {
    /// The component and the name of each version whose blob is damaged; at most `limit` versions.
    pub async fn damaged_versions(&self, limit: u64) -> Result<Vec<(String, String)>> {
        Ok(query_as(
            "SELECT v.component, v.name FROM blobs b JOIN versions v ON v.digest = b.digest \
             WHERE b.state = 'damaged' ORDER BY v.component, v.name LIMIT $1",
        )
        .bind(limit.cast_signed())
        .fetch_all(&mut self.scan_tx().await?)
        .await?)
    }

    /// The rows of all blobs that are not condemned.
    pub async fn blobs(&self) -> Result<Vec<BlobRow>> {
        let rows: Vec<(String, i64, String)> = query_as(
            "SELECT digest, bytes, state FROM blobs WHERE state != 'condemned' ORDER BY digest",
        )
        .fetch_all(&mut self.scan_tx().await?)
        .await?;
        let row = |(digest, bytes, state): (String, i64, String)| {
            let bytes = u64::try_from(bytes).unwrap_or(0);
            let damaged = state == BlobState::Damaged.as_str();
            Ok(BlobRow { digest: column(&digest)?, bytes, damaged })
        };
        rows.into_iter().map(row).collect()
    }

    /// The row of a blob, if the blob has a row and is not condemned.
    pub async fn blob(&self, digest: Digest) -> Result<Option<BlobRow>> {
        let row: Option<(i64, String)> =
            query_as("SELECT bytes, state FROM blobs WHERE digest = $1 AND state != 'condemned'")
                .bind(digest.to_string())
                .fetch_optional(&mut self.read_tx().await?)
                .await?;
        Ok(row.map(|(bytes, state)| {
            let bytes = u64::try_from(bytes).unwrap_or(0);
            BlobRow { digest, bytes, damaged: state == BlobState::Damaged.as_str() }
        }))
    }

    /// At most `limit` damaged blobs, which are in quarantine.
    pub async fn damaged_blobs(&self, limit: u32) -> Result<Vec<Digest>> {
        let rows: Vec<String> = query_scalar(
            "SELECT digest FROM blobs INDEXED BY blobs_counted WHERE state = 'damaged' LIMIT $1",
        )
        .bind(limit)
        .fetch_all(&mut self.scan_tx().await?)
        .await?;
        rows.iter().map(|digest| column(digest)).collect()
    }

    /// Adds a row for each blob in `blobs` that has no row. A catalogue of an older format has no
    /// rows of blobs. After a crash, a single row may be missing. If the row of a blob in `blobs`
    /// says that the blob is damaged, the function makes the blob live: an upload has replaced the
    /// damaged file, but a crash prevented the update of the row.
    pub async fn register_existing(&self, blobs: &[BlobInfo], now: Timestamp) -> Result<()> {
        let known: Vec<String> = query_scalar("SELECT digest FROM blobs WHERE state != 'damaged'")
            .fetch_all(&mut self.scan_tx().await?)
            .await?;
        let known: BTreeSet<Digest> =
            known.iter().map(|digest| column(digest)).collect::<Result<_>>()?;
        let mut transaction = self.write_tx().await?;
        for blob in blobs.iter().filter(|blob| !known.contains(&blob.digest)) {
            query(
                "INSERT INTO blobs (digest, bytes, state, since) VALUES ($1, $2, 'live', $3) \
                 ON CONFLICT (digest) DO UPDATE SET bytes = excluded.bytes, state = 'live', \
                 since = excluded.since WHERE blobs.state = 'damaged'",
            )
            .bind(blob.digest.to_string())
            .bind(i64::try_from(blob.bytes).unwrap_or(i64::MAX))
            .bind(nanoseconds(now))
            .execute(&mut transaction)
            .await?;
        }
        transaction.commit().await
    }

    /// The condemned blobs. If a crash has interrupted gc, their files may still exist.
    pub async fn condemned(&self) -> Result<Vec<Digest>> {
        let rows: Vec<String> = query_scalar("SELECT digest FROM blobs WHERE state = 'condemned'")
            .fetch_all(&mut self.read_tx().await?)
            .await?;
        rows.iter().map(|digest| column(digest)).collect()
    }

    /// Records that a damaged blob is in quarantine.
    pub async fn mark_damaged(&self, digest: Digest, bytes: u64, now: Timestamp) -> Result<()> {
        self.mark(digest, bytes, BlobState::Damaged, now).await
    }

    /// Records that a blob exists and is complete.
    pub async fn mark_live(&self, digest: Digest, bytes: u64, now: Timestamp) -> Result<()> {
        self.mark(digest, bytes, BlobState::Live, now).await
    }

    async fn mark(
        &self,
        digest: Digest,
        bytes: u64,
        state: BlobState,
        now: Timestamp,
    ) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        put(&mut transaction, digest, bytes, state, now).await?;
        transaction.commit().await
    }
}

/// Whether the blob's row says that the file exists and is complete.
pub(super) async fn is_live(transaction: &mut Tx, digest: Digest) -> Result<bool> {
    let state: Option<String> = query_scalar("SELECT state FROM blobs WHERE digest = $1")
        .bind(digest.to_string())
        .fetch_optional(&mut *transaction)
        .await?;
    Ok(state.is_some_and(|state| state == BlobState::Live.as_str()))
}

/// Adds the row of a blob, or replaces the existing row.
pub(super) async fn put(
    transaction: &mut Tx,
    digest: Digest,
    bytes: u64,
    state: BlobState,
    now: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO blobs (digest, bytes, state, since) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (digest) DO UPDATE SET bytes = $2, state = $3, since = $4",
    )
    .bind(digest.to_string())
    .bind(i64::try_from(bytes).unwrap_or(i64::MAX))
    .bind(state.as_str())
    .bind(nanoseconds(now))
    .execute(&mut *transaction)
    .await?;
    Ok(())
}
