//! Makes sure, before an agent gets an answer, that this registry knows every change that another
//! registry of a shared catalogue has acknowledged.

use std::sync::atomic::Ordering;

use deploy_store::ConfigurationName;

use crate::catalog::Position;
use crate::error::Result;
use crate::registry::Registry;

impl Registry {
    /// Reads the holds and the rollouts again if another registry has changed them. Returns the
    /// position of the configuration; `None` if no other registry can change the catalogue.
    pub async fn catch_up(&self, name: &ConfigurationName) -> Result<Option<Position>> {
        if !self.catalog.is_shared() {
            return Ok(None);
        }
        let position = self.catalog.position(name).await?;
        if let Some(position) = position
            && self.fleet.shown.load(Ordering::Acquire) < position.shown
        {
            self.read_shown(position.shown).await?;
        }
        Ok(position)
    }

    /// Reads holds and rollouts, unless another task has just done so.
    async fn read_shown(&self, least: u64) -> Result<()> {
        let _one_at_a_time = self.fleet.catching_up.lock().await;
        if self.fleet.shown.load(Ordering::Acquire) >= least {
            return Ok(());
        }
        // Changes after this number may be read, too.
        let number = self.catalog.shown_number().await?;
        self.fleet.reload_holds().await?;
        self.load_rollouts().await?;
        self.fleet.shown.store(number, Ordering::Release);
        Ok(())
    }
}
