//! Adopts objects whose names belong to other settings. After a change of `-owner`, or of `-link`
//! from `copy` to hardlinks, the existing objects are sound, but the agent needs objects with other
//! names. The agent copies the existing objects to the new names, so no download is needed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::disk::{Part, parts};
use crate::error::{Error, Result};
use crate::layer::content::ContentHasher;
use crate::layer::entry::Content;
use crate::layer::objects::batch::Batch;
use crate::layer::objects::object_name::ObjectName;
use crate::root::build::objects_of;
use crate::root::tree::{self, Tree};
use crate::store::Store;

/// The number of bytes that are copied at a time.
const PIECE: usize = 256 << 10;

impl Store {
    /// Makes each missing object of `tree` whose contents exist under another name. The method
    /// removes these contents from `missing`.
    pub(in crate::store) fn adopt_renamed(
        &self,
        tree: &Tree,
        missing: &mut BTreeSet<Content>,
    ) -> Result<()> {
        let batch = Batch::begin(&self.objects)?;
        let mut lacking = BTreeSet::new();
        for (_, name, file) in objects_of(tree, &self.objects) {
            if !missing.contains(&file.content)
                || self.objects.is_sound(&name, file.size, &file.meta)?
            {
                continue;
            }
            let adopted = match self.objects.open_contents(file.content)? {
                Some(from) => copy(&from, &batch, &name, file)
                    .map_err(|err| Error::io("copy", self.objects.path_of(&name), err))?,
                None => false,
            };
            if !adopted {
                lacking.insert(file.content);
            }
        }
        if batch.written() > 0 {
            batch.sync()?;
            let objects = batch.publish()?;
            tracing::info!(
                event = "cache_renamed",
                objects,
                "cached files were copied, because their names belonged to another -link or -owner \
                 setting; number of files: {objects}"
            );
        }
        *missing = lacking;
        Ok(())
    }
}

/// Copies the object `from` to `to`, under the name `name`. Returns `false`, without a new object,
/// if `from` does not have the contents of `file`.
fn copy(from: &File, to: &Batch, name: &ObjectName, file: &tree::File) -> io::Result<bool> {
    if from.metadata()?.len() != file.size {
        return Ok(false);
    }
    let mut writing = to.begin_file().map_err(io::Error::other)?;
    let mut hasher = ContentHasher::default();
    let mut piece = vec![0; PIECE];
    parts(from, |part| match part {
        Part::Hole(length) => {
            hasher.skip(length);
            writing.skip(length);
            Ok(())
        }
        Part::Data(range) => {
            let mut at = range.start;
            while at < range.end {
                let most = usize::try_from(range.end - at).unwrap_or(usize::MAX).min(PIECE);
                match from.read_at(&mut piece[..most], at) {
                    // Another process has truncated the file.
                    Ok(0) => break,
                    Ok(n) => {
                        hasher.update(&piece[..n]);
                        writing.write(&piece[..n]).map_err(io::Error::other)?;
                        at += n as u64;
                    }
                    Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                    Err(err) => return Err(err),
                }
            }
            Ok(())
        }
    })?;
    if hasher.length() != file.size || hasher.content() != file.content {
        return Ok(false);
    }
    writing.finish(name, file.size, &file.meta).map_err(io::Error::other)?;
    Ok(true)
}
