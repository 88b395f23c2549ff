//! Notifies waiting tasks that a configuration or a rollout has changed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use deploy_store::ConfigurationName;
use tokio::sync::watch;

/// If there are this many channels, the registry removes all channels without a waiting task before
/// it adds another channel.
const MOST: usize = 1000;

/// The last change of a configuration.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announced {
    /// The number of this change, or of the making of the channel. The numbers of all channels grow
    /// together, so a channel that is made again continues with a higher number.
    pub count: u64,
    /// When the last change was announced; `None` if there was no change.
    pub at: Option<Instant>,
}

/// The channels that announce changes to waiting tasks, and a counter of commits. There is one
/// channel for each configuration to which a task has subscribed, and one channel for all rollouts.
#[derive(Debug, Default)]
pub struct Changes {
    configurations: Mutex<HashMap<ConfigurationName, watch::Sender<Announced>>>,
    rollouts: watch::Sender<u64>,
    commits: AtomicU64,
    last: AtomicU64,
}

impl Changes {
    /// A receiver for the changes of a configuration. The configuration need not exist.
    pub fn subscribe(&self, name: &ConfigurationName) -> watch::Receiver<Announced> {
        let mut all = self.all();
        if let Some(sender) = all.get(name) {
            return sender.subscribe();
        }
        if all.len() >= MOST {
            all.retain(|_, sender| sender.receiver_count() > 0);
        }
        let (sender, receiver) = watch::channel(Announced { count: self.next(), at: None });
        all.insert(name.clone(), sender);
        receiver
    }

    /// Announces that a change of the configuration `name` is on the disk.
    pub fn announce(&self, name: &ConfigurationName) {
        let Some(sender) = self.all().get(name).cloned() else { return };
        let at = Some(Instant::now());
        sender.send_replace(Announced { count: self.next(), at });
    }

    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Announces that each configuration may have changed.
    pub fn announce_everything(&self) {
        let names: Vec<ConfigurationName> = self.all().keys().cloned().collect();
        for name in &names {
            self.announce(name);
        }
    }

    /// The number of transactions that were committed since the start of the registry and may have
    /// changed something that a task waits for.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::SeqCst)
    }

    /// Counts a committed transaction.
    pub fn count_commit(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }

    /// A receiver whose value changes with every change of a rollout.
    pub fn rollouts(&self) -> watch::Receiver<u64> {
        self.rollouts.subscribe()
    }

    /// Announces that a change of a rollout is on the disk.
    pub fn announce_rollouts(&self) {
        self.rollouts.send_modify(|count| *count += 1);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ConfigurationName, watch::Sender<Announced>>> {
        self.configurations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn change_wakes_only_tasks_that_wait_for_its_configuration() {
        let changes = Changes::default();
        let [one, other]: [ConfigurationName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let (mut first, mut second) = (changes.subscribe(&one), changes.subscribe(&other));
        changes.announce(&one);
        let before = first.borrow().count;
        first.changed().await.unwrap();
        assert!(first.borrow().count > before);
        assert!(!second.has_changed().unwrap());
        changes.announce(&other);
        second.changed().await.unwrap();
    }

    #[test]
    fn channels_without_a_waiting_task_are_removed() {
        let changes = Changes::default();
        let kept = changes.subscribe(&"kept".parse().unwrap());
        for n in 0..3 * MOST {
            changes.subscribe(&format!("n{n}").parse().unwrap());
        }
        assert!(changes.all().len() <= MOST);
        changes.announce(&"kept".parse().unwrap());
        assert!(kept.has_changed().unwrap());
    }

    /// An offer that was made for the earlier channel does not count for the later channel: nobody
    /// announced the changes in between.
    #[test]
    fn channel_that_is_made_again_has_a_higher_count() {
        let changes = Changes::default();
        let name: ConfigurationName = "web".parse().unwrap();
        changes.subscribe(&name);
        changes.announce(&name);
        let before = changes.subscribe(&name).borrow().count;
        changes.all().clear();
        assert!(changes.subscribe(&name).borrow().count > before);
    }
}
