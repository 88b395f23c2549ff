//! Places of what waits for its client, as uploads and imports do: shared among keys, and given
//! to others while their client sends nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

/// How often whoever waits looks whether somebody has fallen silent.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How places are shared.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// Places in all.
    pub most: usize,
    /// Those that a key gets even where others want them.
    pub share: usize,
    /// Those that nobody gets beyond their share.
    pub reserve: usize,
    /// Whose client has sent nothing for this long gives way to others.
    pub silence: Duration,
}

/// The places of one kind.
#[derive(Debug)]
pub struct Places {
    sharing: Sharing,
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    slots: HashMap<u64, Slot>,
    /// How many of each key wait for a place.
    waiting: HashMap<String, usize>,
}

#[derive(Debug)]
struct Slot {
    key: String,
    /// Since when its client is waited for, if it is.
    silent: Option<Instant>,
}

/// A place; free again when dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    number: u64,
}

/// Somebody who waits for a place.
struct Waiting<'a>(&'a Places, &'a str);

impl Places {
    /// All of them free.
    pub fn new(sharing: Sharing) -> Arc<Self> {
        Arc::new(Self { sharing, taken: Mutex::default(), freed: Notify::new() })
    }

    /// A place for `key`, if there is one, or somebody has to give way.
    pub fn try_enter(self: &Arc<Self>, key: &str) -> Option<Place> {
        self.try_enter_at(key, Instant::now())
    }

    fn try_enter_at(self: &Arc<Self>, key: &str, now: Instant) -> Option<Place> {
        let Sharing { silence, .. } = self.sharing;
        let mut taken = self.taken();
        while !taken.has_room(key, self.sharing) {
            // Who has all that is theirs can only take it from themselves.
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
        taken.slots.insert(number, Slot { key: key.to_owned(), silent: None });
        Some(Place { places: Arc::clone(self), number })
    }

    /// Waits for a place for `key`.
    pub async fn enter(self: &Arc<Self>, key: &str) -> Place {
        let _waiting = Waiting::new(self, key);
        loop {
            let freed = self.freed.notified();
            if let Some(place) = self.try_enter(key) {
                return place;
            }
            // Whoever falls silent does not tell.
            let _ = timeout(LOOK_EVERY, freed).await;
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

impl Place {
    /// From now on its client is waited for.
    pub fn waits(&self) {
        if let Some(slot) = self.places.taken().slots.get_mut(&self.number) {
            slot.silent.get_or_insert_with(Instant::now);
        }
    }

    /// The client has sent something. Whether the place is still there, and not somebody else's.
    pub fn moved(&self) -> bool {
        let mut taken = self.places.taken();
        let slot = taken.slots.get_mut(&self.number);
        slot.is_some_and(|slot| {
            slot.silent = None;
            true
        })
    }

    /// Whether the place is somebody else's by now.
    pub fn is_lost(&self) -> bool {
        !self.places.taken().slots.contains_key(&self.number)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().slots.remove(&self.number);
        self.places.freed.notify_waiters();
    }
}

impl<'a> Waiting<'a> {
    fn new(places: &'a Places, key: &'a str) -> Self {
        *places.taken().waiting.entry(key.to_owned()).or_insert(0) += 1;
        Self(places, key)
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

    fn places(most: usize, share: usize, reserve: usize) -> Arc<Places> {
        Places::new(Sharing { most, share, reserve, silence: SILENCE })
    }

    #[test]
    fn one_key_leaves_a_part_to_others() {
        let places = places(8, 2, 2);
        let mut of_one: Vec<_> = (0..6).map(|_| places.try_enter("one").unwrap()).collect();
        assert!(places.try_enter("one").is_none());
        let of_two: Vec<_> = (0..2).map(|_| places.try_enter("two").unwrap()).collect();
        assert!(places.try_enter("three").is_none());
        of_one.pop();
        assert!(places.try_enter("one").is_none() && places.try_enter("three").is_some());
        drop((of_one, of_two));
        assert!(places.taken().slots.is_empty());
    }

    #[test]
    fn who_is_silent_gives_way_to_others_the_longest_first() {
        let places = places(2, 1, 0);
        let (one, two) = (places.try_enter("one").unwrap(), places.try_enter("one").unwrap());
        let later = Instant::now() + SILENCE;
        assert!(places.try_enter_at("two", later).is_none(), "both are at work");
        one.waits();
        two.waits();
        assert!(places.try_enter("two").is_none(), "not for long yet");
        let later = Instant::now() + SILENCE;
        let new = places.try_enter_at("two", later).unwrap();
        assert!(one.is_lost() && !one.moved() && two.moved() && !new.is_lost());
        drop(one);
        assert_eq!(places.taken().slots.len(), 2);
    }

    #[tokio::test]
    async fn beyond_its_share_a_key_comes_after_others_that_wait() {
        let places = places(2, 1, 0);
        let (first, second) = (places.enter("one").await, places.enter("one").await);
        let mut third = Box::pin(places.enter("one"));
        let mut other = Box::pin(places.enter("two"));
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
