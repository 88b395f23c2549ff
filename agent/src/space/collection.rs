//! Implements `gc`, which immediately removes unused data, or reports the data that it would
//! remove.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use deploy_store::disk::Dir;
use deploy_store::{Configuration, Error, Result, Size, Sweep, What, plural};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::blocking;
use crate::records::running_script::{self, Running};
use crate::records::{previous, unsettled};
use crate::settings::Settings;
use crate::space::retained::{Retention, TakenOver};
use crate::space::{in_use, spare_builder};

/// The result of `gc`: the items that `gc` removed and kept, or would remove and keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// The agent's directory.
    pub dir: PathBuf,
    /// Whether `gc` only reported, and removed nothing.
    pub dry_run: bool,
    /// Number of files, links and other entries that were removed.
    pub files: u64,
    /// Number of bytes in the files whose last hardlink was removed.
    pub bytes: u64,
    /// Whether roots share extents with the cache. If so, bytes in shared extents count as bytes of
    /// the cache.
    pub extents_shared: bool,
    /// Number of bytes that are free now.
    pub free_bytes: u64,
    /// The removed items.
    pub removed: Vec<Item>,
    /// The kept items.
    pub kept: Vec<Item>,
}

/// An item of the result: one file, one directory, or all objects that have the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The kind of item.
    pub what: String,
    /// The path in the agent's directory.
    pub path: PathBuf,
    /// The reason for removing or keeping the item.
    pub why: String,
    /// Number of files, directories or objects that the item stands for.
    pub count: u64,
    /// Number of files; 0 for a kept item.
    pub files: u64,
    /// Number of bytes. For a kept item, 0 means that the bytes were not counted.
    pub bytes: u64,
}

/// Runs `gc` within the agent, between two cycles. `pending` is the configuration whose script
/// failed last, if any. With `taken_over`, `gc` also removes roots that another program made.
pub async fn beside(
    agent: &Agent,
    pending: Option<&Configuration>,
    dry_run: bool,
    taken_over: bool,
) -> Result<Gc> {
    spare_builder::idle(agent).await;
    let mut needs = in_use::retention(agent, pending)?;
    if taken_over {
        needs.taken_over = TakenOver::Remove;
    }
    let (store, dir) = (Arc::clone(&agent.store), agent.dir.clone());
    let work = move || {
        let keep = needs.at_once(&store.roots()?, SystemTime::now());
        let planned = store.plan_sweep(&keep)?;
        let stuck = if dry_run { Vec::new() } else { store.sweep(&planned)? };
        Gc::new(&dir, dry_run, &planned.without(stuck))
    };
    let gc = blocking::run(work).await?;
    if !dry_run {
        let Gc { files, bytes, .. } = gc;
        tracing::info!(
            event = "gc",
            files,
            bytes,
            "gc: files removed: {files}, {} in all",
            Size(bytes)
        );
    }
    Ok(gc)
}

/// Runs `gc` without an agent. A running agent is an error. With `taken_over`, `gc` also removes
/// roots that another program made.
pub fn alone(dir: &Path, settings: &Settings, dry_run: bool, taken_over: bool) -> Result<Gc> {
    if let Some(Running { id, pid, .. }) = running_script::read(dir) {
        let why = format!(
            "a script whose agent was killed runs for {id}, as pid {pid}; try again after the \
             script's end"
        );
        return Err(Error::io("remove unused data in", dir, io::Error::other(why)));
    }
    let &Settings { keep_roots, keep_blobs, count_taken_over, .. } = settings;
    let planned = deploy_store::sweep_alone(dir, settings.placing, dry_run, |published| {
        let current = in_use::deployed(&settings.state)?;
        let previous = previous::read(dir, current.as_ref().map(Configuration::id));
        let pending = unsettled::pending(dir);
        let taken_over =
            if taken_over { TakenOver::Remove } else { in_use::counted(dir, count_taken_over)? };
        // After a script that failed or was interrupted, a service may still run in a replaced
        // root.
        let replaced = pending.is_none() && unsettled::read(dir).is_none();
        let needs =
            Retention { current, previous, pending, keep_roots, keep_blobs, replaced, taken_over };
        Ok(needs.at_once(published, SystemTime::now()))
    })?;
    Gc::new(dir, dry_run, &planned)
}

impl Gc {
    fn new(dir: &Path, dry_run: bool, planned: &Sweep) -> Result<Self> {
        let mut removed = Items::default();
        for it in &planned.removals {
            removed.add(it.what, &it.path, it.why, it.files, it.bytes);
        }
        let kept = planned.kept.iter().chain(&planned.stuck).map(|it| Item {
            what: it.what.word().to_owned(),
            path: it.path.clone(),
            why: it.why.clone(),
            count: it.count,
            files: 0,
            bytes: it.bytes,
        });
        Ok(Self {
            dir: dir.to_owned(),
            dry_run,
            files: planned.files(),
            bytes: planned.bytes(),
            extents_shared: planned.extents_shared,
            free_bytes: Dir::open(dir)?.free()?.0,
            removed: removed.items,
            kept: kept.collect(),
        })
    }

    /// Returns the result as text for people: a line for each item, and a summary.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (verb, items) in [("remove", &self.removed), ("keep", &self.kept)] {
            for Item { what, path, why, count, files, bytes } in items {
                let name = match *count {
                    1 => path.display().to_string(),
                    n => format!("{} ({n})", path.display()),
                };
                let size = match (verb, *bytes) {
                    ("keep", 0) => String::new(),
                    ("keep", bytes) => format!("{bytes} bytes: "),
                    (_, bytes) => format!("{}, {bytes} bytes: ", plural(*files, "file")),
                };
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{verb:<7} {what:<11} {name}   {size}{why}");
            }
        }
        let freed = if self.dry_run { "would be freed" } else { "freed" };
        let _ = writeln!(
            text,
            "{}, {} bytes {freed}; {} are free",
            plural(self.files, "file"),
            self.bytes,
            Size(self.free_bytes)
        );
        if self.extents_shared {
            text.push_str(
                "roots share extents with the cache: the bytes of shared extents count as bytes of \
                 the objects\n",
            );
        }
        text
    }
}

#[derive(Default)]
struct Items {
    items: Vec<Item>,
    /// For each reason, the index of an item in `items`. That item stands for all objects with this
    /// reason.
    objects: BTreeMap<String, usize>,
}

impl Items {
    fn add(&mut self, what: What, path: &Path, why: &str, files: u64, bytes: u64) {
        if what == What::Object {
            if let Some(&at) = self.objects.get(why) {
                let item = &mut self.items[at];
                item.count += 1;
                item.files += files;
                item.bytes += bytes;
                return;
            }
            self.objects.insert(why.to_owned(), self.items.len());
        }
        // A cache can have very many objects, so all objects with the same reason share one item.
        let path = if what == What::Object { Path::new("objects") } else { path };
        self.items.push(Item {
            what: what.word().to_owned(),
            path: path.to_owned(),
            why: why.to_owned(),
            count: 1,
            files,
            bytes,
        });
    }
}
