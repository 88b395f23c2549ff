//! What sweeps leave: the current root and those of before, the layers of what is
//! deployed, of what is to be deployed, and of the roots that stay.

use std::time::{Duration, SystemTime};

use deploy_store::{Ages, Configuration, Digest, Keep};

/// Age at which what nothing uses goes from the cache by itself.
const CACHE_AGE: Duration = Duration::from_secs(60 * 60);
/// Age at which what was set aside as damaged goes by itself.
const QUARANTINE_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is in use.
#[derive(Debug, Clone, Default)]
pub struct Retention {
    /// What is deployed.
    pub current: Option<Configuration>,
    /// What was deployed before.
    pub previous: Option<Configuration>,
    /// What is to be deployed: its script failed, or it is on its way.
    pub pending: Option<Configuration>,
    /// Roots to keep, at least 1.
    pub keep_roots: usize,
    /// Whether blobs of extracted layers stay.
    pub keep_blobs: bool,
    /// Whether no service can run any more in roots that others were built in the place of.
    pub replaced: bool,
    /// What becomes of the roots of another program.
    pub taken_over: TakenOver,
}

/// What becomes of roots that another program made, as the Go agent, which kept all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TakenOver {
    /// They stay: nobody said anything.
    #[default]
    Stay,
    /// They count as others do, and are older: somebody said how many roots to keep. Oldest first.
    Count(Vec<Digest>),
    /// They go.
    Go,
}

impl Retention {
    /// What gc leaves: it takes all else, whatever its age, but for downloads that may
    /// go on. `published` are the roots, oldest first.
    pub fn at_once(&self, published: &[Digest], now: SystemTime) -> Keep {
        let ages =
            Ages { downloads: Some(before(now, CACHE_AGE)), leftovers: true, ..Ages::default() };
        Keep { cache: Some(ages), weigh: true, ..self.roots_only(published) }
    }

    /// What the sweeps leave that an agent does by itself: also what is young.
    pub fn aged(&self, published: &[Digest], now: SystemTime) -> Keep {
        let cache = Some(before(now, CACHE_AGE));
        let quarantine = Some(before(now, QUARANTINE_AGE));
        let ages = Ages { cache, downloads: cache, quarantine, leftovers: false };
        // Roots go after a deploy only.
        Keep { roots: None, replaced: false, cache: Some(ages), ..self.roots_only(published) }
    }

    /// What goes when room is wanted: all but `roots` roots, the cache whatever its age.
    pub fn for_room(&self, published: &[Digest], roots: usize, now: SystemTime) -> Keep {
        let fewer = Self { keep_roots: roots, ..self.clone() };
        let keep = fewer.at_once(published, now);
        let ages = keep.cache.map(|ages| Ages { leftovers: false, ..ages });
        Keep { cache: ages, replaced: false, ..keep }
    }

    /// What a sweep of roots leaves: not the cache's concern.
    pub fn roots_only(&self, published: &[Digest]) -> Keep {
        let named = [
            (&self.current, "what is deployed"),
            (&self.pending, "what is to be deployed"),
            (&self.previous, "what was deployed before"),
        ];
        // Without its root what was deployed before goes as its layers age.
        let rooted = |configuration: &Configuration| {
            self.keep_roots > 1 || Some(configuration.id()) != id(self.previous.as_ref())
        };
        let configurations = named.into_iter().filter_map(|(configuration, why)| {
            configuration.clone().filter(rooted).map(|configuration| (configuration, why))
        });
        Keep {
            configurations: configurations.collect(),
            roots: self.roots(published),
            replaced: self.replaced,
            taken_over: self.taken_over != TakenOver::Stay,
            cache: None,
            keep_blobs: self.keep_blobs,
            weigh: false,
        }
    }

    /// The roots to keep: the current one, the one to come, the one before, then the
    /// newest. All, where the current one is not known, or is not here: then the state may
    /// be another agent's.
    fn roots(&self, published: &[Digest]) -> Option<Vec<(Digest, &'static str)>> {
        let current = id(self.current.as_ref()).filter(|id| published.contains(id))?;
        let mut kept = vec![(current, "current")];
        // It takes no other's place: soon it is the current one, or it goes.
        let pending = id(self.pending.as_ref()).filter(|id| *id != current);
        let count = self.keep_roots + usize::from(pending.is_some());
        kept.extend(pending.map(|id| (id, "to be deployed")));
        let previous = id(self.previous.as_ref()).map(|id| (id, "previous"));
        let older = match &self.taken_over {
            TakenOver::Count(older) => &older[..],
            TakenOver::Stay | TakenOver::Go => &[],
        };
        let newest = published.iter().rev().chain(older.iter().rev());
        let newest = newest.map(|id| (*id, "one of the newest"));
        for (id, why) in previous.into_iter().chain(newest) {
            if kept.len() < count && kept.iter().all(|(kept, _)| *kept != id) {
                kept.push((id, why));
            }
        }
        Some(kept)
    }
}

fn id(configuration: Option<&Configuration>) -> Option<Digest> {
    configuration.map(Configuration::id)
}

fn before(now: SystemTime, age: Duration) -> SystemTime {
    now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use deploy_store::Layer;

    use super::*;

    fn configuration(text: &str) -> Configuration {
        let now = "2026-11-23T03:49:00Z".parse().unwrap();
        let digest = Digest::of(text.as_bytes());
        let (component, version) = ("code".parse().unwrap(), "v1".parse().unwrap());
        let layer = Layer { component, version, digest, created: now };
        Configuration::new("p".parse().unwrap(), vec![layer], now).unwrap()
    }

    #[test]
    fn the_current_root_and_the_one_before_come_first() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(configuration);
        let ids = [&a, &b, &c, &d].map(Configuration::id);
        let kept = |current: &Configuration, previous: Option<&Configuration>, keep_roots| {
            let (current, previous) = (Some(current.clone()), previous.cloned());
            let needs = Retention { current, previous, keep_roots, ..Retention::default() };
            let roots = needs.roots(&ids).unwrap().into_iter();
            roots.map(|(id, _)| ids.iter().position(|it| *it == id).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(kept(&d, Some(&c), 2), [3, 2]);
        assert_eq!(kept(&a, Some(&c), 2), [0, 2]);
        assert_eq!(kept(&a, Some(&c), 3), [0, 2, 3]);
        assert_eq!(kept(&d, Some(&c), 1), [3]);
        assert_eq!(kept(&d, Some(&d), 2), [3, 2]);
        assert_eq!(kept(&d, None, 9), [3, 2, 1, 0]);
    }

    #[test]
    fn what_another_program_made_stays_until_somebody_says_otherwise() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(configuration);
        let needs = |taken_over| Retention {
            current: Some(a.clone()),
            previous: Some(b.clone()),
            keep_roots: 3,
            taken_over,
            ..Retention::default()
        };
        let published = [b.id(), a.id()];
        let stay = needs(TakenOver::Stay).roots_only(&published);
        assert!(!stay.taken_over && stay.roots.unwrap().len() == 2);
        let count = needs(TakenOver::Count(vec![c.id(), d.id()])).roots_only(&published);
        let kept: Vec<Digest> = count.roots.unwrap().into_iter().map(|(id, _)| id).collect();
        assert!(count.taken_over && kept == [a.id(), b.id(), d.id()]);
        let go = needs(TakenOver::Go).roots_only(&published);
        assert!(go.taken_over && go.roots.unwrap().len() == 2);
    }

    #[test]
    fn what_is_to_come_stays_beside_the_others_and_without_a_state_all_stays() {
        let [a, b, c] = ["a", "b", "c"].map(configuration);
        let needs = Retention {
            current: Some(a.clone()),
            previous: Some(b.clone()),
            pending: Some(c.clone()),
            keep_roots: 1,
            ..Retention::default()
        };
        let keep = needs.roots_only(&[a.id()]);
        assert_eq!(keep.roots, Some(vec![(a.id(), "current"), (c.id(), "to be deployed")]));
        let kept: Vec<Digest> = keep.configurations.iter().map(|(it, _)| it.id()).collect();
        assert_eq!(kept, [a.id(), c.id()], "with one root the one before leaves its layers");
        let needs = Retention { keep_roots: 2, ..needs };
        assert_eq!(needs.roots_only(&[a.id()]).configurations.len(), 3);
        assert_eq!(needs.roots_only(&[b.id()]).roots, None, "the current one is not here");
        assert_eq!(Retention { current: None, ..needs }.roots_only(&[a.id()]).roots, None);
    }
}
