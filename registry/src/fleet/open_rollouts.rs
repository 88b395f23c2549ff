//! Keeps the active rollouts in memory, with the hosts to which the registry offers their targets.
//! Watches and polls read this data often.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use deploy_store::ConfigurationName;
use tokio::sync::watch;

use super::offer_cache::Prepared;
use crate::catalog::Announced;

/// An active rollout, and the hosts to which the registry offers its target.
#[derive(Debug)]
pub struct OpenRollout {
    /// The number of the rollout.
    pub number: u64,
    /// The number of the state that is the target.
    pub target: u64,
    /// The offer of the target.
    pub(super) offer: Arc<Prepared>,
    /// The members to which the registry offers the target: the names of the hosts, and the
    /// fingerprints of their keys.
    pub members: HashMap<String, String>,
    /// Announces each later change of the configuration. After such a change, the registry no
    /// longer offers the target, even before it has read the rollout again.
    pub changes: Changed,
}

/// Announces the changes of a configuration.
pub type Changed = watch::Receiver<Announced>;

/// The active rollouts.
#[derive(Debug, Default)]
pub struct OpenRollouts(RwLock<HashMap<ConfigurationName, Arc<OpenRollout>>>);

impl OpenRollouts {
    /// The active rollout of a configuration, if the registry offers the target to this host.
    pub fn shown_to(
        &self,
        name: &ConfigurationName,
        host: &str,
        key: &str,
    ) -> Option<Arc<OpenRollout>> {
        let rollout = self.get(name)?;
        if rollout.changes.has_changed().unwrap_or(true) {
            return None;
        }
        let is_member = rollout.members.get(host).is_some_and(|owner| owner == key);
        is_member.then_some(rollout)
    }

    /// The active rollout of a configuration.
    pub fn get(&self, name: &ConfigurationName) -> Option<Arc<OpenRollout>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Whether the configuration has changed since its active rollout was read.
    pub fn is_doubtful(&self, name: &ConfigurationName) -> bool {
        self.get(name).is_some_and(|rollout| rollout.changes.has_changed().unwrap_or(true))
    }

    /// Replaces the active rollout of a configuration. Returns the hosts that joined or left the
    /// rollout, because the registry may now offer these hosts another state.
    pub fn set(&self, name: &ConfigurationName, rollout: Option<OpenRollout>) -> Vec<String> {
        let rollout = rollout.map(Arc::new);
        let mut all = self.all();
        let before = match &rollout {
            Some(rollout) => all.insert(name.clone(), Arc::clone(rollout)),
            None => all.remove(name),
        };
        drop(all);
        let is_same = match (&before, &rollout) {
            (Some(before), Some(rollout)) => before.number == rollout.number,
            _ => false,
        };
        let names = |rollout: &Option<Arc<OpenRollout>>| -> Vec<String> {
            rollout.iter().flat_map(|rollout| rollout.members.keys().cloned()).collect()
        };
        let has = |rollout: &Option<Arc<OpenRollout>>, host: &str| {
            is_same && rollout.as_ref().is_some_and(|it| it.members.contains_key(host))
        };
        let left = names(&before).into_iter().filter(|host| !has(&rollout, host));
        let joined = names(&rollout).into_iter().filter(|host| !has(&before, host));
        left.chain(joined).collect()
    }

    /// Forgets all rollouts except those of the configurations `names`.
    pub fn keep(&self, names: &[ConfigurationName]) {
        self.all().retain(|name, _| names.contains(name));
    }

    fn all(&self) -> RwLockWriteGuard<'_, HashMap<ConfigurationName, Arc<OpenRollout>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Changes;

    fn rollout(changes: &Changes, number: u64, members: &[&str]) -> OpenRollout {
        let members = members.iter().map(|host| ((*host).to_owned(), "k".to_owned())).collect();
        let offer = Arc::new(Prepared::of(deploy_wire::fleet::Offer::default()));
        let changes = changes.subscribe(&"web".parse().unwrap());
        OpenRollout { number, target: 2, offer, members, changes }
    }

    #[test]
    fn set_returns_only_the_hosts_that_joined_or_left() {
        let (rollouts, name) = (OpenRollouts::default(), "web".parse().unwrap());
        let changes = Changes::default();
        assert_eq!(rollouts.set(&name, Some(rollout(&changes, 1, &["a"]))), ["a"]);
        assert_eq!(rollouts.set(&name, Some(rollout(&changes, 1, &["a", "b"]))), ["b"]);
        assert!(rollouts.set(&name, Some(rollout(&changes, 1, &["a", "b"]))).is_empty());
        assert!(rollouts.shown_to(&name, "a", "k").is_some());
        assert!(rollouts.shown_to(&name, "a", "other").is_none());
        assert!(rollouts.shown_to(&name, "c", "k").is_none());
        changes.announce(&name);
        assert!(rollouts.shown_to(&name, "a", "k").is_none(), "offered after another change");
        assert!(rollouts.is_doubtful(&name) && !rollouts.is_doubtful(&"db".parse().unwrap()));
        assert_eq!(rollouts.set(&name, Some(rollout(&changes, 2, &["a"]))).len(), 3);
        assert_eq!(rollouts.set(&name, None), ["a"]);
        assert!(rollouts.get(&name).is_none());
    }
}
