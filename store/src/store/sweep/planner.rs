//! Plans a sweep. From the existing files and the rules of the sweep, the planner decides which
//! files to remove, and states the reasons. The planner uses an [`Inventory`], and does not use the
//! disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::inventory::{Aside, File, FoundRoot, Inventory, Record};
use super::keep::{Ages, Keep};
use super::removals::{Kept, Removal, Sweep, What};
use crate::config::Configuration;
use crate::digest::Digest;

/// The length of the part of an object's name that the index of a layer determines. The number of a
/// twin (a further object for equal files) follows this part.
const BASE: usize = 64 + 1 + 32;

/// The layers that are kept, each with the reason.
pub(super) fn kept_layers(inventory: &Inventory, keep: &Keep) -> BTreeMap<Digest, String> {
    let mut kept = BTreeMap::new();
    let mut add = |configuration: &Configuration, why: &str| {
        for layer in configuration.layers() {
            kept.entry(layer.digest).or_insert_with(|| format!("layer of {why}"));
        }
    };
    for (configuration, why) in &keep.configurations {
        add(configuration, why);
    }
    // A record whose root was removed by hand keeps no layers.
    for root in inventory.roots.iter().filter(|root| root.is_there) {
        if let (Record::Of(configuration), true) = (&root.record, stays(root, keep).is_some()) {
            add(configuration, &format!("root {}", root.id));
        }
    }
    let young = keep.cache.and_then(|ages| ages.cache).map(seconds);
    for (digest, file) in &inventory.layers {
        if keep.cache.is_none() || young.is_some_and(|before| file.changed >= before) {
            kept.entry(*digest).or_insert_with(|| "it is new".to_owned());
        }
    }
    kept
}

/// The reason for which a root of another program is kept.
const TAKEN_OVER: &str = "it was here before this agent; gc -taken-over removes it";

/// The reason for which the root is kept; `None` if the root is not kept.
fn stays(root: &FoundRoot, keep: &Keep) -> Option<String> {
    let Some(roots) = &keep.roots else { return Some("roots are not swept".to_owned()) };
    let named = roots.iter().find(|(kept, _)| *kept == root.id).map(|(_, why)| *why);
    let taken_over = root.record == Record::None && !keep.taken_over;
    let why = named.or_else(|| taken_over.then_some(TAKEN_OVER)).map(str::to_owned);
    why.or_else(|| root.mounted.clone())
}

/// Makes the plan. `layers` has the kept layers. `needed` has the names of the objects of these
/// layers, or the reason why these names are not known.
pub(super) fn plan(
    inventory: &Inventory,
    keep: &Keep,
    layers: &BTreeMap<Digest, String>,
    needed: &Result<BTreeSet<Vec<u8>>, String>,
) -> Sweep {
    let mut planner = Planner { plan: Sweep::default(), names: HashMap::new() };
    planner.roots(inventory, keep);
    if let Some(ages) = keep.cache {
        planner.records(inventory, keep);
        planner.layers(inventory, layers);
        planner.objects(inventory, ages, needed);
        planner.blobs(inventory, ages, layers, keep.keep_blobs);
        planner.downloads(inventory, ages, layers);
        planner.rest(inventory, ages);
    }
    planner.plan
}

/// The reason for which a layer or blob is removed.
const UNNEEDED: &str = "no kept configuration or root needs it";

/// Whether a file that changed at the time `changed` is old enough to be removed, that is, older
/// than `before`.
fn old(changed: i64, before: Option<SystemTime>) -> bool {
    before.is_none_or(|before| changed < seconds(before))
}

fn seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

struct Planner {
    plan: Sweep,
    /// For each inode, the number of its names that the plan removes so far.
    names: HashMap<(u64, u64), u64>,
}

impl Planner {
    fn remove(&mut self, what: What, path: PathBuf, why: &'static str, files: &[File]) {
        let mut bytes = 0;
        for file in files {
            let names = self.names.entry(file.inode).or_insert(0);
            *names += 1;
            if *names == file.links {
                bytes += file.bytes;
            }
        }
        self.plan.removals.push(Removal { what, path, why, files: files.len() as u64, bytes });
    }

    fn keep(&mut self, what: What, path: PathBuf, why: &str, bytes: u64) {
        self.plan.kept.push(Kept { what, path, why: why.to_owned(), count: 1, bytes });
    }

    fn stuck(&mut self, what: What, path: PathBuf, why: String) {
        self.plan.stuck.push(Kept { what, path, why, count: 1, bytes: 0 });
    }

    fn roots(&mut self, inventory: &Inventory, keep: &Keep) {
        for root in inventory.roots.iter().filter(|root| root.is_there) {
            let path = Path::new("unpacked").join(root.id.to_string());
            match stays(root, keep) {
                Some(why) if root.mounted.is_some() => self.stuck(What::Root, path, why),
                Some(why) => self.keep(What::Root, path, &why, 0),
                None => self.remove(What::Root, path, "no rule keeps this root", &root.files),
            }
        }
        for Aside { path, replaced, mounted, files } in &inventory.asides {
            let path = path.clone();
            match mounted {
                _ if *replaced && !keep.replaced => {
                    let why = "it was replaced, and a service may run in it";
                    self.keep(What::Leftover, path, why, 0);
                }
                Some(why) => self.stuck(What::Leftover, path, why.clone()),
                None if *replaced => self.remove(What::Leftover, path, "it was replaced", files),
                None => self.remove(What::Leftover, path, "it is unfinished work", files),
            }
        }
        if let Some(name) = &inventory.spare {
            let path = Path::new("unpacked").join(&*name.to_string_lossy());
            self.keep(What::Spare, path, "the agent makes the next root from it", 0);
        }
    }

    /// Plans the removal of records without a root, and of unreadable records, which a crash may
    /// have left. A root whose record is removed counts as a root of another program afterwards.
    fn records(&mut self, inventory: &Inventory, keep: &Keep) {
        for root in &inventory.roots {
            let path = Path::new("roots").join(root.id.to_string());
            // If the root is also removed, the record is removed with the root.
            let alone = !root.is_there || stays(root, keep).is_some();
            let why = match (&root.record, root.is_there) {
                (Record::Unreadable, _) if alone => "it cannot be read",
                (Record::Of(_), false) => "its root does not exist",
                _ => continue,
            };
            self.remove(What::Record, path, why, &root.record_file);
        }
    }

    fn layers(&mut self, inventory: &Inventory, kept: &BTreeMap<Digest, String>) {
        for (digest, file) in &inventory.layers {
            let path = Path::new("layers").join(digest.to_string());
            match kept.get(digest) {
                Some(why) => self.keep(What::Layer, path, why, file.bytes),
                None => self.remove(What::Layer, path, UNNEEDED, &[*file]),
            }
        }
    }

    fn objects(
        &mut self,
        inventory: &Inventory,
        ages: Ages,
        needed: &Result<BTreeSet<Vec<u8>>, String>,
    ) {
        let mut kept: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for (name, file) in &inventory.objects {
            let bytes = name.to_bytes();
            let base = &bytes[..bytes.len().min(BASE)];
            let why = match needed {
                Err(why) => why,
                Ok(needed) if needed.contains(base) => "file of a layer that is kept",
                Ok(_) if !old(file.changed, ages.cache) => "it is new",
                Ok(_) => {
                    let fan = String::from_utf8_lossy(&bytes[..2]);
                    let path = Path::new("objects").join(&*fan).join(&*name.to_string_lossy());
                    self.remove(What::Object, path, "no kept layer uses it", &[*file]);
                    continue;
                }
            };
            let (count, bytes) = kept.entry(why).or_default();
            (*count, *bytes) = (*count + 1, *bytes + file.bytes);
        }
        // The objects are counted together by reason, because there may be a million objects.
        self.plan.kept.extend(kept.into_iter().map(|(why, (count, bytes))| Kept {
            what: What::Object,
            path: PathBuf::from("objects"),
            why: why.to_owned(),
            count,
            bytes,
        }));
    }

    fn blobs(
        &mut self,
        inventory: &Inventory,
        ages: Ages,
        layers: &BTreeMap<Digest, String>,
        keep_blobs: bool,
    ) {
        let extracted: BTreeSet<Digest> =
            inventory.layers.iter().map(|(digest, _)| *digest).collect();
        for (digest, file) in &inventory.blobs {
            let path = Path::new("cache").join(digest.to_string());
            let (wanted, is_extracted) = (layers.get(digest), extracted.contains(digest));
            match wanted {
                Some(why) if keep_blobs || !is_extracted => {
                    self.keep(What::Blob, path, why, file.bytes);
                }
                _ if !old(file.changed, ages.cache) => {
                    self.keep(What::Blob, path, "it is new", file.bytes);
                }
                Some(_) => self.remove(What::Blob, path, "it is extracted", &[*file]),
                None => self.remove(What::Blob, path, UNNEEDED, &[*file]),
            }
        }
    }

    fn downloads(&mut self, inventory: &Inventory, ages: Ages, layers: &BTreeMap<Digest, String>) {
        for (name, file, abandoned) in &inventory.downloads {
            let path = Path::new("partial").join(&*name.to_string_lossy());
            let digest = name.to_str().ok().and_then(|name| name.rsplit('-').next()?.parse().ok());
            if let Some(why) = digest.and_then(|digest: Digest| layers.get(&digest)) {
                self.keep(What::Download, path, why, file.bytes);
            } else if *abandoned || old(file.changed, ages.downloads) {
                self.remove(What::Download, path, "no agent continues it", &[*file]);
            } else {
                self.keep(What::Download, path, "a download that may continue", file.bytes);
            }
        }
    }

    fn rest(&mut self, inventory: &Inventory, ages: Ages) {
        for (path, files) in &inventory.leftovers {
            self.remove(What::Leftover, path.clone(), "it is unfinished work", files);
        }
        for (name, changed, files) in &inventory.quarantine {
            let path = Path::new("quarantine").join(&*name.to_string_lossy());
            if old(*changed, ages.quarantine) {
                self.remove(What::Quarantined, path, "it was damaged", files);
            } else {
                let bytes = files.iter().map(|file| file.bytes).sum();
                self.keep(What::Quarantined, path, "for inspection", bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::time::Duration;

    use super::*;

    fn file(inode: u64, links: u64, bytes: u64) -> File {
        File { inode: (1, inode), links, bytes, changed: 1000 }
    }

    fn object(digit: &str, file: File) -> (CString, File) {
        (CString::new(digit.repeat(64)).unwrap(), file)
    }

    fn at_once() -> Keep {
        let (roots, cache) = (Some(Vec::new()), Some(Ages::default()));
        Keep { roots, cache, taken_over: true, ..Keep::default() }
    }

    fn planned(inventory: &Inventory, keep: &Keep, needed: &[&str]) -> Sweep {
        let needed = needed.iter().map(|digit| digit.repeat(64).into_bytes()).collect();
        plan(inventory, keep, &kept_layers(inventory, keep), &Ok(needed))
    }

    #[test]
    fn bytes_are_freed_only_with_the_last_name() {
        let root = FoundRoot {
            id: Digest::of(b"root"),
            record: Record::None,
            record_file: Vec::new(),
            is_there: true,
            files: vec![file(1, 2, 10), file(2, 2, 20), file(3, 1, 40)],
            mounted: None,
        };
        let inventory = Inventory {
            roots: vec![root],
            objects: vec![object("a", file(1, 2, 10)), object("b", file(2, 2, 20))],
            ..Inventory::default()
        };
        // The object b belongs to a kept layer, so the removal of its name in the root frees
        // nothing.
        let plan = planned(&inventory, &at_once(), &["b"]);
        let freed: Vec<(What, u64, u64)> =
            plan.removals.iter().map(|it| (it.what, it.files, it.bytes)).collect();
        assert_eq!(freed, [(What::Root, 3, 40), (What::Object, 1, 10)]);
        assert_eq!((plan.files(), plan.bytes()), (4, 50));
        // A kept root keeps the bytes of its objects, even if another program made the root.
        for keep in [Keep { roots: None, ..at_once() }, Keep { taken_over: false, ..at_once() }] {
            let plan = planned(&inventory, &keep, &[]);
            assert_eq!((plan.files(), plan.bytes()), (2, 0));
        }
    }

    #[test]
    fn root_with_a_mount_is_kept_with_its_layers() {
        let now = "2026-11-23T03:49:00Z".parse().unwrap();
        let digest = Digest::of(b"layer");
        let (component, version) = ("code".parse().unwrap(), "v1".parse().unwrap());
        let layer = crate::config::Layer { component, version, digest, created: now };
        let configuration = Configuration::new("p".parse().unwrap(), vec![layer], now).unwrap();
        let mut inventory = Inventory {
            roots: vec![FoundRoot {
                id: configuration.id(),
                record: Record::Of(configuration),
                record_file: Vec::new(),
                is_there: true,
                files: Vec::new(),
                mounted: Some("something is mounted on /data".to_owned()),
            }],
            layers: vec![(digest, file(1, 1, 1))],
            ..Inventory::default()
        };
        let plan = planned(&inventory, &at_once(), &[]);
        assert_eq!((&plan.removals[..], plan.stuck.len()), (&[][..], 1));
        assert!(plan.stuck[0].why.contains("/data"));
        inventory.roots[0].mounted = None;
        assert_eq!(planned(&inventory, &at_once(), &[]).removals.len(), 2);
    }

    #[test]
    fn replaced_root_is_removed_only_when_allowed() {
        let aside = |replaced| Aside {
            path: "unpacked/.x".into(),
            replaced,
            mounted: None,
            files: Vec::new(),
        };
        let inventory =
            Inventory { asides: vec![aside(true), aside(false)], ..Inventory::default() };
        let removed = |replaced| {
            planned(&inventory, &Keep { replaced, ..at_once() }, &[]).count(What::Leftover)
        };
        assert_eq!((removed(false), removed(true)), (1, 2));
    }

    #[test]
    fn unreadable_index_keeps_all_objects() {
        let objects = vec![object("a", file(1, 1, 10))];
        let inventory = Inventory { objects, ..Inventory::default() };
        let unknown = Err("the index cannot be read".to_owned());
        let plan = plan(&inventory, &at_once(), &BTreeMap::new(), &unknown);
        assert_eq!(plan.removals, []);
        assert_eq!(plan.kept[0].why, "the index cannot be read");
    }

    #[test]
    fn young_data_is_kept() {
        let digest = Digest::of(b"layer");
        let inventory = Inventory {
            layers: vec![(digest, file(1, 1, 1))],
            blobs: vec![(digest, file(2, 1, 1))],
            objects: vec![object("a", file(3, 1, 1))],
            downloads: vec![(CString::from(c"partial-x"), file(4, 1, 1), false)],
            quarantine: vec![(CString::from(c"x"), 1000, vec![file(5, 1, 1)])],
            ..Inventory::default()
        };
        let at = |second| {
            let time = Some(UNIX_EPOCH + Duration::from_secs(second));
            let ages = Ages { cache: time, downloads: time, quarantine: time, leftovers: true };
            planned(&inventory, &Keep { cache: Some(ages), ..at_once() }, &[])
        };
        assert_eq!(at(1000).files(), 0);
        assert_eq!(at(1001).files(), 5);
    }
}
