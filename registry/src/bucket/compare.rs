//! Compares the list of the objects in the bucket with the rows in the catalogue. Removes objects
//! that have no row and are older than a day. A registry writes the row before the object, so such
//! an object remains from a request that the server carried out late, or is unknown because an older
//! catalogue was restored.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;

use super::Bucket;
use super::object_place::{self, BLOBS};
use super::s3_client::Listed;
use crate::catalog::{ObjectRow, ObjectState};
use crate::error::Result;

/// An object without a row is removed at this age.
const LEFTOVER: Duration = Duration::from_secs(24 * 60 * 60);

/// The result of a comparison.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Live objects that are missing in the bucket, or have another length.
    pub missing: Vec<ObjectRow>,
    /// Keys below `blobs/` that do not belong to a registry.
    pub foreign: Vec<String>,
    /// The number of removed objects that had no row.
    pub removed: u64,
}

/// What to do with an object without a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// It is too young.
    Keep,
    /// No registry made the key.
    Foreign,
    Remove,
}

/// Decides about an object without a row.
fn decide(object: &Listed, now: Timestamp) -> Unknown {
    if object_place::digest(&object.place).is_none() {
        return Unknown::Foreign;
    }
    let age = now.duration_since(object.modified);
    if age.is_positive() && age.unsigned_abs() >= LEFTOVER {
        Unknown::Remove
    } else {
        Unknown::Keep
    }
}

impl Bucket {
    /// Compares all objects in the bucket with their rows.
    pub async fn compare(&self) -> Result<Compared> {
        self.require_own_now().await?;
        let now = self.catalog.now().await?;
        let (mut compared, mut after, mut page) = (Compared::default(), String::new(), None);
        loop {
            let listed = self.client.list(BLOBS, page).await?;
            let last = listed.objects.last().map(|object| object.place.clone());
            // The rows of the last page may go beyond its last object.
            let upto = last.clone().filter(|_| listed.next.is_some());
            // The rows are read after the list. So an object without a row had none when it was
            // listed.
            let rows = self.catalog.objects_between(&after, upto.as_deref()).await?;
            self.compare_page(listed.objects, rows, now, &mut compared).await?;
            page = listed.next;
            if page.is_none() {
                return Ok(compared);
            }
            after = last.unwrap_or(after);
        }
    }

    async fn compare_page(
        &self,
        listed: Vec<Listed>,
        rows: Vec<ObjectRow>,
        now: Timestamp,
        compared: &mut Compared,
    ) -> Result<()> {
        let mut listed: BTreeMap<String, Listed> =
            listed.into_iter().map(|object| (object.place.clone(), object)).collect();
        for row in rows {
            let found = listed.remove(&row.place);
            if row.state == ObjectState::Live
                && found.is_none_or(|object| object.bytes != row.bytes)
                && self.is_missing(&row).await?
            {
                compared.missing.push(row);
            }
        }
        for object in listed.into_values() {
            match decide(&object, now) {
                Unknown::Keep => {}
                Unknown::Foreign => compared.foreign.push(object.place),
                Unknown::Remove if !self.removes() => {}
                Unknown::Remove => {
                    if self.catalog.object_at(&object.place).await?.is_none() {
                        self.client.delete(&object.place).await?;
                        compared.removed += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a live object is really missing, or has another length. The list may be outdated: gc
    /// may have deleted the object in the meantime, or it was written after the list.
    async fn is_missing(&self, row: &ObjectRow) -> Result<bool> {
        if self.client.length(&row.place).await? == Some(row.bytes) {
            return Ok(false);
        }
        let now = self.catalog.object_at(&row.place).await?;
        Ok(now.is_some_and(|now| now.state == ObjectState::Live))
    }
}

#[cfg(test)]
mod tests {
    use deploy_store::Digest;

    use super::*;

    #[test]
    fn only_old_objects_of_a_registry_are_leftovers() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let object = |place: &str, seconds: i64| Listed {
            place: place.to_owned(),
            bytes: 1,
            modified: Timestamp::from_second(1_000_000 - seconds).unwrap(),
        };
        let own = object_place::new(Digest::of(b"one")).unwrap();
        assert_eq!(decide(&object(&own, 86_399), now), Unknown::Keep);
        assert_eq!(decide(&object(&own, 86_400), now), Unknown::Remove);
        assert_eq!(decide(&object(&own, -86_400), now), Unknown::Keep);
        assert_eq!(decide(&object("blobs/notes.txt", 99_999_999), now), Unknown::Foreign);
    }
}
