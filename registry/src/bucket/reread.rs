//! Reads objects from the bucket to find damage.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deploy_store::{Digest, Hasher, Meter};

use super::Bucket;
use super::object_fetch::{Failed, Source};
use crate::blocking::blocking;
use crate::catalog::ObjectRow;
use crate::error::{Error, Result};

/// The result of reading an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reread {
    /// The object has the right bytes.
    Sound,
    /// The object has wrong bytes, and was marked as damaged.
    Damaged(String),
    /// The object does not exist.
    Missing(String),
    /// The object is no longer live.
    Gone,
}

impl Bucket {
    /// Reads the object of a blob, at most `rate` bytes a second. Wrong bytes count only if a second
    /// reading gives wrong bytes, too. Fails if the bucket does not answer.
    pub async fn reread(&self, digest: Digest, rate: Option<u64>, meter: &Meter) -> Result<Reread> {
        let Some(row) = self.catalog.object(digest).await? else { return Ok(Reread::Gone) };
        let first = match self.hash(&row, rate, meter).await {
            Ok(found) if found == digest => return Ok(Reread::Sound),
            Ok(found) => format!("the digest of its bytes in the bucket is {found}"),
            Err(Failed::Damaged(why)) => why,
            Err(Failed::Other(Error::Damaged(why))) => return Ok(Reread::Missing(why)),
            Err(Failed::Other(err)) => return Err(err),
        };
        match self.hash(&row, rate, &Meter::default()).await {
            Ok(found) if found == digest => Ok(Reread::Sound),
            Ok(_) | Err(Failed::Damaged(_)) => {
                self.require_own_now().await?;
                self.catalog.mark_object_damaged(&row.place, digest).await?;
                tracing::error!(event = "blob_damaged", %digest, "blob {digest}: {first}");
                Ok(Reread::Damaged(first))
            }
            Err(Failed::Other(err)) => Err(err),
        }
    }

    /// Reads an object again after a reader got wrong bytes.
    pub(super) async fn doubt(&self, row: &ObjectRow) {
        match self.reread(row.digest, None, &Meter::default()).await {
            Ok(Reread::Sound) => {
                tracing::warn!(
                    digest = %row.digest,
                    "the object {} was read with wrong bytes once, and with the right bytes after \
                     that; look for faults of the network",
                    row.place
                );
            }
            Ok(_) => {}
            Err(err) => tracing::error!(digest = %row.digest, "cannot check an object: {err}"),
        }
    }

    /// Removes the copy of a blob from the cache if the copy has wrong bytes. Returns whether the
    /// copy was removed.
    pub async fn check_copy(self: &Arc<Self>, digest: Digest) -> Result<bool> {
        let bucket = Arc::clone(self);
        let checked = blocking(move || {
            let Some(mut file) = bucket.cache.reader(digest)? else { return Ok(false) };
            let mut hasher = Hasher::default();
            let mut buffer = vec![0; 256 << 10];
            loop {
                match std::io::Read::read(&mut file, &mut buffer) {
                    Ok(0) => break,
                    Ok(n) => hasher.update(&buffer[..n]),
                    Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => {
                        bucket.cache.remove(digest)?;
                        return Ok(true);
                    }
                }
            }
            if hasher.finish() == digest {
                return Ok(false);
            }
            bucket.cache.remove(digest)?;
            Ok(true)
        });
        Ok(checked.await?)
    }

    /// Makes a damaged object live again if it has the right bytes after all, for example because
    /// the server has repaired it. Returns whether it is live.
    pub async fn heal(&self, row: &ObjectRow) -> Result<bool> {
        match self.hash(row, None, &Meter::default()).await {
            Ok(found) if found == row.digest => {
                self.catalog.heal_object(&row.place, row.digest, row.bytes).await
            }
            _ => Ok(false),
        }
    }

    async fn hash(
        &self,
        row: &ObjectRow,
        rate: Option<u64>,
        meter: &Meter,
    ) -> Result<Digest, Failed> {
        let (mut hasher, mut source) = (Hasher::default(), Source::new(&self.client, row));
        let (began, mut bytes) = (Instant::now(), 0_u64);
        while let Some(pieces) = source.next().await? {
            let length: usize = pieces.iter().map(bytes::Bytes::len).sum();
            let done = blocking(move || {
                for piece in pieces {
                    hasher.update(&piece);
                }
                Ok(hasher)
            });
            hasher = done.await.map_err(Error::from)?;
            bytes += length as u64;
            meter.add(length as u64);
            if let Some(rate) = rate.filter(|rate| *rate > 0) {
                let due = Duration::from_millis(bytes.saturating_mul(1000) / rate);
                tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            }
        }
        Ok(hasher.finish())
    }
}
