//! Counts rows and blobs of the catalogue.

use serde::{Deserialize, Serialize};

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
    /// Components.
    pub components: u64,
    /// Versions of all components.
    pub versions: u64,
    /// Pinned versions.
    pub pins: u64,
    /// Configurations.
    pub configurations: u64,
    /// States of all configurations.
    pub states: u64,
}

impl Catalog {
    /// Counts the rows.
    pub async fn counts(&self) -> Result<RowCounts> {
        let (components, versions, pins, configurations, states): (i64, i64, i64, i64, i64) =
            sqlx::query_as(
                "SELECT (SELECT COUNT(*) FROM components), (SELECT COUNT(*) FROM versions), \
                 (SELECT COUNT(*) FROM pins), (SELECT COUNT(*) FROM configurations), \
                 (SELECT value FROM counters WHERE name = 'states')",
            )
            .fetch_one(&self.scanners)
            .await?;
        Ok(RowCounts {
            components: components.cast_unsigned(),
            versions: versions.cast_unsigned(),
            pins: pins.cast_unsigned(),
            configurations: configurations.cast_unsigned(),
            states: states.cast_unsigned(),
        })
    }

    /// Number and bytes of the live blobs, and number of damaged blobs.
    pub async fn blob_counts(&self) -> Result<(BlobCount, u64)> {
        let (live, bytes, damaged): (i64, i64, i64) = sqlx::query_as(
            "SELECT COALESCE(SUM(state = 'live'), 0), \
             COALESCE(SUM(CASE WHEN state = 'live' THEN bytes END), 0), \
             COALESCE(SUM(state = 'damaged'), 0) FROM blobs INDEXED BY blobs_counted",
        )
        .fetch_one(&self.scanners)
        .await?;
        let live = BlobCount { blobs: live.cast_unsigned(), bytes: bytes.cast_unsigned() };
        Ok((live, damaged.cast_unsigned()))
    }

    /// How many blobs and bytes there would be if each version had its own blob.
    pub async fn bound(&self) -> Result<BlobCount> {
        let (blobs, bytes): (i64, i64) = sqlx::query_as(
            "SELECT COUNT(*), COALESCE(SUM(b.bytes), 0) FROM versions v \
             LEFT JOIN blobs b INDEXED BY blobs_counted ON b.digest = v.digest",
        )
        .fetch_one(&self.scanners)
        .await?;
        Ok(BlobCount { blobs: blobs.cast_unsigned(), bytes: bytes.cast_unsigned() })
    }

    /// Whether this catalogue is new: nothing was ever added to it.
    pub async fn is_new(&self) -> Result<bool> {
        let count: i64 = sqlx::query_scalar(
            "SELECT (SELECT value FROM counters WHERE name = 'version') \
             + (SELECT COUNT(*) FROM components) + (SELECT COUNT(*) FROM configurations)",
        )
        .fetch_one(&self.writer)
        .await?;
        Ok(count == 0)
    }
}
