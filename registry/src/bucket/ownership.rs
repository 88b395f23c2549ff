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
    /// When this registry last raised the number.
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

    /// Fails if the bucket does not belong to the catalogue. After a call that succeeded, further
    /// calls send no requests.
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
            Ok(()) => *owned = Ownership::Own(Owned { raised: Instant::now() }),
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
        let found = self.read_marker().await?;
        // Another registry may raise the number at any time. It writes each number first to the
        // catalogue, so the function reads the catalogue last.
        let noted: Option<Marker> = self.catalog.note(NOTE).await?;
        if marker::is_own(found.as_ref(), noted.as_ref()) {
            return Ok(());
        }
        let told = |marker: Option<Marker>| {
            marker.map_or("missing".to_owned(), |Marker { catalogue, number }| {
                format!("{number} of catalogue {catalogue}")
            })
        };
        Err(self.conflict(&format!(
            "the number of the bucket is {}, and the number of the catalogue is {}; nothing is \
             removed: look for a registry that uses this bucket with another catalogue, and \
             restart this registry",
            told(found),
            told(noted)
        )))
    }

    /// Raises the number in the catalogue and in the marker. With `always` false, does so only from
    /// time to time.
    pub(super) async fn raise_marker(&self, always: bool) -> Result<()> {
        let mut owned = self.owned.lock().await;
        let Ownership::Own(owned) = &mut *owned else { return Ok(()) };
        if !always && owned.raised.elapsed() < RAISE_EVERY {
            return Ok(());
        }
        self.raise(0).await?;
        *owned = Owned { raised: Instant::now() };
        Ok(())
    }

    /// Raises the number to at least `least`, first in the catalogue and then in the marker.
    async fn raise(&self, least: u64) -> Result<()> {
        let own = self.catalog.session_id();
        let change = |noted| marker::raised(noted, own, least);
        let mut next: Marker = self.catalog.change_note(NOTE, change).await?;
        loop {
            // If the answer is lost, the marker may have the new number all the same.
            self.write_marker(&next).await?;
            // If another registry has raised the number in the meantime, this marker may have
            // replaced the other one, so the function writes the higher number again.
            let noted: Option<Marker> = self.catalog.note(NOTE).await?;
            match noted.filter(|noted| noted.number > next.number) {
                Some(higher) => next = higher,
                None => return Ok(()),
            }
        }
    }

    /// Compares the bucket with the catalogue. Writes the first marker, or the next one.
    async fn check(&self) -> Result<()> {
        let mut found = self.find().await?;
        if marker::compare(&found).refusal().is_some() && self.catalog.is_shared() {
            // Another registry may have begun to use the bucket while this one looked.
            found = self.find().await?;
        }
        let verdict = marker::compare(&found);
        if let (Verdict::Older(number), Some(accepted)) = (verdict, self.settings.accepts_older)
            && number == accepted
        {
            tracing::warn!(
                event = "older_catalogue",
                "the catalogue is older than the bucket, which the operator accepts; nothing is \
                 removed until the registry starts without -accept-older-catalogue"
            );
            return self.raise(number + 1).await;
        }
        match verdict.refusal() {
            Some(why) => Err(self.conflict(&why)),
            None => self.raise(0).await,
        }
    }

    /// Reads the marker, and then what the catalogue knows.
    async fn find(&self) -> Result<Found> {
        let marker = self.read_marker().await?;
        let has_objects = !self.client.list(BLOBS, None).await?.objects.is_empty();
        let counts = self.catalog.object_counts().await?;
        let is_kept =
            |state: &ObjectState| !matches!(state, ObjectState::Writing | ObjectState::Deleting);
        let knows_objects = counts.keys().any(is_kept);
        Ok(Found {
            has_objects,
            noted: self.catalog.note(NOTE).await?,
            knows_files: !knows_objects && !self.catalog.blobs().await?.is_empty(),
            knows_objects,
            marker,
        })
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
