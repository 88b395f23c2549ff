//! Changes the states of the objects in a bucket. `object_state` describes the states. Every
//! function here is one transaction, and may be repeated.

use std::time::Duration;

use deploy_store::{BlobInfo, Digest, Size, Swept};
use jiff::Timestamp;

use super::blob_rows::{self, BlobState};
use super::object_rows::{Columns, ObjectRow, before, columns, make_live, object, uploaded_bytes};
use super::object_state::{ObjectFacts, ObjectState, ObjectTimes, next_state};
use super::object_writers::Writers;
use super::references::is_referenced;
use super::tx::{Tx, query, query_as, query_scalar};
use super::{Catalog, Error, Result, image_layers, nanoseconds, timestamp};

/// Maximum number of objects that one transaction moves to another state.
const BATCH: u32 = 100;

/// An object that a registry is about to write.
#[derive(Debug, Clone, Copy)]
pub struct NewObject<'a> {
    /// The key in the bucket after the prefix. No object ever had this key.
    pub place: &'a str,
    /// The digest of the blob.
    pub digest: Digest,
    /// The length in bytes.
    pub bytes: u64,
    /// The key of the ssh client.
    pub uploader: &'a str,
    /// Whether agents can unpack the archive.
    pub checked: bool,
}

impl Catalog {
    /// Begins an object: adds its row with the state `writing`. If an object with these bytes
    /// exists already, the function adds no row, and returns the existing object. Fails with
    /// [`Error::OverLimit`] if the uploads of this client would be over `max_staged` bytes.
    pub async fn begin_object(
        &self,
        new: NewObject<'_>,
        max_staged: u64,
    ) -> Result<Option<ObjectRow>> {
        let mut transaction = self.write_tx().await?;
        let existing: Option<Columns> = query_as(columns!(
            "WHERE digest = $1 AND state IN ('live', 'staged', 'condemned') \
             ORDER BY CASE state WHEN 'live' THEN 0 WHEN 'staged' THEN 1 ELSE 2 END, since DESC \
             LIMIT 1"
        ))
        .bind(new.digest.to_string())
        .fetch_optional(&mut transaction)
        .await?;
        if let Some(existing) = existing {
            return object(existing).map(Some);
        }
        let staged = uploaded_bytes(&mut transaction, new.uploader).await?;
        if staged.saturating_add(new.bytes) > max_staged {
            return Err(over_quota(max_staged));
        }
        let now = transaction.now().await?;
        query(
            "INSERT INTO objects \
             (place, digest, bytes, state, since, registry, upload_id, uploader, checked) \
             VALUES ($1, $2, $3, 'writing', $4, $5, NULL, $6, $7)",
        )
        .bind(new.place)
        .bind(new.digest.to_string())
        .bind(i64::try_from(new.bytes).unwrap_or(i64::MAX))
        .bind(now)
        .bind(self.session_id())
        .bind(new.uploader)
        .bind(new.checked)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(None)
    }

    /// Records the id of the upload in parts of an object that this registry is writing.
    pub async fn set_upload_id(&self, place: &str, id: &str) -> Result<bool> {
        let statement = query(
            "UPDATE objects SET upload_id = $2 \
             WHERE place = $1 AND state = 'writing' AND registry = $3",
        );
        let changed =
            self.write_one(statement.bind(place).bind(id).bind(self.session_id())).await?;
        Ok(changed == 1)
    }

    /// Ends the writing of an object: the object is staged. Returns `false`, and changes nothing,
    /// if the object was given up in the meantime.
    pub async fn end_object(&self, place: &str) -> Result<bool> {
        let mut transaction = self.write_tx().await?;
        let now = transaction.now().await?;
        let changed = query(
            "UPDATE objects SET state = 'staged', since = $2, upload_id = NULL \
             WHERE place = $1 AND state = 'writing' AND registry = $3",
        )
        .bind(place)
        .bind(now)
        .bind(self.session_id())
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(changed == 1)
    }

    /// Gives up an object that this registry was writing.
    pub async fn give_up_object(&self, place: &str) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        let now = transaction.now().await?;
        query("UPDATE objects SET state = 'deleting', since = $2 WHERE place = $1 AND state = 'writing'")
            .bind(place)
            .bind(now)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await
    }

    /// Acknowledges an upload whose bytes exist already: the object counts as uploaded now. A
    /// condemned object is staged again. Returns `false` if the object is no longer there.
    pub async fn renew_object(&self, place: &str, uploader: &str) -> Result<bool> {
        let mut transaction = self.write_tx().await?;
        let now = transaction.now().await?;
        let changed = query(
            "UPDATE objects SET since = $2, \
             uploader = CASE state WHEN 'condemned' THEN $3 ELSE uploader END, \
             state = CASE state WHEN 'condemned' THEN 'staged' ELSE state END \
             WHERE place = $1 AND state IN ('live', 'staged', 'condemned')",
        )
        .bind(place)
        .bind(now)
        .bind(uploader)
        .execute(&mut transaction)
        .await?;
        transaction.commit().await?;
        Ok(changed == 1)
    }

    /// Renews the staged objects of `uploader`, so that they do not expire yet.
    pub async fn renew_uploads(&self, uploader: &str) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        let now = transaction.now().await?;
        query("UPDATE objects SET since = $2 WHERE uploader = $1 AND state = 'staged'")
            .bind(uploader)
            .bind(now)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await
    }

    /// Records that agents can unpack the archive.
    pub async fn mark_checked(&self, digest: Digest) -> Result<()> {
        let statement = query("UPDATE objects SET checked = $2 WHERE digest = $1");
        self.write_one(statement.bind(digest.to_string()).bind(true)).await?;
        Ok(())
    }

    /// Condemns the staged objects of the blob.
    pub async fn unstage_object(&self, digest: Digest) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        let now = transaction.now().await?;
        query("UPDATE objects SET state = 'condemned', since = $2 WHERE digest = $1 AND state = 'staged'")
            .bind(digest.to_string())
            .bind(now)
            .execute(&mut transaction)
            .await?;
        transaction.commit().await
    }

    /// Condemns the staged objects that have waited for longer than `age` to be bound.
    pub async fn expire_objects(&self, age: Duration) -> Result<Swept> {
        let mut transaction = self.write_tx().await?;
        let before = before(&mut transaction, age).await?;
        let (files, bytes): (i64, i64) = query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS BIGINT) FROM objects \
             WHERE state = 'staged' AND since <= $1",
        )
        .bind(before)
        .fetch_one(&mut transaction)
        .await?;
        if files > 0 {
            let now = transaction.now().await?;
            query(
                "UPDATE objects SET state = 'condemned', since = $2 \
                 WHERE state = 'staged' AND since <= $1",
            )
            .bind(before)
            .bind(now)
            .execute(&mut transaction)
            .await?;
            transaction.commit().await?;
        }
        Ok(super::object_rows::swept(files, bytes))
    }

    /// Makes an object of a lost blob live again, if something needs the blob. Returns whether it
    /// did.
    pub async fn restore_object(&self, digest: Digest, bytes: u64) -> Result<bool> {
        let mut transaction = self.write_tx().await?;
        if !is_referenced(&mut transaction, digest).await?
            || !make_live(&mut transaction, digest).await?
        {
            return Ok(false);
        }
        let now = timestamp(transaction.now().await?);
        blob_rows::put(&mut transaction, digest, bytes, BlobState::Live, now).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Makes an object of each blob live, whose bytes a migration has sent to the bucket. Fails if a
    /// blob has no object.
    pub async fn make_objects_live(&self, blobs: &[Digest]) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        for digest in blobs {
            if !make_live(&mut transaction, *digest).await? {
                return Err(Error::Failed(format!("no object of {digest} is in the bucket")));
            }
        }
        transaction.commit().await
    }

    /// Records that an object is damaged or missing. If no other object of the blob is live, the
    /// blob counts as damaged, too.
    pub async fn mark_object_damaged(&self, place: &str, digest: Digest) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        let now = transaction.now().await?;
        query(
            "UPDATE objects SET state = 'damaged', since = $2 \
             WHERE place = $1 AND state IN ('live', 'staged', 'condemned')",
        )
        .bind(place)
        .bind(now)
        .execute(&mut transaction)
        .await?;
        if !has_live(&mut transaction, digest, "").await? {
            query("UPDATE blobs SET state = 'damaged', since = $2 WHERE digest = $1")
                .bind(digest.to_string())
                .bind(now)
                .execute(&mut transaction)
                .await?;
        }
        transaction.commit().await
    }

    /// Makes a damaged object live again, because it has the right bytes after all. Returns whether
    /// the object was damaged and something needs it.
    pub async fn heal_object(&self, place: &str, digest: Digest, bytes: u64) -> Result<bool> {
        let mut transaction = self.write_tx().await?;
        if !is_referenced(&mut transaction, digest).await? {
            return Ok(false);
        }
        let now = transaction.now().await?;
        let changed = query(
            "UPDATE objects SET state = 'live', since = $2 \
             WHERE place = $1 AND state = 'damaged'",
        )
        .bind(place)
        .bind(now)
        .execute(&mut transaction)
        .await?;
        if changed == 1 {
            let now = timestamp(now);
            blob_rows::put(&mut transaction, digest, bytes, BlobState::Live, now).await?;
        }
        transaction.commit().await?;
        Ok(changed == 1)
    }

    /// Condemns the objects of each blob of `blobs` that has no reference, was not leased at
    /// `leased` or later, and was uploaded and bound before `cutoff`. Deletes the rows of these
    /// blobs, and returns the blobs.
    pub async fn condemn_objects(
        &self,
        blobs: &[BlobInfo],
        leased: Timestamp,
        cutoff: Timestamp,
    ) -> Result<Vec<BlobInfo>> {
        let mut transaction = self.write_tx().await?;
        let now = transaction.now().await?;
        let mut condemned = Vec::new();
        for blob in blobs {
            let digest = blob.digest;
            if is_referenced(&mut transaction, digest).await?
                || image_layers::is_leased(&mut transaction, digest, leased).await?
            {
                continue;
            }
            let changed = query(
                "UPDATE objects SET state = 'condemned', since = $2 \
                 WHERE digest = $1 AND state = 'live' AND since < $3",
            )
            .bind(digest.to_string())
            .bind(now)
            .bind(nanoseconds(cutoff))
            .execute(&mut transaction)
            .await?;
            if changed > 0 && !has_live(&mut transaction, digest, "").await? {
                for statement in
                    ["DELETE FROM layers WHERE digest = $1", "DELETE FROM blobs WHERE digest = $1"]
                {
                    query(statement).bind(digest.to_string()).execute(&mut transaction).await?;
                }
                condemned.push(blob.clone());
            }
        }
        transaction.commit().await?;
        Ok(condemned)
    }

    /// Moves each object on to its next state, see [`next_state`]. See [`Writers`] for the
    /// objects that other registries write.
    pub async fn advance_objects(&self, times: ObjectTimes) -> Result<()> {
        let mut after = String::new();
        loop {
            let mut transaction = self.write_tx().await?;
            let rows: Vec<Columns> = query_as(columns!(
                "WHERE state NOT IN ('live', 'deleting') AND place > $1 ORDER BY place LIMIT $2"
            ))
            .bind(&after)
            .bind(BATCH)
            .fetch_all(&mut transaction)
            .await?;
            let rows: Vec<ObjectRow> = rows.into_iter().map(object).collect::<Result<_>>()?;
            let Some(last) = rows.last() else { return Ok(()) };
            after.clone_from(&last.place);
            let writers = self.writers(&mut transaction).await?;
            for row in rows {
                advance(&mut transaction, &row, &writers, times).await?;
            }
            transaction.commit().await?;
        }
    }

    /// Deletes the row of an object that was deleted from the bucket.
    pub async fn forget_object(&self, place: &str) -> Result<()> {
        let statement = query("DELETE FROM objects WHERE place = $1 AND state = 'deleting'");
        self.write_one(statement.bind(place)).await?;
        Ok(())
    }
}

/// Moves an object on to its next state.
async fn advance(
    transaction: &mut Tx,
    row: &ObjectRow,
    writers: &Writers<'_>,
    times: ObjectTimes,
) -> Result<()> {
    let now = writers.now;
    let facts = ObjectFacts {
        state: row.state,
        age: writers.time_since(nanoseconds(row.since)),
        is_referenced: is_referenced(transaction, row.digest).await?,
        has_twin: has_live(transaction, row.digest, &row.place).await?,
        is_being_written: writers.may_write(row, times.abandon),
    };
    let Some(next) = next_state(facts, times) else { return Ok(()) };
    query("UPDATE objects SET state = $3, since = $4 WHERE place = $1 AND state = $2")
        .bind(&row.place)
        .bind(row.state.as_str())
        .bind(next.as_str())
        .bind(now)
        .execute(transaction)
        .await?;
    if next == ObjectState::Live {
        blob_rows::put(transaction, row.digest, row.bytes, BlobState::Live, timestamp(now)).await?;
    }
    Ok(())
}

/// Whether an object of the blob is live, other than the object at `place`.
async fn has_live(transaction: &mut Tx, digest: Digest, place: &str) -> Result<bool> {
    let count: i64 = query_scalar(
        "SELECT COUNT(*) FROM objects WHERE digest = $1 AND state = 'live' AND place <> $2",
    )
    .bind(digest.to_string())
    .bind(place)
    .fetch_one(transaction)
    .await?;
    Ok(count > 0)
}

fn over_quota(limit: u64) -> Error {
    Error::OverLimit(format!(
        "uploads of this key that no version uses yet would be over {} (-max-staged); bind some \
         with addver, or wait until they expire",
        Size(limit)
    ))
}
