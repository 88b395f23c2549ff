//! Caches the lines that offer configurations to agents. The registry sends a change to thousands
//! of agents at the same time, and makes the line with this change only once.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use deploy_store::ConfigurationName;
use deploy_wire::fleet::lines::to_line;
use deploy_wire::fleet::{Offer, ToAgent};
use tokio::sync::OnceCell;

use crate::catalog::Catalog;
use crate::error::Result;

/// Maximum number of lines in the cache. If the cache is full, the registry empties the cache, and
/// makes the lines again when agents need them.
const MOST: usize = 2000;

/// The name of the field [`Offer::start_after_ms`] as it appears in a line. No value in the line
/// contains these bytes, because JSON escapes the quotation marks in a value.
const START_AFTER: &[u8] = b"\"start_after_ms\":";

/// An offer, and the line that sends the offer to an agent.
#[derive(Debug)]
pub struct Prepared {
    /// The offer.
    pub offer: Offer,
    /// The line for agents that are not held, have no retries, may switch now, and need not wait
    /// before they start.
    line: Bytes,
    /// The two parts of a line with a waiting time: the part before the number of milliseconds, and
    /// the part after it.
    around_wait: (Bytes, Bytes),
}

impl Prepared {
    /// The offer with its line.
    pub fn of(offer: Offer) -> Self {
        let line_of = |offer| to_line(&ToAgent { offer: Some(offer), ..ToAgent::default() });
        let line = line_of(offer.clone()).into();
        let waiting = line_of(Offer { start_after_ms: u64::MAX, ..offer.clone() });
        Self { offer, line, around_wait: around(&waiting.into(), START_AFTER) }
    }

    /// The line for an agent that is not held, has no retries, and may switch now. The agent waits
    /// `start_after_ms` milliseconds before it starts.
    pub fn line(&self, start_after_ms: u64) -> Bytes {
        if start_after_ms == 0 {
            return self.line.clone();
        }
        let (before, after) = &self.around_wait;
        let number = start_after_ms.to_string();
        [&**before, number.as_bytes(), &**after].concat().into()
    }
}

/// Splits `line` at the number [`u64::MAX`] that follows `field`. Returns the parts before and
/// after this number.
fn around(line: &Bytes, field: &[u8]) -> (Bytes, Bytes) {
    let at = line.windows(field.len()).position(|part| part == field).unwrap_or(0) + field.len();
    (line.slice(..at), line.slice(at + u64::MAX.to_string().len()..))
}

/// The number of the configuration's changes at the time when an agent requested the line, and the
/// line itself. Another task may still be making the line.
type Slot = (u64, Arc<OnceCell<Arc<Prepared>>>);

/// The newest line of each configuration.
#[derive(Debug, Default)]
pub struct OfferCache(RwLock<HashMap<ConfigurationName, Slot>>);

impl OfferCache {
    /// The offer of a configuration as it was after the change number `count`, or after a later
    /// change.
    pub async fn get(
        &self,
        catalog: &Catalog,
        name: &ConfigurationName,
        count: u64,
    ) -> Result<Arc<Prepared>> {
        let cell = self.cell(name, count);
        let made = cell.get_or_try_init(|| async { Ok(Arc::new(read(catalog, name).await?)) });
        made.await.map(Arc::clone)
    }

    fn cell(&self, name: &ConfigurationName, count: u64) -> Arc<OnceCell<Arc<Prepared>>> {
        let slots = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = made_after(&slots, name, count) {
            return cell;
        }
        drop(slots);
        let mut slots = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(cell) = made_after(&slots, name, count) {
            return cell;
        }
        if slots.len() >= MOST {
            slots.clear();
        }
        let cell = Arc::default();
        slots.insert(name.clone(), (count, Arc::clone(&cell)));
        cell
    }
}

/// The offer of a configuration as it is now.
pub async fn read(catalog: &Catalog, name: &ConfigurationName) -> Result<Prepared> {
    Ok(Prepared::of(match catalog.offered(name).await? {
        Some((revision, id, json)) => Offer::of(revision, id, &json),
        None => Offer::default(),
    }))
}

/// The line of a configuration, if an agent requested the line after change number `count`, or
/// after a later change.
fn made_after(
    slots: &HashMap<ConfigurationName, Slot>,
    name: &ConfigurationName,
    count: u64,
) -> Option<Arc<OnceCell<Arc<Prepared>>>> {
    let (made_after, cell) = slots.get(name)?;
    (*made_after >= count).then(|| Arc::clone(cell))
}

#[cfg(test)]
mod tests {
    use deploy_store::Digest;

    use super::*;

    #[test]
    fn line_with_a_wait_equals_the_line_of_the_whole_offer() {
        let document = "{\"a\": \"\\\"start_after_ms\\\":1\", \"start_after_ms\":2}";
        let offer = Offer::of(7, Digest::of(b"id"), document.as_bytes());
        assert_eq!(offer.document.as_deref(), Some(document));
        let prepared = Prepared::of(offer.clone());
        for start_after_ms in [0, 1, 2999, u64::MAX] {
            let offer = Offer { start_after_ms, ..offer.clone() };
            let line = to_line(&ToAgent { offer: Some(offer), ..ToAgent::default() });
            assert_eq!(prepared.line(start_after_ms), line);
        }
        let none = Prepared::of(Offer::default());
        assert_eq!(&*none.line(5), b"{\"offer\":{\"revision\":0,\"start_after_ms\":5}}\n");
    }
}
