//! Places one regular file as a hardlink to its object, as a clone of the object, or as a copy.

use std::ffi::CStr;
use std::fs::File as OpenFile;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::paths::open_parent;
use super::placer::{Placer, WRITABLE_BY_OTHERS};
use super::placing::LinkMode;
use super::tree::File;
use crate::disk::{self, Cloned, Dir};
use crate::error::{Error, Result};
use crate::layer::content::copy_content;
use crate::layer::entry::EntryPath;
use crate::layer::objects::object_name::ObjectName;
use crate::layer::objects::{Look, Objects};

impl Placer<'_> {
    /// Places `file` as `name` in `into`. `fresh` states whether the root was empty at the start.
    pub(super) fn place_file(
        &self,
        into: &Dir,
        name: &CStr,
        path: &dyn Fn() -> EntryPath,
        file: &Arc<File>,
        fresh: bool,
    ) -> Result<()> {
        if !file.is_linked() {
            return self.place_inode(into, name, path, file, fresh);
        }
        let address = Arc::as_ptr(file).addr();
        let mut first = self.first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(first) = first.get(&address) {
            let (dir, first) = open_parent(self.root, first)?;
            return dir.as_ref().unwrap_or(self.root).link(&first, into, name);
        }
        // The lock is held until the file exists, because another thread may link to the file as
        // soon as the lock is released.
        self.place_inode(into, name, path, file, fresh)?;
        first.insert(address, path());
        Ok(())
    }

    fn place_inode(
        &self,
        into: &Dir,
        name: &CStr,
        path: &dyn Fn() -> EntryPath,
        file: &File,
        fresh: bool,
    ) -> Result<()> {
        if file.size == 0 {
            let made = create(into, name, file, fresh)?;
            return self.finish_file(into, &made, name, file, fresh);
        }
        let object = self.objects.name(file.content, &file.meta, 0);
        if self.placement.mode != LinkMode::Hardlink {
            return self.place_contents(into, name, file, &object, fresh);
        }
        let twin = self.found().uses.add(&object);
        if self.is_private(path, file) || (twin > 0 && !self.fresh) {
            return self.place_contents(into, name, file, &object, fresh);
        }
        self.place_link(into, name, path, file, twin, fresh)
    }

    /// Whether the file must not be a hardlink to an object: users other than the owner may write
    /// to the file, or one of the file's names is private.
    fn is_private(&self, path: &dyn Fn() -> EntryPath, file: &File) -> bool {
        if file.meta.mode & WRITABLE_BY_OTHERS != 0 {
            return true;
        }
        if file.is_linked() {
            return self.private.contains(&std::ptr::from_ref(file).addr());
        }
        self.placement.may_have_private() && self.placement.is_private(&path())
    }

    /// Places a file by hardlink. If a root has several equal files (twins), each twin has its own
    /// object. The file is copied if the twin's object does not exist yet, if the object must not
    /// be shared any more, or if the object cannot be linked.
    fn place_link(
        &self,
        into: &Dir,
        name: &CStr,
        path: &dyn Fn() -> EntryPath,
        file: &File,
        twin: u32,
        fresh: bool,
    ) -> Result<()> {
        let own = self.objects.name(file.content, &file.meta, twin);
        let first = self.objects.name(file.content, &file.meta, 0);
        match self.objects.look(&own, file.size, &file.meta)? {
            Look::Sound => match self.objects.link_to(&own, into, name) {
                Ok(true) => {
                    count(&self.counts.hardlinked);
                    Ok(())
                }
                Ok(false) => Err(damaged(self.objects, &own)),
                // If a user has made a file of a root immutable, the object is immutable, too. Such
                // an object cannot be linked. So the file is copied, even if the link mode is
                // forced.
                Err(err)
                    if !cannot_link(&err)
                        || (self.placement.strict && !self.objects.is_fixed(&own)?) =>
                {
                    Err(err)
                }
                Err(_) => self.place_contents(into, name, file, &own, fresh),
            },
            Look::Changed(why) => {
                self.placement.learned.learn(&path(), why);
                self.found().built.changed.push((path(), why));
                self.place_contents(into, name, file, &own, fresh)?;
                self.found().built.renew.push((own, file.size, file.meta.clone()));
                Ok(())
            }
            Look::Missing if twin == 0 => Err(damaged(self.objects, &own)),
            Look::Missing => {
                self.place_contents(into, name, file, &first, fresh)?;
                self.found().built.twins.push((own, path()));
                Ok(())
            }
        }
    }

    /// Places a file by reflink, or by a copy of the object's contents.
    fn place_contents(
        &self,
        into: &Dir,
        name: &CStr,
        file: &File,
        object: &ObjectName,
        fresh: bool,
    ) -> Result<()> {
        let made = self.contents(into, name, file, object, || create(into, name, file, fresh))?;
        self.finish_file(into, &made, name, file, fresh)
    }

    /// Gives the existing file `name` the contents and the time of `file`. The existing file must
    /// have no other name.
    pub fn rewrite(&self, into: &Dir, name: &CStr, file: &File) -> Result<()> {
        let open = || into.open_to_rewrite(name);
        let to = if file.size == 0 {
            open()?
        } else {
            let object = self.objects.name(file.content, &file.meta, 0);
            self.contents(into, name, file, &object, open)?
        };
        disk::set_times(&to, &|| into.path_of(name), &file.meta)
    }

    /// Finds the object, and then fills the empty file that `open` returns. If bytes are copied,
    /// their digest is verified.
    fn contents(
        &self,
        into: &Dir,
        name: &CStr,
        file: &File,
        object: &ObjectName,
        open: impl FnOnce() -> Result<OpenFile>,
    ) -> Result<OpenFile> {
        let from = match self.placement.mode {
            LinkMode::Reflink => self.objects.open_to_clone(object)?,
            _ => self.objects.open_named(object)?,
        };
        let from = from.ok_or_else(|| damaged(self.objects, object))?;
        let to = open()?;
        let fail = |action| {
            let path = into.path_of(name);
            move |err| Error::io(action, path, err)
        };
        if self.placement.mode == LinkMode::Reflink {
            match disk::clone_contents(&from, &to, file.size).map_err(fail("clone to"))? {
                Cloned::Whole => {
                    count(&self.counts.reflinked);
                    return Ok(to);
                }
                Cloned::Another => return Err(damaged(self.objects, object)),
                Cloned::Cannot => {}
            }
            if self.placement.strict {
                let why = std::io::Error::from(std::io::ErrorKind::Unsupported);
                return Err(fail("clone to")(why));
            }
        }
        let same = copy_content(&from, &to, file.size, file.content).map_err(fail("copy to"))?;
        if !same {
            return Err(damaged(self.objects, object));
        }
        count(&self.counts.copied);
        Ok(to)
    }

    fn finish_file(
        &self,
        into: &Dir,
        made: &OpenFile,
        name: &CStr,
        file: &File,
        fresh: bool,
    ) -> Result<()> {
        let path = || into.path_of(name);
        self.finish_new(made, &path, first_mode(file, fresh), &file.meta, fresh)
    }
}

fn create(into: &Dir, name: &CStr, file: &File, fresh: bool) -> Result<OpenFile> {
    into.create_to_write(name, first_mode(file, fresh))
}

/// The permissions with which a file is created. `fresh` states whether the root was empty at the
/// start. In such a root, a file is created with its final permissions, because no other process
/// can reach the root yet. In any other root, only the owner can open the file until the file is
/// complete.
fn first_mode(file: &File, fresh: bool) -> u32 {
    if fresh { file.meta.mode & 0o777 } else { 0o600 }
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// The error for a missing or damaged object.
fn damaged(objects: &Objects, name: &ObjectName) -> Error {
    let reason = "it is missing or was changed".to_owned();
    Error::Corrupt { path: objects.path_of(name), reason }
}

fn cannot_link(err: &Error) -> bool {
    use rustix::io::Errno;
    let Error::Io { cause, .. } = err else { return false };
    let cannot = [Errno::MLINK, Errno::XDEV, Errno::PERM, Errno::OPNOTSUPP];
    cannot.iter().any(|errno| cause.raw_os_error() == Some(errno.raw_os_error()))
}
