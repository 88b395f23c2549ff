//! Finds the components and the versions that take the most space.

use super::tx::{Tx, query_as};
use super::{BlobCount, Catalog, Result};

/// The space that the stored blobs take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Space {
    /// The number and the bytes of all stored blobs.
    pub all: BlobCount,
    /// The components that take the most space, largest first.
    pub components: Vec<ComponentSpace>,
    /// The largest versions of all components, largest first.
    pub versions: Vec<VersionSpace>,
}

/// The space that the blobs of one component take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentSpace {
    /// The component.
    pub component: String,
    /// The number and the bytes of the component's blobs. If several versions have the same blob,
    /// the blob counts only for the newest of these versions.
    pub blobs: BlobCount,
}

/// A version and the space that its blob takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionSpace {
    /// The component.
    pub component: String,
    /// The version.
    pub version: String,
    /// The length of the version's blob, in bytes.
    pub bytes: u64,
    /// Whether a kept state or a pinned version needs the blob.
    pub needed: bool,
}

/// The part of a query that joins each version with its stored blob. If several versions have the
/// same blob, only the newest of these versions is in the result.
const OWNERS: &str = "FROM versions v JOIN blobs b ON b.digest = v.digest AND b.state = 'live' \
     WHERE NOT EXISTS (SELECT 1 FROM versions n WHERE n.digest = v.digest AND n.number > v.number)";

impl Catalog {
    /// The space that the stored blobs take. The result has at most `components` components and
    /// `versions` versions. The function reads the rows of all versions.
    pub async fn space(&self, components: u32, versions: u32) -> Result<Space> {
        let mut transaction = self.scan_tx().await?;
        let (blobs, bytes): (i64, i64) = query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM blobs INDEXED BY blobs_counted \
             WHERE state = 'live'",
        )
        .fetch_one(&mut transaction)
        .await?;
        Ok(Space {
            all: count(blobs, bytes),
            components: largest_components(&mut transaction, components).await?,
            versions: largest_versions(&mut transaction, versions).await?,
        })
    }
}

fn count(blobs: i64, bytes: i64) -> BlobCount {
    BlobCount { blobs: blobs.cast_unsigned(), bytes: bytes.cast_unsigned() }
}

async fn largest_components(transaction: &mut Tx, limit: u32) -> Result<Vec<ComponentSpace>> {
    let query = format!(
        "SELECT v.component, COUNT(*), CAST(SUM(b.bytes) AS BIGINT) AS bytes {OWNERS} \
         GROUP BY v.component ORDER BY bytes DESC, v.component LIMIT $1"
    );
    let rows: Vec<(String, i64, i64)> =
        query_as(sqlx::AssertSqlSafe(query)).bind(limit).fetch_all(&mut *transaction).await?;
    let space =
        |(component, blobs, bytes)| ComponentSpace { component, blobs: count(blobs, bytes) };
    Ok(rows.into_iter().map(space).collect())
}

async fn largest_versions(transaction: &mut Tx, limit: u32) -> Result<Vec<VersionSpace>> {
    let query = format!(
        "SELECT component, name, bytes, \
         EXISTS (SELECT 1 FROM uses u WHERE u.digest = largest.digest) \
         OR EXISTS (SELECT 1 FROM versions v JOIN pins p \
         ON p.component = v.component AND p.version = v.name WHERE v.digest = largest.digest) \
         FROM (SELECT v.component, v.name, v.digest, v.number, b.bytes {OWNERS} \
         ORDER BY b.bytes DESC, v.number DESC LIMIT $1) AS largest \
         ORDER BY bytes DESC, number DESC"
    );
    let rows: Vec<(String, String, i64, bool)> =
        query_as(sqlx::AssertSqlSafe(query)).bind(limit).fetch_all(&mut *transaction).await?;
    let space = |(component, version, bytes, needed): (String, String, i64, bool)| VersionSpace {
        component,
        version,
        bytes: bytes.cast_unsigned(),
        needed,
    };
    Ok(rows.into_iter().map(space).collect())
}
