//! Limits how many tasks that depend on data from a client, such as uploads and imports, run at a
//! time. All keys share the slots. If a client sends nothing for a while, another client may take
//! the silent client's slot.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

/// How often a waiting caller checks whether a client has become silent.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How keys share the slots.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// The number of slots.
    pub most: usize,
    /// The number of slots that a key may take even if other keys wait.
    pub share: usize,
    /// If a key takes more than its share, it must leave this many slots free.
    pub reserve: usize,
    /// A client that sends nothing for this long may lose its slot.
    pub silence: Duration,
}

/// The slots of one kind of work.
#[derive(Debug)]
pub struct SlotPool {
    sharing: Sharing,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    slots: HashMap<u64, Holder>,
    /// Number of waiting callers of each key.
    waiting: HashMap<String, usize>,
}

#[derive(Debug)]
struct Holder {
    key: String,
    /// If the work waits for its client, the time at which the wait began.
    silent: Option<Instant>,
}

/// A slot. Dropping the value frees the slot.
#[derive(Debug)]
pub struct Slot {
    pool: Arc<SlotPool>,
    number: u64,
}

/// A caller that waits for a slot.
struct Waiting<'a>(&'a SlotPool, &'a str);

impl SlotPool {
    /// A pool in which all slots are free.
    pub fn new(sharing: Sharing) -> Arc<Self> {
        Arc::new(Self { sharing, taken: Mutex::default(), freed: Notify::new() })
    }

    /// Takes a slot for `key`, if a slot is free or can be taken from a silent client.
    pub fn try_take(self: &Arc<Self>, key: &str) -> Option<Slot> {
        self.try_take_at(key, Instant::now())
    }

    fn try_take_at(self: &Arc<Self>, key: &str, now: Instant) -> Option<Slot> {
        let Sharing { silence, .. } = self.sharing;
        let mut taken = self.taken();
        while !taken.has_room(key, self.sharing) {
            // A key that already has its full share can take a slot from a silent client only if
            // that client has the same key.
            let own = taken.of_key(key) >= self.sharing.share;
            let slots = taken.slots.iter().filter(|(_, slot)| !own || slot.key == key);
            let silent = slots.filter_map(|(number, slot)| Some((slot.silent?, *number)));
            let (since, number) = silent.min()?;
            if now.duration_since(since) < silence {
                return None;
            }
            taken.slots.remove(&number);
        }
        let number = taken.next;
        taken.next += 1;
        taken.slots.insert(number, Holder { key: key.to_owned(), silent: None });
        Some(Slot { pool: Arc::clone(self), number })
    }

    /// Waits for a slot for `key`.
    pub async fn take(self: &Arc<Self>, key: &str) -> Slot {
        let _waiting = Waiting::new(self, key);
        loop {
            let freed = self.freed.notified();
            if let Some(slot) = self.try_take(key) {
                return slot;
            }
            // The wait has a time limit, because no event reports that a client has become silent.
            let _ = timeout(CHECK_EVERY, freed).await;
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn of_key(&self, key: &str) -> usize {
        self.slots.values().filter(|slot| slot.key == key).count()
    }

    fn has_room(&self, key: &str, sharing: Sharing) -> bool {
        let Sharing { most, share, reserve, .. } = sharing;
        let all = self.slots.len();
        let others_wait = || self.waiting.keys().any(|waiting| waiting != key);
        all < most && (self.of_key(key) < share || (all + reserve < most && !others_wait()))
    }
}

impl Slot {
    /// Records that the work waits for its client from now on.
    pub fn waits_for_client(&self) {
        if let Some(slot) = self.pool.taken().slots.get_mut(&self.number) {
            slot.silent.get_or_insert_with(Instant::now);
        }
    }

    /// Records that the client has sent something. Returns whether the client still has the slot.
    pub fn client_sent(&self) -> bool {
        let mut taken = self.pool.taken();
        let slot = taken.slots.get_mut(&self.number);
        slot.is_some_and(|slot| {
            slot.silent = None;
            true
        })
    }

    /// Whether the client has lost its slot to another client.
    pub fn is_lost(&self) -> bool {
        !self.pool.taken().slots.contains_key(&self.number)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.pool.taken().slots.remove(&self.number);
        self.pool.freed.notify_waiters();
    }
}

impl<'a> Waiting<'a> {
    fn new(pool: &'a SlotPool, key: &'a str) -> Self {
        *pool.taken().waiting.entry(key.to_owned()).or_insert(0) += 1;
        Self(pool, key)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut taken = self.0.taken();
        if let Some(count) = taken.waiting.get_mut(self.1) {
            *count -= 1;
            if *count == 0 {
                taken.waiting.remove(self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(10);

    fn pool(most: usize, share: usize, reserve: usize) -> Arc<SlotPool> {
        SlotPool::new(Sharing { most, share, reserve, silence: SILENCE })
    }

    #[test]
    fn key_beyond_its_share_leaves_slots_to_other_keys() {
        let pool = pool(8, 2, 2);
        let mut of_one: Vec<_> = (0..6).map(|_| pool.try_take("one").unwrap()).collect();
        assert!(pool.try_take("one").is_none());
        let of_two: Vec<_> = (0..2).map(|_| pool.try_take("two").unwrap()).collect();
        assert!(pool.try_take("three").is_none());
        of_one.pop();
        assert!(pool.try_take("one").is_none() && pool.try_take("three").is_some());
        drop((of_one, of_two));
        assert!(pool.taken().slots.is_empty());
    }

    #[test]
    fn longest_silent_client_loses_its_slot_first() {
        let pool = pool(2, 1, 0);
        let (one, two) = (pool.try_take("one").unwrap(), pool.try_take("one").unwrap());
        let later = Instant::now() + SILENCE;
        assert!(pool.try_take_at("two", later).is_none(), "both clients are sending");
        one.waits_for_client();
        two.waits_for_client();
        assert!(pool.try_take("two").is_none(), "both clients have been silent only for a moment");
        let later = Instant::now() + SILENCE;
        let new = pool.try_take_at("two", later).unwrap();
        assert!(one.is_lost() && !one.client_sent() && two.client_sent() && !new.is_lost());
        drop(one);
        assert_eq!(pool.taken().slots.len(), 2);
    }

    #[tokio::test]
    async fn key_beyond_its_share_waits_behind_other_keys() {
        let pool = pool(2, 1, 0);
        let (first, second) = (pool.take("one").await, pool.take("one").await);
        let mut third = Box::pin(pool.take("one"));
        let mut other = Box::pin(pool.take("two"));
        let at_once = Duration::from_millis(10);
        assert!(timeout(at_once, &mut third).await.is_err());
        assert!(timeout(at_once, &mut other).await.is_err());
        drop(first);
        assert!(timeout(at_once, &mut third).await.is_err());
        let other = timeout(SILENCE, &mut other).await.unwrap();
        drop(second);
        assert!(timeout(SILENCE, &mut third).await.is_ok());
        drop(other);
    }
}
