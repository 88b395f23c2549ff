//! Creates objects in batches. A batch writes new objects to a temporary directory beside the
//! existing objects. One barrier (a sync of the whole filesystem) syncs the new objects, and then
//! the batch renames these objects to their final names. If a directory of objects such as `ab`
//! does not exist yet, the batch makes this directory and renames the directory as a whole. The
//! objects of a shared batch can be placed in a root before the batch is published, so that the
//! batch and the root share one barrier.

use std::ffi::CString;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::object_name::{Naming, ObjectName};
use super::{FANS, Objects, UNFINISHED, fan_name};
use crate::disk::{self, Dir, Fresh, fault, temp_name};
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::layer::entry::Content;

/// The permissions of an object whose name states only the contents, not the metadata.
const PLAIN_MODE: u32 = 0o400;

/// Objects that several threads are writing. Dropping an unpublished batch removes the objects.
#[derive(Debug)]
pub struct Batch {
    objects: Arc<Objects>,
    staged: Arc<Staged>,
    fresh: Fresh,
    /// Whether a sync while objects are still being written saves time.
    ahead: bool,
    written: AtomicU64,
    /// A thread holds this lock from its check that a name is free until the thread has used the
    /// name.
    publishing: Mutex<()>,
}

/// The directory of a batch.
#[derive(Debug)]
pub(in crate::layer) struct Staged {
    name: CString,
    dir: Dir,
    /// One value for each directory of objects. If the directory does not exist yet, the value is
    /// `Some` with the substitute directory in `dir`. If the directory exists, the value is `None`,
    /// and the new objects of the directory are in `dir` itself.
    fans: Box<[OnceLock<Option<Dir>>]>,
}

impl Staged {
    /// `at` is the number of a directory of objects. Returns the batch's directory for the new
    /// objects of that directory.
    pub fn dir_of(&self, at: usize) -> &Dir {
        self.fans[at].get().and_then(Option::as_ref).unwrap_or(&self.dir)
    }
}

impl Batch {
    /// Begins a batch.
    pub fn begin(objects: &Arc<Objects>) -> Result<Self> {
        let objects = Arc::clone(objects);
        let name = objects.dir.make_temp(UNFINISHED, 0o700)?;
        let dir = objects.dir.child(&name)?;
        let fresh = Fresh::probe(&dir)?;
        let ahead = dir.syncs_in_parts()?;
        let fans = (0..FANS).map(|_| OnceLock::new()).collect();
        let staged = Arc::new(Staged { name, dir, fans });
        let (written, publishing) = (AtomicU64::new(0), Mutex::new(()));
        Ok(Self { objects, staged, fresh, ahead, written, publishing })
    }

    /// Allows other code to place the objects of this batch. The objects are not synced yet, so no
    /// root with these objects may be published before a sync.
    pub fn share(&self) {
        self.objects.shared().push(Arc::clone(&self.staged));
    }

    /// The number of directories that the batch keeps open.
    pub fn open_directories(&self) -> usize {
        self.staged.fans.iter().filter(|fan| matches!(fan.get(), Some(Some(_)))).count()
    }

    /// The name of the object for a file.
    pub fn name(&self, content: Content, meta: &Meta) -> ObjectName {
        self.objects.name(content, meta, 0)
    }

    /// Writes the object `name` as a whole, unless the object exists.
    pub fn write_small(&self, name: &ObjectName, bytes: &[u8], meta: &Meta) -> Result<()> {
        let dir = match self.fan(name.fan())? {
            Some(dir) => dir,
            None if self.objects.is_sound(name, bytes.len() as u64, meta)? => return Ok(()),
            None => &self.staged.dir,
        };
        let mode = match self.objects.naming {
            Naming::Inode { .. } => meta.mode,
            Naming::Contents => PLAIN_MODE,
        };
        let file = match dir.create_to_write(name.as_c_str(), mode & 0o777) {
            // The object was already made from an equal file of this layer.
            Err(err) if err.exists() => return Ok(()),
            other => other?,
        };
        fault::write_all(&file, bytes)
            .map_err(|err| Error::io("write", dir.path_of(name.as_c_str()), err))?;
        let path = || dir.path_of(name.as_c_str());
        match self.objects.naming {
            Naming::Inode { owner } => {
                self.fresh.finish(&file, &path, mode & 0o777, meta, owner)?;
            }
            Naming::Contents => self.fresh.finish_mode(&file, &path, mode & 0o777, mode)?,
        }
        self.wrote(name);
        Ok(())
    }

    /// Begins a file that is written in pieces. The caller states the final name when the file is
    /// complete.
    pub fn begin_file(&self) -> Result<Writing<'_>> {
        let name = temp_name("object");
        let file = self.staged.dir.create_to_write(&name, 0o600)?;
        Ok(Writing { batch: self, name, file, at: 0, end: 0 })
    }

    /// Syncs all data that was written to the filesystem so far, including the whole batch.
    pub fn sync(&self) -> Result<()> {
        self.staged.dir.sync_filesystem()
    }

    /// Like [`Batch::sync`], but for calls while objects are still being written. The method does
    /// nothing on a filesystem where such an early sync saves no time.
    pub fn sync_ahead(&self) -> Result<()> {
        if self.ahead { self.sync() } else { Ok(()) }
    }

    /// Counts and seals a new object, which no other process can reach yet.
    fn wrote(&self, name: &ObjectName) {
        self.written.fetch_add(1, Ordering::Relaxed);
        if self.objects.naming != Naming::Contents {
            self.objects.seals.set_new(name);
        }
    }

    /// The number of objects written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Makes the synced objects visible, and returns the number of objects. A later barrier must
    /// sync the names of the objects.
    pub fn publish(self) -> Result<u64> {
        for (at, fan) in self.staged.fans.iter().enumerate() {
            let Some(Some(dir)) = fan.get() else { continue };
            let name = fan_name(at);
            if !self.staged.dir.rename_new(&name, &self.objects.dir, &name)? {
                // Another batch made the directory first.
                self.publish_from(dir)?;
            }
        }
        self.publish_from(&self.staged.dir)?;
        Ok(self.written())
    }

    fn publish_from(&self, dir: &Dir) -> Result<()> {
        dir.for_each(|name| match ObjectName::from_file_name(name) {
            Some(name) => {
                dir.rename(name.as_c_str(), self.objects.fan(&name)?, name.as_c_str())?;
                // The rename changed the ctime, so an object with a seal is sealed again. This is
                // safe even if a root already has a hardlink to the object: the root is not
                // published yet, so no service could change the object.
                let sealed =
                    self.objects.naming != Naming::Contents && !self.objects.seals.is_new(&name);
                if sealed { self.objects.seal(&name) } else { Ok(()) }
            }
            None => Ok(()),
        })
    }

    /// The batch's substitute for the directory of objects with the number `at`. `None` if that
    /// directory exists already.
    fn fan(&self, at: usize) -> Result<Option<&Dir>> {
        if let Some(fan) = self.staged.fans[at].get() {
            return Ok(fan.as_ref());
        }
        let made = match self.objects.fan_if_there(at)? {
            Some(_) => None,
            None => Some(self.staged.dir.child_or_make(&fan_name(at), 0o700)?),
        };
        Ok(self.staged.fans[at].get_or_init(|| made).as_ref())
    }
}

/// A file of a batch that is written in pieces.
#[derive(Debug)]
pub struct Writing<'a> {
    batch: &'a Batch,
    name: CString,
    file: File,
    /// The offset of the next piece in bytes.
    at: u64,
    /// The offset after the last piece with data. A hole may follow.
    end: u64,
}

impl Writing<'_> {
    /// Writes the next piece.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = fault::write_all_at(&self.file, bytes, self.at);
        written.map_err(|err| self.error("write", err))?;
        self.at += bytes.len() as u64;
        self.end = self.at;
        Ok(())
    }

    /// The open file. A caller that does not call [`Writing::write`] writes the whole contents
    /// directly to this file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Skips a hole of `length` bytes.
    pub fn skip(&mut self, length: u64) {
        self.at += length;
    }

    /// Completes the file. If the object already exists, the file is removed.
    pub fn finish(self, name: &ObjectName, size: u64, meta: &Meta) -> Result<()> {
        let batch = self.batch;
        let dir = batch.fan(name.fan())?;
        if dir.is_none() && batch.objects.is_sound(name, size, meta)? {
            return batch.staged.dir.remove_file(&self.name);
        }
        if self.end < self.at {
            // The file ends in a hole, so the last write ended before the end of the file.
            self.file.set_len(self.at).map_err(|err| self.error("set length of", err))?;
        }
        let path = || batch.staged.dir.path_of(&self.name);
        match batch.objects.naming {
            Naming::Inode { owner } => disk::set_meta(&self.file, &path, meta, owner)?,
            Naming::Contents => disk::set_mode(&self.file, &path, PLAIN_MODE)?,
        }
        let dir = dir.unwrap_or(&batch.staged.dir);
        let _taking = batch.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if dir.contains(name.as_c_str())? {
            return batch.staged.dir.remove_file(&self.name);
        }
        batch.staged.dir.rename(&self.name, dir, name.as_c_str())?;
        batch.wrote(name);
        Ok(())
    }

    /// Completes the file, which replaces an existing object.
    pub fn finish_anew(self, name: &ObjectName, meta: &Meta) -> Result<()> {
        let batch = self.batch;
        if self.end < self.at {
            self.file.set_len(self.at).map_err(|err| self.error("set length of", err))?;
        }
        let path = || batch.staged.dir.path_of(&self.name);
        match batch.objects.naming {
            Naming::Inode { owner } => disk::set_meta(&self.file, &path, meta, owner)?,
            Naming::Contents => disk::set_mode(&self.file, &path, PLAIN_MODE)?,
        }
        batch.staged.dir.rename(&self.name, &batch.staged.dir, name.as_c_str())?;
        batch.wrote(name);
        Ok(())
    }

    fn error(&self, action: &'static str, err: std::io::Error) -> Error {
        Error::io(action, self.batch.staged.dir.path_of(&self.name), err)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.objects.shared().retain(|staged| !Arc::ptr_eq(staged, &self.staged));
        // A drop cannot report an error. If the removal fails, the next start of the agent removes
        // the directory.
        let _ = self.objects.dir.remove_tree(&self.staged.name);
    }
}
