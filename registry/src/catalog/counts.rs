//! Counts rows and blobs of the catalogue.

use serde::{Deserialize, Serialize};

use super::tx::{query_as, query_scalar};
use super::{Catalog, Result};

/// A number of blobs, and the sum of their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobCount {
    /// The number of blobs.
    #[serde(rename = "files")]
    pub blobs: u64,
    /// The sum of the blobs' bytes.
    pub bytes: u64,
}

/// How many rows the catalogue has.
#[derive(Debug, Clone, Copy)]
pub struct RowCounts {
    /// The number of components.
    pub components: u64,
    /// The number of versions of all components.
    pub versions: u64,
    /// The number of pinned versions.
    pub pins: u64,
    /// The number of configurations.
    pub configurations: u64,
    /// The number of states of all configurations.
    pub states: u64,
}

impl Catalog {
    /// Counts the rows.
    pub async fn counts(&self) -> Result<RowCounts> {
        let (components, versions, pins, configurations, states): (i64, i64, i64, i64, i64) =
            query_as(
                "SELECT (SELECT COUNT(*) FROM components), (SELECT COUNT(*) FROM versions), \
                 (SELECT COUNT(*) FROM pins), (SELECT COUNT(*) FROM configurations), \
                 (SELECT value FROM counters WHERE name = 'states')",
            )
            .fetch_one(&mut self.scan_tx().await?)
            .await?;
        Ok(RowCounts {
            components: components.cast_unsigned(),
            versions: versions.cast_unsigned(),
            pins: pins.cast_unsigned(),
            configurations: configurations.cast_unsigned(),
            states: states.cast_unsigned(),
        })
    }

    /// The number and the bytes of the live blobs, and the number of damaged blobs.
    pub async fn blob_counts(&self) -> Result<(BlobCount, u64)> {
        let (live, bytes, damaged): (i64, i64, i64) = query_as(
            "SELECT COUNT(CASE WHEN state = 'live' THEN 1 END), \
             CAST(COALESCE(SUM(CASE WHEN state = 'live' THEN bytes END), 0) AS BIGINT), \
             COUNT(CASE WHEN state = 'damaged' THEN 1 END) FROM blobs INDEXED BY blobs_counted",
        )
        .fetch_one(&mut self.scan_tx().await?)
        .await?;
        let live = BlobCount { blobs: live.cast_unsigned(), bytes: bytes.cast_unsigned() };
        Ok((live, damaged.cast_unsigned()))
    }

    /// How many blobs and bytes there would be if each version had its own blob.
    pub async fn bound(&self) -> Result<BlobCount> {
        let (blobs, bytes): (i64, i64) = query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(b.bytes), 0) AS BIGINT) FROM versions v \
             LEFT JOIN blobs b INDEXED BY blobs_counted ON b.digest = v.digest",
        )
        .fetch_one(&mut self.scan_tx().await?)
        .await?;
        Ok(BlobCount { blobs: blobs.cast_unsigned(), bytes: bytes.cast_unsigned() })
    }

    /// Whether this catalogue is new: it has no components and no configurations, and no version
    /// was ever added.
    pub async fn is_new(&self) -> Result<bool> {
        let count: i64 = query_scalar(
            "SELECT (SELECT value FROM counters WHERE name = 'version') \
             + (SELECT COUNT(*) FROM components) + (SELECT COUNT(*) FROM configurations)",
        )
        .fetch_one(&mut self.read_tx().await?)
        .await?;
        Ok(count == 0)
    }
}
