//! Makes sure, before an agent gets an answer, that this registry knows every change that another
//! registry of a shared catalogue has acknowledged.

use std::sync::atomic::Ordering;

use deploy_store::ConfigurationName;

use super::hub::Fleet;
use crate::catalog::Position;
use crate::catalog::rollouts::RolloutView;
use crate::error::Result;

impl Fleet {
    /// Reads the holds, the windows and the rollouts again if another registry has changed them.
    /// Returns the position of the configuration; `None` if no other registry can change the
    /// catalogue.
    pub async fn catch_up(&self, name: &ConfigurationName) -> Result<Option<Position>> {
        if !self.catalog.is_shared() {
            return Ok(None);
        }
        let position = self.catalog.position(name).await?;
        if let Some(position) = position
            && self.shown.load(Ordering::Acquire) < position.shown
        {
            self.read_shown(position.shown).await?;
        }
        self.settle_rollout(name).await?;
        Ok(position)
    }

    /// Reads holds, windows and rollouts, unless another task has just done so.
    async fn read_shown(&self, least: u64) -> Result<()> {
        let _one_at_a_time = self.catching_up.lock().await;
        if self.shown.load(Ordering::Acquire) >= least {
            return Ok(());
        }
        // Changes after this number may be read, too.
        let number = self.catalog.shown_number().await?;
        self.reload_holds().await?;
        self.reload_windows().await?;
        self.load_rollouts().await?;
        self.shown.store(number, Ordering::Release);
        Ok(())
    }

    /// Reads the rollout of a configuration again if the configuration may have changed since the
    /// rollout was read. A lost notice counts as a change of everything, and after a change, the
    /// members get the base. So without this function, they would get the base although the rollout
    /// continues.
    pub async fn settle_rollout(&self, name: &ConfigurationName) -> Result<()> {
        if !self.catalog.is_shared() || !self.rollouts.is_doubtful(name) {
            return Ok(());
        }
        let _reading = self.showing.lock().await;
        // Another task may have read the rollout while this task waited for the lock.
        if self.rollouts.is_doubtful(name) {
            // Thousands of watches contain this future, so it should be small.
            Box::pin(self.read_rollout(name)).await?;
        }
        Ok(())
    }

    /// Reads the active rollouts, and offers their targets to their members.
    pub async fn load_rollouts(&self) -> Result<()> {
        for name in self.rolling().await? {
            self.show_last_rollout(&name).await?;
        }
        Ok(())
    }

    /// The configurations with an active rollout. Forgets all other rollouts.
    pub async fn rolling(&self) -> Result<Vec<ConfigurationName>> {
        let _reading = self.showing.lock().await;
        let names = self.catalog.rolling().await?;
        self.rollouts.keep(&names);
        Ok(names)
    }

    /// Reads the last rollout of a configuration. If the rollout is active, offers its target to
    /// its members.
    pub async fn show_last_rollout(&self, name: &ConfigurationName) -> Result<Option<RolloutView>> {
        // If two tasks run this function, the lock keeps their order: the task that reads later
        // must also offer the target later.
        let _reading = self.showing.lock().await;
        self.read_rollout(name).await
    }

    /// Like [`Fleet::show_last_rollout`]; the caller holds the lock.
    async fn read_rollout(&self, name: &ConfigurationName) -> Result<Option<RolloutView>> {
        let changes = self.catalog.changes.subscribe(name);
        let view = self.catalog.rollout(name, None).await?;
        self.show_rollout(name, view.as_ref(), changes).await?;
        Ok(view)
    }
}
