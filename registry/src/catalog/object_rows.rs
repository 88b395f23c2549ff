//! Reads the rows of the objects in a bucket. The table has rows only if the blobs are in a bucket.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use deploy_store::{BlobInfo, Digest, Swept};
use jiff::Timestamp;

use super::database_error::bad_row;
use super::object_state::ObjectState;
use super::tx::{Tx, from_row, query_as, query_scalar};
use super::write_tx::WriteTx;
use super::{BlobCount, Catalog, Error, Result, column, timestamp};

/// The row of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectRow {
    /// The key in the bucket after the prefix.
    pub place: String,
    /// The digest of the blob.
    pub digest: Digest,
    /// The length in bytes.
    pub bytes: u64,
    /// The state.
    pub state: ObjectState,
    /// When the object got this state, or was last uploaded or bound, by the clock of the database.
    pub since: Timestamp,
    /// The id of the registry that writes the object.
    pub registry: String,
    /// The id of an unfinished upload in parts.
    pub upload_id: Option<String>,
    /// Whether the archive was checked.
    pub checked: bool,
}

/// The columns of a row, in the order of [`columns`].
pub(super) struct Columns {
    place: String,
    digest: String,
    bytes: i64,
    state: String,
    since: i64,
    registry: String,
    upload_id: Option<String>,
    checked: bool,
}

from_row!(Columns, |row| {
    use sqlx::Row as _;
    Ok(Self {
        place: row.try_get(0)?,
        digest: row.try_get(1)?,
        bytes: row.try_get(2)?,
        state: row.try_get(3)?,
        since: row.try_get(4)?,
        registry: row.try_get(5)?,
        upload_id: row.try_get(6)?,
        checked: row.try_get(7)?,
    })
});

/// A query for whole rows, followed by `$rest`.
macro_rules! columns {
    ($rest:literal) => {
        concat!(
            "SELECT place, digest, bytes, state, since, registry, upload_id, checked \
             FROM objects ",
            $rest
        )
    };
}
pub(super) use columns;

pub(super) fn object(row: Columns) -> Result<ObjectRow> {
    let corrupt = || {
        let reason = format!("an object has the state {:?}", row.state);
        bad_row(&deploy_store::Error::Corrupt { path: "catalogue.db".into(), reason })
    };
    Ok(ObjectRow {
        state: ObjectState::parse(&row.state).ok_or_else(corrupt)?,
        digest: column(&row.digest)?,
        place: row.place,
        bytes: u64::try_from(row.bytes).unwrap_or(0),
        since: timestamp(row.since),
        registry: row.registry,
        upload_id: row.upload_id,
        checked: row.checked,
    })
}

impl Catalog {
    /// The present time by the clock of the database.
    pub async fn now(&self) -> Result<Timestamp> {
        Ok(timestamp(self.read_tx().await?.now().await?))
    }

    /// The best object with the bytes of `digest`: a live one if there is one, or else a staged
    /// one. `None` if no object is live or staged.
    pub async fn object(&self, digest: Digest) -> Result<Option<ObjectRow>> {
        let row: Option<Columns> = query_as(columns!(
            "WHERE digest = $1 AND state IN ('live', 'staged') ORDER BY state, since DESC LIMIT 1"
        ))
        .bind(digest.to_string())
        .fetch_optional(&mut self.read_tx().await?)
        .await?;
        row.map(object).transpose()
    }

    /// The object at `place`.
    pub async fn object_at(&self, place: &str) -> Result<Option<ObjectRow>> {
        let row: Option<Columns> = query_as(columns!("WHERE place = $1"))
            .bind(place)
            .fetch_optional(&mut self.read_tx().await?)
            .await?;
        row.map(object).transpose()
    }

    /// The objects after the key `after` up to the key `upto`, or to the last key, sorted by key.
    pub async fn objects_between(&self, after: &str, upto: Option<&str>) -> Result<Vec<ObjectRow>> {
        let rows: Vec<Columns> =
            query_as(columns!("WHERE place > $1 AND place <= $2 ORDER BY place"))
                .bind(after)
                // No character is greater than U+10FFFF.
                .bind(upto.unwrap_or("\u{10ffff}"))
                .fetch_all(&mut self.scan_tx().await?)
                .await?;
        rows.into_iter().map(object).collect()
    }

    /// The length of each blob of `digests` that has a live object.
    pub async fn object_sizes(&self, digests: &[Digest]) -> Result<BTreeMap<Digest, u64>> {
        let mut transaction = self.read_tx().await?;
        let mut sizes = BTreeMap::new();
        for digest in digests {
            let bytes: Option<i64> = query_scalar(
                "SELECT bytes FROM objects WHERE digest = $1 AND state = 'live' LIMIT 1",
            )
            .bind(digest.to_string())
            .fetch_optional(&mut transaction)
            .await?;
            if let Some(bytes) = bytes {
                sizes.insert(*digest, u64::try_from(bytes).unwrap_or(0));
            }
        }
        Ok(sizes)
    }

    /// All blobs with a live object, sorted by digest.
    pub async fn live_objects(&self) -> Result<Vec<BlobInfo>> {
        let rows: Vec<(String, i64, i64)> = query_as(
            "SELECT digest, MAX(bytes), MAX(since) FROM objects WHERE state = 'live' \
             GROUP BY digest ORDER BY digest",
        )
        .fetch_all(&mut self.scan_tx().await?)
        .await?;
        let info = |(digest, bytes, since): (String, i64, i64)| {
            let bytes = u64::try_from(bytes).unwrap_or(0);
            let modified = SystemTime::from(timestamp(since));
            Ok(BlobInfo { digest: column(&digest)?, bytes, modified })
        };
        rows.into_iter().map(info).collect()
    }

    /// All objects whose state is one of `states`.
    pub async fn objects_in(&self, states: &[ObjectState]) -> Result<Vec<ObjectRow>> {
        let mut transaction = self.scan_tx().await?;
        let mut found = Vec::new();
        for state in states {
            let rows: Vec<Columns> = query_as(columns!("WHERE state = $1 ORDER BY since, place"))
                .bind(state.as_str())
                .fetch_all(&mut transaction)
                .await?;
            for row in rows {
                found.push(object(row)?);
            }
        }
        Ok(found)
    }

    /// The number of objects and bytes in each state.
    pub async fn object_counts(&self) -> Result<BTreeMap<ObjectState, BlobCount>> {
        let rows: Vec<(String, i64, i64)> = query_as(
            "SELECT state, COUNT(*), CAST(SUM(bytes) AS BIGINT) FROM objects GROUP BY state",
        )
        .fetch_all(&mut self.scan_tx().await?)
        .await?;
        let count = |(state, blobs, bytes): (String, i64, i64)| {
            let count = BlobCount {
                blobs: u64::try_from(blobs).unwrap_or(0),
                bytes: u64::try_from(bytes).unwrap_or(0),
            };
            Some((ObjectState::parse(&state)?, count))
        };
        Ok(rows.into_iter().filter_map(count).collect())
    }

    /// The digests of all staged objects.
    pub async fn staged_objects(&self) -> Result<Vec<Digest>> {
        let rows: Vec<String> =
            query_scalar("SELECT DISTINCT digest FROM objects WHERE state = 'staged'")
                .fetch_all(&mut self.read_tx().await?)
                .await?;
        rows.iter().map(|digest| column(digest)).collect()
    }

    /// The bytes of the uploads of `uploader` that no version uses yet.
    pub async fn uploaded_bytes(&self, uploader: &str) -> Result<u64> {
        uploaded_bytes(&mut self.read_tx().await?, uploader).await
    }

    /// The staged objects that have waited for longer than `age`.
    pub async fn would_expire_objects(&self, age: Duration) -> Result<Swept> {
        let mut transaction = self.read_tx().await?;
        let before = before(&mut transaction, age).await?;
        let (files, bytes): (i64, i64) = query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM objects \
             WHERE state = 'staged' AND since <= $1",
        )
        .bind(before)
        .fetch_one(&mut transaction)
        .await?;
        Ok(swept(files, bytes))
    }
}

pub(super) fn swept(files: i64, bytes: i64) -> Swept {
    Swept { files: u64::try_from(files).unwrap_or(0), bytes: u64::try_from(bytes).unwrap_or(0) }
}

/// The time that was `age` ago, by the clock of the database.
pub(super) async fn before(transaction: &mut Tx, age: Duration) -> Result<i64> {
    let age = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
    Ok(transaction.now().await?.saturating_sub(age))
}

/// The bytes of the uploads of `uploader` that no version uses yet.
pub(super) async fn uploaded_bytes(transaction: &mut Tx, uploader: &str) -> Result<u64> {
    let bytes: i64 = query_scalar(
        "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM objects \
         WHERE state IN ('writing', 'staged') AND uploader = $1",
    )
    .bind(uploader)
    .fetch_one(&mut *transaction)
    .await?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Makes an object of the blob live, in the transaction that records a reference to the blob. Does
/// nothing if the blobs are not in a bucket.
pub(super) async fn bind(transaction: &mut WriteTx, digest: Digest) -> Result<()> {
    if !transaction.has_objects {
        return Ok(());
    }
    if !make_live(transaction, digest).await? {
        return Err(not_uploaded());
    }
    Ok(())
}

/// Makes an object of the blob live: a live one stays live; or else a staged one or a condemned one
/// becomes live. Returns whether there is such an object.
pub(super) async fn make_live(transaction: &mut Tx, digest: Digest) -> Result<bool> {
    let now = transaction.now().await?;
    let changed = super::tx::query(
        "UPDATE objects SET state = 'live', since = $2 WHERE place = \
           (SELECT place FROM objects \
            WHERE digest = $1 AND state IN ('live', 'staged', 'condemned') \
            ORDER BY CASE state WHEN 'live' THEN 0 WHEN 'staged' THEN 1 ELSE 2 END, since DESC \
            LIMIT 1)",
    )
    .bind(digest.to_string())
    .bind(now)
    .execute(transaction)
    .await?;
    Ok(changed == 1)
}

/// The Go tool's message for a hash without an upload.
pub(crate) fn not_uploaded() -> Error {
    Error::NotFound("no uploaded file with given hash found".to_owned())
}
