//! Sweeps of an agent's directory: marks from what is kept, removes the rest.
//! References go before what they refer to, so that a crash leaves garbage, not gaps.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Store;
use super::publish::{RETIRED, ids, ok_name};
use crate::blobs::Swept;
use crate::config::Configuration;
use crate::digest::Digest;
use crate::disk::{digest_of, name_of, temp_name};
use crate::error::{Error, Result};
use crate::layer::entry::Kind;

/// Bytes of an object's name that the layers' indexes tell: all but the twin.
const BASE: usize = 64 + 1 + 32;

impl Store {
    /// Removes blobs, layers and objects that neither a configuration in `keep` nor a
    /// published root uses and that were last written before `before`.
    pub fn sweep_cache(&self, keep: &[&Configuration], before: SystemTime) -> Result<Swept> {
        let mut kept: BTreeSet<Digest> = BTreeSet::new();
        for configuration in keep {
            kept.extend(configuration.layers().iter().map(|layer| layer.digest));
        }
        for id in ids(&self.roots)? {
            let Ok(configuration) = self.marked(id) else {
                // A crash cut the record short. Without it the root is not ours.
                self.roots.remove_file(&name_of(id))?;
                continue;
            };
            kept.extend(configuration.layers().iter().map(|layer| layer.digest));
        }
        let mut swept = self.blobs.expire(before)?;
        for blob in self.blobs.list()? {
            let needed = self.keep_blobs || !self.has_layer(blob.digest)?;
            if !(needed && kept.contains(&blob.digest)) && blob.modified < before {
                self.blobs.remove(blob.digest)?;
                add(&mut swept, blob.bytes);
            }
        }
        let seconds = before.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        for digest in ids(&self.layers)? {
            let name = name_of(digest);
            if !kept.contains(&digest) && self.layers.stat(&name)?.st_mtime < seconds {
                self.layers.remove_file(&name)?;
                add(&mut swept, 0);
            }
        }
        self.layers.sync()?;
        self.sweep_objects(seconds, &mut swept)?;
        Ok(swept)
    }

    /// Removes objects that no layer has. With an index that cannot be read nothing is
    /// removed: it may name any of them.
    fn sweep_objects(&self, before: i64, swept: &mut Swept) -> Result<()> {
        let mut kept: BTreeSet<Vec<u8>> = BTreeSet::new();
        for digest in ids(&self.layers)? {
            for entry in self.read_index(digest)?.entries {
                if let Kind::File { content, .. } = entry.kind {
                    let name = self.objects.name(content, &entry.meta, 0);
                    kept.insert(name.as_bytes().to_vec());
                }
            }
        }
        self.objects.for_each(|name, bytes, changed| {
            let base = &name.as_bytes()[..name.as_bytes().len().min(BASE)];
            if !kept.contains(base) && changed < before {
                self.objects.remove(&name)?;
                add(swept, bytes);
            }
            Ok(())
        })
    }

    /// Removes published roots that are not in `keep`; `files` counts roots.
    pub fn sweep_roots(&self, keep: &[Digest]) -> Result<Swept> {
        let mut swept = Swept::default();
        for item in self.unpacked.list()? {
            let Some(id) = digest_of(&item.name).filter(|id| !keep.contains(id)) else { continue };
            // Only what an agent made: ours has a record, the Go agent's an `.ok`.
            if !self.roots.contains(&item.name)? && !self.unpacked.contains(&ok_name(id))? {
                continue;
            }
            self.unwatch(id);
            self.roots.remove_file(&item.name)?;
            self.roots.sync()?;
            self.unpacked.remove_file(&ok_name(id))?;
            let retired = temp_name(RETIRED);
            self.unpacked.rename(&item.name, &self.unpacked, &retired)?;
            self.unpacked.remove_tree(&retired)?;
            swept.files += 1;
        }
        Ok(swept)
    }

    /// Published roots, oldest first.
    pub fn roots(&self) -> Result<Vec<Digest>> {
        let mut roots = Vec::new();
        for id in ids(&self.roots)? {
            if self.is_published(id)? {
                let stat = self.roots.stat(&name_of(id))?;
                roots.push((stat.st_mtime, stat.st_mtime_nsec, id));
            }
        }
        roots.sort_unstable();
        Ok(roots.into_iter().map(|(_, _, id)| id).collect())
    }

    pub(super) fn marked(&self, id: Digest) -> Result<Configuration> {
        let name = name_of(id);
        let mut json = Vec::new();
        self.roots
            .open_file(&name)?
            .read_to_end(&mut json)
            .map_err(|err| Error::io("read", self.roots.path_of(&name), err))?;
        Configuration::from_json(&json)
    }
}

fn add(swept: &mut Swept, bytes: u64) {
    swept.files += 1;
    swept.bytes += bytes;
}
