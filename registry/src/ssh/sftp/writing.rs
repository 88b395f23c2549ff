//! Sftp for operators, where it writes. The name of an upload is a label: what counts is the
//! digest that its bytes have when it is closed. A name in `/put` is more: `/put/NAME/VERSION`
//! is bound to that version at its close, or the close fails; under a temporary name it waits to
//! be renamed to one. Clients that look at what they have written find it, and may set its times.

use std::sync::Arc;

use bytes::Bytes;
use deploy_store::escape;
use deploy_wire::command::{Command, Refusal as Refused};
use jiff::Timestamp;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet};

use crate::console::{self, Caller};
use crate::registry::Registry;
use crate::ssh::activity::{Activity, Busy};
use crate::ssh::channel::Context;
use crate::ssh::sftp::nested::Nested;
use crate::ssh::sftp::{Handles, Refusal, Reply};
use crate::uploads::recent::Uploaded;
use crate::uploads::upload::Upload;
use crate::verbs::put::Target;
use crate::view::items;
use crate::view::view_path::{self, Goal, MAX_PATH};

/// The uploads of one channel.
#[derive(Debug)]
pub struct Uploads {
    pub(super) registry: Arc<Registry>,
    activity: Arc<Activity>,
    pub(super) caller: Caller,
    open: Handles<Open>,
    /// Directories that the client made where there are none.
    pub(super) nested: Nested,
}

#[derive(Debug)]
struct Open {
    label: String,
    goal: Goal,
    upload: Upload,
    _busy: Busy,
}

/// What handles of uploads begin with.
pub const HANDLE: &str = "up";

impl Uploads {
    /// The uploads of a channel, none so far.
    pub fn new(context: &Context) -> Self {
        Self {
            registry: Arc::clone(&context.registry),
            activity: Arc::clone(&context.activity),
            caller: context.caller.clone(),
            open: Handles::new(HANDLE),
            nested: Nested::default(),
        }
    }

    /// Answers what is no write.
    pub async fn answer(&mut self, packet: Packet) -> Result<Reply, Refusal> {
        match packet {
            Packet::Open(open) => self.open(&open.filename, open.pflags, open.attrs.size).await,
            Packet::Close(close) => self.close(&close.handle).await,
            Packet::Fstat(request) => {
                let size = self.open.get(&request.handle)?.upload.len();
                Ok(Reply::Attributes(attributes(size, Timestamp::now())))
            }
            Packet::FSetStat(request) => {
                let size = self.open.get(&request.handle)?.upload.len();
                pass_over(&attributes(size, Timestamp::now()), &request.attrs)
            }
            Packet::Rename(request) => self.rename(&request.oldpath, &request.newpath).await,
            Packet::MkDir(request) => self.make_directory(&request.path).await,
            Packet::Remove(request) => self.remove(&request.filename),
            _ => Err(Refusal::denied()),
        }
    }

    /// `size` is what the client says that the file will have, if it does.
    async fn open(
        &mut self,
        label: &str,
        flags: OpenFlags,
        size: Option<u64>,
    ) -> Result<Reply, Refusal> {
        if label.len() > MAX_PATH {
            return Err(Refusal::denied());
        }
        self.open.check_room()?;
        let goal = view_path::goal(label).map_err(|why| self.refuse(label, why))?;
        if let Goal::Version(target) | Goal::Temporary(Some(target)) = &goal {
            self.check(label, target).await?;
        }
        self.check_whole(label, flags)?;
        let upload = Upload::begin(&self.registry, &self.caller.key, size).await;
        let upload = upload.map_err(|why| self.refuse(label, why))?;
        let (label, busy) = (label.to_owned(), self.activity.busy());
        Ok(self.open.insert(Open { label, goal, upload, _busy: busy }))
    }

    /// Refuses what can be refused before a byte comes.
    pub(super) async fn check(&self, label: &str, target: &Target) -> Result<(), Refusal> {
        let Target { component, version } = target;
        let checked = self.registry.catalog.check_new_version(component, version).await;
        if let Err(refusal) = checked.map_err(Refused::from) {
            let change = self.caller.change(&put(target));
            console::audit_refusal(&self.registry, &change, &refusal).await;
            return Err(self.refuse(label, refusal.text));
        }
        Ok(())
    }

    /// Refuses who goes on with an upload that is closed: its bytes are not at hand any more.
    fn check_whole(&self, label: &str, flags: OpenFlags) -> Result<(), Refusal> {
        let path = view_path::clean(label);
        let is_there = || self.registry.recent.find(&self.caller, &path).is_some();
        if flags.contains(OpenFlags::APPEND) && is_there() {
            let why = "an upload that is closed cannot be gone on with: send the whole file";
            return Err(self.refuse(label, why.to_owned()));
        }
        Ok(())
    }

    /// Takes bytes of an upload.
    pub async fn write(
        &mut self,
        handle: &str,
        offset: u64,
        data: Bytes,
    ) -> Result<Reply, Refusal> {
        let open = self.open.get(handle)?;
        let taken = open.upload.write(&self.registry, offset, data).await;
        taken.map(|()| Reply::Done).map_err(Refusal::failure)
    }

    pub(super) fn refuse(&self, label: &str, why: String) -> Refusal {
        let Caller { user, key, address, .. } = &self.caller;
        tracing::warn!(
            user = escape(user),
            key,
            address,
            label = escape(label),
            "upload refused: {why}"
        );
        Refusal::failure(why)
    }

    async fn close(&mut self, handle: &str) -> Result<Reply, Refusal> {
        let Open { label, goal, upload, _busy } = self.open.remove(handle)?;
        let (path, label, bytes) = (view_path::clean(&label), escape(&label), upload.len());
        let Caller { user, key, address, .. } = &self.caller;
        let user = escape(user);
        let bound = matches!(goal, Goal::Version(_));
        let done = match goal {
            Goal::Staged | Goal::Temporary(_) => upload.finish(&self.registry).await,
            Goal::Version(target) => self.put(target, upload).await,
        };
        match done {
            Ok(digest) => {
                tracing::info!(user, key, address, label, bytes, %digest, "upload ok");
                let uploaded = Uploaded { digest, bytes, time: Timestamp::now(), bound };
                self.registry.recent.remember(&self.caller, &path, uploaded);
                Ok(Reply::Done)
            }
            Err(why) => {
                tracing::warn!(user, key, address, label, bytes, "upload fail: {why}");
                Err(Refusal::failure(why))
            }
        }
    }

    /// Gives up what is open and whose place somebody else has, since nothing came of it.
    pub fn give_way(&mut self) {
        for given_up in self.open.close_where(|open| open.upload.has_given_way()) {
            let label = escape(&given_up.label);
            tracing::warn!(key = self.caller.key, label, "upload given up: nothing came of it");
        }
    }

    /// An interrupted client of `OpenSSH` closes what it has sent so far as if it were all:
    /// that it is not shows when the archive is checked.
    async fn put(&self, target: Target, upload: Upload) -> Result<deploy_store::Digest, String> {
        let change = self.caller.change(&put(&target));
        let done = self.registry.put_upload(&target, upload, &change).await;
        match done {
            Ok(put) => Ok(put.digest),
            Err(refusal) => {
                console::audit_refusal(&self.registry, &change, &refusal).await;
                Err(refusal.text)
            }
        }
    }

    /// The size of an upload that is open as `path`.
    pub(super) fn open_size(&self, path: &str) -> Option<u64> {
        let mut open = self.open.all().filter(|open| view_path::clean(&open.label) == path);
        open.next().map(|open| open.upload.len())
    }

    /// Attributes of what is, or was, uploaded as `path`.
    pub fn attributes(&self, path: &str) -> Option<FileAttributes> {
        if path.len() > MAX_PATH {
            return None;
        }
        let path = view_path::clean(path);
        if let Some(size) = self.open_size(&path) {
            return Some(attributes(size, Timestamp::now()));
        }
        let Uploaded { digest, bytes, time, bound } =
            self.registry.recent.find(&self.caller, &path)?;
        // Whether a version is still there the catalogue knows.
        let blobs = self.registry.blobs();
        let is_there = !bound
            && (blobs.is_staged(digest).unwrap_or(false)
                || blobs.contains(digest).unwrap_or(false));
        is_there.then(|| attributes(bytes, time))
    }
}

/// Attributes of an upload.
fn attributes(size: u64, time: Timestamp) -> FileAttributes {
    items::blob(size, time.as_second())
}

/// Attributes that a client gives to what has `known` ones. Modes and times mean nothing here;
/// a size does.
pub fn pass_over(known: &FileAttributes, wanted: &FileAttributes) -> Result<Reply, Refusal> {
    match wanted.size {
        Some(size) if known.size != Some(size) => Err(Refusal::denied()),
        _ => Ok(Reply::Done),
    }
}

/// What an upload to `/put` does, as a command.
pub(super) fn put(target: &Target) -> Command {
    let Target { component, version } = target.clone();
    Command::Put { component, version, json: false }
}
