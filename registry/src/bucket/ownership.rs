//! Makes sure that a bucket and a catalogue belong together, and keeps the marker current.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::Bucket;
use super::marker::{self, Found, Marker, NOTE, Verdict};
use super::object_place::BLOBS;
use crate::catalog::ObjectState;
use crate::error::{Error, Result};

/// How often the number in the marker is raised even if nothing is removed.
const RAISE_EVERY: Duration = Duration::from_secs(60 * 60);

/// After a check without an answer, the time during which no other check is made.
const AGAIN: Duration = Duration::from_secs(5);

/// Whether the bucket belongs to the catalogue.
#[derive(Debug, Default)]
pub(super) enum Ownership {
    #[default]
    Unknown,
    /// The server did not answer the last check.
    Failed(Instant, String),
    Own(Owned),
}

/// The bucket belongs to the catalogue.
#[derive(Debug)]
pub(super) struct Owned {
    marker: Marker,
    raised: Instant,
}

impl Bucket {
    /// Checks the bucket at the start of the registry. If the server does not answer, a registry
    /// that used the bucket before starts all the same.
    pub(super) async fn begin(&self) -> Result<()> {
        match self.require_own().await {
            Err(err @ Error::NoBucket(_)) => {
                if self.catalog.note::<Marker>(NOTE).await?.is_none() {
                    return Err(err);
                }
                tracing::warn!(
                    "{err}; the registry starts without the bucket, and checks the bucket before \
                     the next upload"
                );
                Ok(())
            }
            checked => checked,
        }
    }

    /// Fails if the bucket does not belong to the catalogue. Only the first call that succeeds sends
    /// requests.
    pub(super) async fn require_own(&self) -> Result<()> {
        let mut owned = self.owned.lock().await;
        match &*owned {
            Ownership::Own(_) => return Ok(()),
            // Many uploads may wait for this check while the server does not answer.
            Ownership::Failed(at, why) if at.elapsed() < AGAIN => {
                return Err(Error::NoBucket(why.clone()));
            }
            Ownership::Failed(..) | Ownership::Unknown => {}
        }
        match self.check().await {
            Ok(marker) => *owned = Ownership::Own(Owned { marker, raised: Instant::now() }),
            Err(Error::NoBucket(why)) => {
                *owned = Ownership::Failed(Instant::now(), why.clone());
                return Err(Error::NoBucket(why));
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }

    /// Fails if the bucket does not belong to the catalogue, or if the catalogue is older than the
    /// bucket. Reads the marker again.
    pub(super) async fn require_own_now(&self) -> Result<()> {
        self.require_own().await?;
        let owned = self.owned.lock().await;
        let Ownership::Own(Owned { marker: own, .. }) = &*owned else { return Ok(()) };
        match self.read_marker().await? {
            Some(found) if found.catalogue == own.catalogue && found.number <= own.number => Ok(()),
            found => {
                let found = found.map_or("is missing".to_owned(), |found| {
                    format!("has the number {} of catalogue {}", found.number, found.catalogue)
                });
                Err(self.conflict(&format!(
                    "the marker {found}, but this catalogue is {} with the number {}; nothing is \
                     removed: look for a second registry that uses this bucket, and restart this \
                     registry",
                    own.catalogue, own.number
                )))
            }
        }
    }

    /// Raises the number in the catalogue and in the marker. With `always` false, does so only from
    /// time to time.
    pub(super) async fn raise_marker(&self, always: bool) -> Result<()> {
        let mut owned = self.owned.lock().await;
        let Ownership::Own(owned) = &mut *owned else { return Ok(()) };
        if !always && owned.raised.elapsed() < RAISE_EVERY {
            return Ok(());
        }
        let raised = Marker { number: owned.marker.number + 1, ..owned.marker.clone() };
        self.catalog.set_note(NOTE, &raised).await?;
        *owned = Owned { marker: raised.clone(), raised: Instant::now() };
        // If the answer is lost, the marker may have the new number all the same.
        self.write_marker(&raised).await
    }

    /// Compares the bucket with the catalogue. Writes the first marker, or the next one.
    async fn check(&self) -> Result<Marker> {
        let marker = self.read_marker().await?;
        let counts = self.catalog.object_counts().await?;
        let is_kept =
            |state: &ObjectState| !matches!(state, ObjectState::Writing | ObjectState::Deleting);
        let knows_objects = counts.keys().any(is_kept);
        let found = Found {
            has_objects: !self.client.list(BLOBS, None).await?.objects.is_empty(),
            noted: self.catalog.note(NOTE).await?,
            knows_files: !knows_objects && !self.catalog.blobs().await?.is_empty(),
            knows_objects,
            marker,
        };
        let verdict = marker::compare(&found);
        let accepted = self.settings.accepts_older;
        let next = match (verdict, found.noted) {
            (Verdict::Older(number), Some(noted)) if accepted == Some(number) => {
                tracing::warn!(
                    event = "older_catalogue",
                    "the catalogue is older than the bucket, which the operator accepts; nothing \
                     is removed until the registry starts without -accept-older-catalogue"
                );
                Marker { number: number + 1, ..noted }
            }
            (verdict, noted) => {
                if let Some(why) = verdict.refusal() {
                    return Err(self.conflict(&why));
                }
                let first =
                    || Marker { catalogue: self.catalog.session_id().to_owned(), number: 0 };
                let Marker { catalogue, number } = noted.unwrap_or_else(first);
                Marker { catalogue, number: number + 1 }
            }
        };
        self.catalog.set_note(NOTE, &next).await?;
        self.write_marker(&next).await?;
        Ok(next)
    }

    /// Writes the marker to the bucket. The catalogue has the same number already, so the number in
    /// the bucket is never higher than the number in the newest catalogue.
    async fn write_marker(&self, marker: &Marker) -> Result<()> {
        let text = serde_json::to_vec(&serde_json::json!({
            "catalogue": marker.catalogue,
            "number": marker.number,
            "time": Timestamp::now(),
        }));
        let text = text.map_err(|err| Error::Failed(format!("write the marker: {err}")))?;
        self.client.put(marker::PLACE, Bytes::from(text)).await
    }

    async fn read_marker(&self) -> Result<Option<Marker>> {
        let Some(text) = self.client.get_small(marker::PLACE).await? else { return Ok(None) };
        let parsed = serde_json::from_slice(&text);
        parsed.map(Some).map_err(|err| {
            self.conflict(&format!("the marker {} cannot be read: {err}", marker::PLACE))
        })
    }

    fn conflict(&self, why: &str) -> Error {
        Error::Conflict(format!("bucket {}: {why}; nothing was changed", self.settings.address))
    }
}
