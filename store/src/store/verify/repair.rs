//! Quarantines damaged files of the cache, so that the agent makes these files again. The files are
//! moved, not removed. But a moved file replaces an earlier quarantined file of the same name. A
//! file is checked again before it is moved, because the report of its damage may be outdated.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::sound::{blob_is_sound, object_is_sound};
use crate::digest::Digest;
use crate::disk::{Dir, name_of};
use crate::error::{Error, Result, if_exists};
use crate::layer::entry::Kind;
use crate::layer::index::Index;
use crate::layer::objects::object_name::ObjectName;
use crate::meter::Meter;
use crate::store::Store;
use crate::store::names::ids;

/// The result for a file that was reported as damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// The path in the agent's directory.
    pub path: PathBuf,
    /// The new path of the file in the agent's directory. `None` if the file was not moved.
    pub moved: Option<PathBuf>,
    /// The number of other hardlinks to the file. Roots in the hardlink mode contain such
    /// hardlinks.
    pub links: u64,
    /// The layers that need the file and so must be extracted again.
    pub layers: Vec<Digest>,
}

impl Store {
    /// Checks the files at `damaged`, which are paths in the agent's directory, and quarantines the
    /// files that are indeed damaged. The spare must not be used after this call (see
    /// [`Store::remove_spare`]).
    pub fn set_aside(&self, damaged: &[PathBuf]) -> Result<Vec<Aside>> {
        let mut all = Vec::new();
        let mut contents: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for path in damaged {
            let name = path.file_name().unwrap_or_default().as_bytes();
            let Ok(name) = CString::new(name) else { continue };
            let aside = match path.components().next().map(|part| part.as_os_str().as_bytes()) {
                Some(b"objects") => self.object_aside(path, &name)?,
                Some(b"layers") => self.layer_aside(path, &name)?,
                Some(b"cache") => self.blob_aside(path, &name)?,
                _ => None,
            };
            let Some(aside) = aside else { continue };
            if path.starts_with("objects") {
                let content = String::from_utf8_lossy(&name.to_bytes()[..64]).into_owned();
                contents.entry(content).or_default().push(all.len());
            }
            all.push(aside);
        }
        self.find_layers(&contents, &mut all)?;
        Ok(all)
    }

    /// Extracts a layer again, even if the layer seems to be extracted. If the call fails with
    /// [`Error::NoSuchBlob`], download the blob of the layer and call the method again.
    pub fn extract_again(&self, layer: Digest) -> Result<()> {
        self.extract_anew(layer).map(drop)
    }

    /// Quarantines the index of a layer that is no longer needed. The index would otherwise refer
    /// to missing objects.
    pub fn forget_layer(&self, layer: Digest) -> Result<()> {
        let name = name_of(layer);
        if self.layers.contains(&name)? {
            self.move_aside(&self.layers, &name, &format!("layer-{layer}"))?;
        }
        Ok(())
    }

    fn object_aside(&self, path: &Path, name: &CStr) -> Result<Option<Aside>> {
        let Some(object) = ObjectName::from_file_name(name) else { return Ok(None) };
        let Some(dir) = self.objects.fan_of(&object)? else { return Ok(None) };
        let Some(stat) = if_exists(dir.stat(name))? else { return Ok(Some(untouched(path))) };
        // An unreadable file also counts as damaged.
        if object_is_sound(dir, name, &Meter::default())
            .is_ok_and(|found| found.is_none_or(|(sound, _)| sound))
        {
            return Ok(Some(untouched(path)));
        }
        self.objects.quarantine(&object, &self.quarantine)?;
        let moved = Some(Path::new("quarantine").join(&*name.to_string_lossy()));
        #[allow(clippy::useless_conversion, reason = "the type of the count differs by machine")]
        let links = u64::from(stat.st_nlink).saturating_sub(1);
        Ok(Some(Aside { moved, links, ..untouched(path) }))
    }

    fn layer_aside(&self, path: &Path, name: &CStr) -> Result<Option<Aside>> {
        let Some(layer) = crate::disk::digest_of(name) else { return Ok(None) };
        let moved = match if_exists(self.read_index(layer)) {
            Ok(Some(index)) if self.is_whole(&index)? => return Ok(Some(untouched(path))),
            Ok(_) => None,
            Err(Error::Corrupt { .. } | Error::NewerFormat { .. }) => {
                Some(self.move_aside(&self.layers, name, &format!("layer-{layer}"))?)
            }
            Err(err) => return Err(err),
        };
        Ok(Some(Aside { moved, layers: vec![layer], ..untouched(path) }))
    }

    fn blob_aside(&self, path: &Path, name: &CStr) -> Result<Option<Aside>> {
        let Some(blob) = crate::disk::digest_of(name) else { return Ok(None) };
        let dir = Dir::open(&self.path)?.child(c"cache")?;
        if blob_is_sound(&dir, blob, &Meter::default()).is_ok_and(|found| found.unwrap_or(true)) {
            return Ok(Some(untouched(path)));
        }
        let moved = Some(self.move_aside(&dir, name, &format!("blob-{blob}"))?);
        Ok(Some(Aside { moved, ..untouched(path) }))
    }

    /// Whether all objects of a layer exist with the expected size and metadata.
    fn is_whole(&self, index: &Index) -> Result<bool> {
        for entry in &index.entries {
            if let Kind::File { size: size @ 1.., content } = entry.kind {
                let name = self.objects.name(content, &entry.meta, 0);
                if !self.objects.is_sound(&name, size, &entry.meta)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Adds to [`Aside::layers`] of each moved object the layers that need this object.
    fn find_layers(
        &self,
        contents: &BTreeMap<String, Vec<usize>>,
        all: &mut [Aside],
    ) -> Result<()> {
        if contents.is_empty() {
            return Ok(());
        }
        for layer in ids(&self.layers)? {
            // The verification reports an unreadable index separately.
            let Ok(index) = self.read_index(layer) else { continue };
            let mut wanted = BTreeSet::new();
            for entry in index.entries {
                if let Kind::File { content, .. } = entry.kind {
                    wanted.extend(contents.get(&content.to_string()).into_iter().flatten());
                }
            }
            for &at in wanted {
                if all[at].moved.is_some() {
                    all[at].layers.push(layer);
                }
            }
        }
        Ok(())
    }

    fn move_aside(&self, from: &Dir, name: &CStr, to: &str) -> Result<PathBuf> {
        let to = CString::new(to).expect("hex has no NUL");
        // If several damaged files have the same name, only the last file is kept.
        self.quarantine.remove_tree(&to)?;
        from.rename(name, &self.quarantine, &to)?;
        from.sync()?;
        Ok(Path::new("quarantine").join(&*to.to_string_lossy()))
    }
}

fn untouched(path: &Path) -> Aside {
    Aside { path: path.to_owned(), moved: None, links: 0, layers: Vec::new() }
}
