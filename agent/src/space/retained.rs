//! Decides which data sweeps retain: the current root and earlier roots, and the layers of the
//! deployed configuration, of the pending configuration, and of the retained roots.

use std::time::{Duration, SystemTime};

use deploy_store::{Ages, Configuration, Digest, Keep};

/// Minimum age of unused cache that the agent's regular sweeps remove.
const CACHE_AGE: Duration = Duration::from_secs(60 * 60);
/// Minimum age of quarantined files that the agent's regular sweeps remove.
const QUARANTINE_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The configurations in use, and the amount of other data to keep.
#[derive(Debug, Clone, Default)]
pub struct Retention {
    /// The deployed configuration.
    pub current: Option<Configuration>,
    /// The previous configuration.
    pub previous: Option<Configuration>,
    /// The pending configuration, which the agent is deploying, or whose script failed.
    pub pending: Option<Configuration>,
    /// Number of roots to keep, at least 1.
    pub keep_roots: usize,
    /// Whether the cache keeps the blob of a layer after the layer is extracted.
    pub keep_blobs: bool,
    /// Whether replaced roots can be removed, because no service can run in them any more.
    pub replaced: bool,
    /// What a sweep does with roots that another program made.
    pub taken_over: TakenOver,
}

/// What a sweep does with the roots of another program, for example with those of the Go agent,
/// which kept all roots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TakenOver {
    /// The sweep keeps these roots, because no flag says otherwise.
    #[default]
    Keep,
    /// These roots count among the roots to keep, because the user gave the number of roots to
    /// keep. The value lists the ids of the roots, oldest first. These roots count as older than
    /// all other roots.
    Count(Vec<Digest>),
    /// The sweep removes these roots.
    Remove,
}

impl Retention {
    /// The data that `gc` keeps. `gc` removes all other data of any age, except for downloads that
    /// may be resumed and are younger than an hour. `published` lists the published roots, oldest
    /// first.
    pub fn at_once(&self, published: &[Digest], now: SystemTime) -> Keep {
        let ages =
            Ages { downloads: Some(before(now, CACHE_AGE)), leftovers: true, ..Ages::default() };
        Keep { cache: Some(ages), weigh: true, ..self.roots_only(published) }
    }

    /// The data that the agent's regular sweeps of the cache keep. These sweeps also keep unused
    /// data that is younger than an hour, and quarantined files that are younger than a week.
    pub fn aged(&self, published: &[Digest], now: SystemTime) -> Keep {
        let cache = Some(before(now, CACHE_AGE));
        let quarantine = Some(before(now, QUARANTINE_AGE));
        let ages = Ages { cache, downloads: cache, quarantine, leftovers: false };
        // These sweeps keep all roots. Only sweeps of roots, and sweeps that make room, remove
        // roots.
        Keep { roots: None, replaced: false, cache: Some(ages), ..self.roots_only(published) }
    }

    /// The data that a sweep keeps when the agent needs room: `roots` roots, and no unused cache of
    /// any age.
    pub fn for_room(&self, published: &[Digest], roots: usize, now: SystemTime) -> Keep {
        let fewer = Self { keep_roots: roots, ..self.clone() };
        let keep = fewer.at_once(published, now);
        let ages = keep.cache.map(|ages| Ages { leftovers: false, ..ages });
        Keep { cache: ages, replaced: false, ..keep }
    }

    /// The data that a sweep of roots keeps. Such a sweep does not sweep the cache.
    pub fn roots_only(&self, published: &[Digest]) -> Keep {
        let named = [
            (&self.current, "the deployed configuration"),
            (&self.pending, "the configuration to be deployed"),
            (&self.previous, "the previous configuration"),
        ];
        // The sweep keeps the layers of the previous configuration only if it keeps the previous
        // root.
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
            taken_over: self.taken_over != TakenOver::Keep,
            cache: None,
            keep_blobs: self.keep_blobs,
            weigh: false,
        }
    }

    /// The roots to keep: the current root, the pending root, the previous root, then the newest
    /// roots. The result `None` means that the sweep keeps all roots, because the current root is
    /// unknown or does not exist. In this case, the state file may belong to another agent.
    fn roots(&self, published: &[Digest]) -> Option<Vec<(Digest, &'static str)>> {
        let current = id(self.current.as_ref()).filter(|id| published.contains(id))?;
        let mut kept = vec![(current, "current")];
        // The pending root does not count towards `keep_roots`, because it soon becomes the current
        // root or is removed.
        let pending = id(self.pending.as_ref()).filter(|id| *id != current);
        let count = self.keep_roots + usize::from(pending.is_some());
        kept.extend(pending.map(|id| (id, "to be deployed")));
        let previous = id(self.previous.as_ref()).map(|id| (id, "previous"));
        let older = match &self.taken_over {
            TakenOver::Count(older) => &older[..],
            TakenOver::Keep | TakenOver::Remove => &[],
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
    fn current_and_previous_root_come_first() {
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
    fn roots_of_another_program_are_kept_unless_a_flag_says_otherwise() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(configuration);
        let needs = |taken_over| Retention {
            current: Some(a.clone()),
            previous: Some(b.clone()),
            keep_roots: 3,
            taken_over,
            ..Retention::default()
        };
        let published = [b.id(), a.id()];
        let keep = needs(TakenOver::Keep).roots_only(&published);
        assert!(!keep.taken_over && keep.roots.unwrap().len() == 2);
        let count = needs(TakenOver::Count(vec![c.id(), d.id()])).roots_only(&published);
        let kept: Vec<Digest> = count.roots.unwrap().into_iter().map(|(id, _)| id).collect();
        assert!(count.taken_over && kept == [a.id(), b.id(), d.id()]);
        let remove = needs(TakenOver::Remove).roots_only(&published);
        assert!(remove.taken_over && remove.roots.unwrap().len() == 2);
    }

    #[test]
    fn pending_root_is_kept_in_addition_and_all_roots_are_kept_without_a_current_root() {
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
        assert_eq!(
            kept,
            [a.id(), c.id()],
            "if one root is kept, the layers of the previous configuration are not kept"
        );
        let needs = Retention { keep_roots: 2, ..needs };
        assert_eq!(needs.roots_only(&[a.id()]).configurations.len(), 3);
        assert_eq!(needs.roots_only(&[b.id()]).roots, None, "the current root does not exist");
        assert_eq!(Retention { current: None, ..needs }.roots_only(&[a.id()]).roots, None);
    }
}
