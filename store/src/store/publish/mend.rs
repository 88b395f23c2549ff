//! Makes damaged objects again while a root that needs these objects is built.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::config::Configuration;
use crate::error::{Error, Result};
use crate::layer::entry::Kind;
use crate::layer::objects::object_name::ObjectName;
use crate::root::build::objects_of;
use crate::root::tree::Tree;
use crate::store::Store;
use crate::store::messages::listed;

/// The maximum number of attempts to build a root. The cache is repaired before each attempt but
/// the first.
const MEND_ATTEMPTS: u32 = 3;

impl Store {
    /// Builds `tree` with `build`. If the build finds a damaged object, the method makes the
    /// damaged objects again and repeats the build.
    pub(in crate::store) fn mending<T>(
        &self,
        tree: &Tree,
        configuration: &Configuration,
        build: impl Fn() -> Result<T>,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            match build() {
                Err(Error::Corrupt { path, reason }) if attempt < MEND_ATTEMPTS => {
                    let shown = path.display();
                    tracing::debug!("object {shown} is damaged ({reason}): repairing the cache");
                    self.mend(tree, configuration, &path)?;
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Quarantines every damaged object of `tree`, and extracts the layers with damaged objects
    /// again. `found` is the path of an object that was found damaged. If the metadata of this
    /// object does not show the damage, other objects may also have hidden damage. In this case,
    /// all objects are read.
    fn mend(&self, tree: &Tree, configuration: &Configuration, found: &Path) -> Result<()> {
        let (mut missing, mut damaged) = (BTreeSet::new(), Vec::new());
        let found = found.file_name().map(|name| CString::new(name.as_bytes()));
        let found = found.and_then(|name| ObjectName::from_file_name(&name.ok()?));
        let mut read_all = false;
        for (_, name, file) in objects_of(tree, &self.objects) {
            read_all |=
                Some(name) == found && self.objects.is_sound(&name, file.size, &file.meta)?;
        }
        for (path, name, file) in objects_of(tree, &self.objects) {
            let doubtful = read_all || !self.objects.is_sound(&name, file.size, &file.meta)?;
            if doubtful && !self.objects.has_contents(&name, file.size)? {
                missing.insert(file.content);
                // A damaged object that is already in quarantine was reported earlier, and could
                // not be made again since then.
                if self.objects.quarantine(&name, &self.quarantine)?
                    || !self.quarantine.contains(name.as_c_str())?
                {
                    damaged.push(path.to_string());
                }
            }
        }
        if !damaged.is_empty() {
            let files = damaged.len();
            tracing::warn!(
                event = "cache_damaged",
                id = %configuration.id(),
                files,
                "cached files are damaged or missing, and are made again: {}",
                listed(&damaged)
            );
        }
        self.adopt_renamed(tree, &mut missing)?;
        for layer in configuration.layers() {
            let mut holds = false;
            for entry in self.index(layer.digest)? {
                holds |=
                    matches!(entry?.kind, Kind::File { content, .. } if missing.contains(&content));
            }
            if holds {
                self.extract_anew(layer.digest)?;
            }
        }
        Ok(())
    }
}
