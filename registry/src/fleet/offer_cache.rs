//! A cache of the lines that offer configurations to agents. The registry sends a change to
//! thousands of agents at the same time, so it makes the line only once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use deploy_store::ConfigurationName;
use deploy_wire::fleet::lines::to_line;
use deploy_wire::fleet::{Offer, ToAgent};
use tokio::sync::OnceCell;

use crate::catalog::Catalog;
use crate::error::Result;

/// Maximum number of lines in the cache. If the cache is full, the registry empties it, and makes
/// the lines again when agents need them.
const MOST: usize = 2000;

/// An offer, and its line.
#[derive(Debug, Default)]
pub struct Prepared {
    /// The offer.
    pub offer: Offer,
    /// The line for agents that are not held, have no retries, may switch now, and need not wait
    /// before they start.
    pub line: Bytes,
}

impl Prepared {
    /// The offer with its line.
    pub fn of(offer: Offer) -> Self {
        let line = to_line(&ToAgent { offer: Some(offer.clone()), ..ToAgent::default() });
        Self { offer, line: line.into() }
    }
}

/// The number of changes at the time when an agent requested the line, and the line. Another task
/// may still be making the line.
type Slot = (u64, Arc<OnceCell<Arc<Prepared>>>);

/// The newest line of each configuration.
#[derive(Debug, Default)]
pub struct OfferCache(Mutex<HashMap<ConfigurationName, Slot>>);

impl OfferCache {
    /// The offer of a configuration after its change number `count`, or after a later change.
    pub async fn get(
        &self,
        catalog: &Catalog,
        name: &ConfigurationName,
        count: u64,
    ) -> Result<Arc<Prepared>> {
        let cell = self.cell(name, count);
        let made = cell.get_or_try_init(|| async {
            let offer = match catalog.offered(name).await? {
                Some((revision, id, json)) => Offer::of(revision, id, &json),
                None => Offer::default(),
            };
            Ok(Arc::new(Prepared::of(offer)))
        });
        made.await.map(Arc::clone)
    }

    fn cell(&self, name: &ConfigurationName, count: u64) -> Arc<OnceCell<Arc<Prepared>>> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((made_after, cell)) = slots.get(name)
            && *made_after >= count
        {
            return Arc::clone(cell);
        }
        if slots.len() >= MOST {
            slots.clear();
        }
        let cell = Arc::default();
        slots.insert(name.clone(), (count, Arc::clone(&cell)));
        cell
    }
}
