//! Serves uploads of operators over sftp. In general, the name of an upload is only a label: the
//! digest of the bytes identifies a closed upload. Names in `/put` have a meaning. When the client
//! closes an upload to `/put/NAME/VERSION`, the registry binds the upload to this version, or the
//! close fails. An upload with a temporary name waits until the client renames it. Clients can read
//! the attributes of their uploads. If a client sets times or modes, the registry accepts the
//! request and ignores the values.

use std::sync::Arc;

use bytes::Bytes;
use deploy_store::{Digest, escape};
use deploy_wire::command::Command;
use jiff::Timestamp;
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet};

use super::file_attributes;
use super::handles::HandleTable;
use super::nested::NestedDirectories;
use super::packets::{Reply, SftpError};
use crate::caller::Caller;
use crate::console;
use crate::error::Result as RegistryResult;
use crate::registry::Registry;
use crate::ssh::activity::{Activity, Busy};
use crate::ssh::context::Context;
use crate::uploads::recent::Uploaded;
use crate::uploads::upload::Upload;
use crate::verbs::put::PutTarget;
use crate::view::view_path::{self, Goal, MAX_PATH};

/// The uploads of one channel.
#[derive(Debug)]
pub struct Uploads {
    pub(super) registry: Arc<Registry>,
    activity: Arc<Activity>,
    pub(super) caller: Caller,
    open: HandleTable<Open>,
    /// Directories that the client created inside components.
    pub(super) nested: NestedDirectories,
}

#[derive(Debug)]
struct Open {
    label: String,
    goal: Goal,
    upload: Upload,
    _busy: Busy,
}

/// The prefix of handles of uploads.
pub const HANDLE: &str = "up";

impl Uploads {
    /// The uploads of a new channel, which has no uploads yet.
    pub fn new(context: &Context) -> Self {
        Self {
            registry: Arc::clone(&context.registry),
            activity: Arc::clone(&context.activity),
            caller: context.caller.clone(),
            open: HandleTable::new(HANDLE),
            nested: NestedDirectories::default(),
        }
    }

    /// Answers a request other than a write.
    pub async fn answer(&mut self, packet: Packet) -> Result<Reply, SftpError> {
        match packet {
            Packet::Open(open) => self.open(&open.filename, open.pflags, open.attrs.size).await,
            Packet::Close(close) => self.close(&close.handle).await,
            Packet::Fstat(request) => {
                let size = self.open.get(&request.handle)?.upload.len();
                Ok(Reply::Attributes(attributes(size, Timestamp::now())))
            }
            Packet::FSetStat(request) => {
                let size = self.open.get(&request.handle)?.upload.len();
                set_attributes(&attributes(size, Timestamp::now()), &request.attrs)
            }
            Packet::Rename(request) => self.rename(&request.oldpath, &request.newpath).await,
            Packet::MkDir(request) => self.make_directory(&request.path).await,
            Packet::Remove(request) => self.remove(&request.filename),
            _ => Err(SftpError::denied()),
        }
    }

    /// Opens an upload. `size` is the size that the client announces, if any.
    async fn open(
        &mut self,
        label: &str,
        flags: OpenFlags,
        size: Option<u64>,
    ) -> Result<Reply, SftpError> {
        if label.len() > MAX_PATH {
            return Err(SftpError::denied());
        }
        self.open.check_room()?;
        let goal = view_path::goal(label).map_err(|why| self.refuse(label, why))?;
        if let Goal::Version(target) | Goal::Temporary(Some(target)) = &goal {
            self.check(label, target).await?;
        }
        self.check_whole(label, flags)?;
        let upload = Upload::begin(&self.registry.uploads, &self.caller.key, size).await;
        let upload = upload.map_err(|err| self.refuse(label, err.to_string()))?;
        let (label, busy) = (label.to_owned(), self.activity.busy());
        Ok(self.open.insert(Open { label, goal, upload, _busy: busy }))
    }

    /// Fails if the version cannot be made. An upload is checked before its first byte is sent, a
    /// rename before it takes effect.
    pub(super) async fn check(&self, label: &str, target: &PutTarget) -> Result<(), SftpError> {
        let PutTarget { component, version } = target;
        let checked = self.registry.catalog.check_new_version(component, version).await;
        if let Err(err) = checked {
            let change = self.caller.change(&put(target));
            console::audit_refusal(&self.registry, &change, &err).await;
            return Err(self.refuse(label, err.to_string()));
        }
        Ok(())
    }

    /// Fails if the client wants to append to a closed upload, because the registry no longer has
    /// the upload's file open.
    fn check_whole(&self, label: &str, flags: OpenFlags) -> Result<(), SftpError> {
        let path = view_path::clean(label);
        let is_there = || self.registry.recent.find(&self.caller, &path).is_some();
        if flags.contains(OpenFlags::APPEND) && is_there() {
            let why = "a closed upload cannot be continued: send the whole file";
            return Err(self.refuse(label, why.to_owned()));
        }
        Ok(())
    }

    /// Takes bytes that the client sends for an upload.
    pub async fn write(
        &mut self,
        handle: &str,
        offset: u64,
        data: Bytes,
    ) -> Result<Reply, SftpError> {
        let open = self.open.get(handle)?;
        let written = open.upload.write(offset, data).await;
        written.map(|()| Reply::Done).map_err(|err| SftpError::failure(err.to_string()))
    }

    /// Logs why an upload is refused, and returns the error for the client.
    pub(super) fn refuse(&self, label: &str, why: String) -> SftpError {
        let Caller { user, key, address, .. } = &self.caller;
        tracing::warn!(
            user = escape(user),
            key,
            address,
            label = escape(label),
            "upload refused: {why}"
        );
        SftpError::failure(why)
    }

    async fn close(&mut self, handle: &str) -> Result<Reply, SftpError> {
        let Open { label, goal, upload, _busy } = self.open.remove(handle)?;
        let (path, label, bytes) = (view_path::clean(&label), escape(&label), upload.len());
        let Caller { user, key, address, .. } = &self.caller;
        let user = escape(user);
        let bound = matches!(goal, Goal::Version(_));
        let done = match goal {
            Goal::Staged | Goal::Temporary(_) => self.registry.finish_upload(upload).await,
            Goal::Version(target) => self.put(target, upload).await,
        };
        match done {
            Ok(digest) => {
                tracing::info!(user, key, address, label, bytes, %digest, "upload ok");
                let uploaded = Uploaded { digest, bytes, time: Timestamp::now(), bound };
                self.registry.recent.remember(&self.caller, &path, uploaded);
                Ok(Reply::Done)
            }
            Err(err) => {
                tracing::warn!(user, key, address, label, bytes, "upload fail: {err}");
                Err(SftpError::failure(err.to_string()))
            }
        }
    }

    /// Discards open uploads whose slots other uploads took because the client sent nothing.
    pub fn drop_lost(&mut self) {
        for lost in self.open.close_where(|open| open.upload.has_lost_slot()) {
            let label = escape(&lost.label);
            tracing::warn!(
                key = self.caller.key,
                label,
                "upload discarded: the client sent nothing, and another upload took its slot"
            );
        }
    }

    /// Binds a complete upload. An interrupted `OpenSSH` client closes a partial file as if the
    /// file were complete. The check of the archive detects such a file.
    async fn put(&self, target: PutTarget, upload: Upload) -> RegistryResult<Digest> {
        let change = self.caller.change(&put(&target));
        let done = self.registry.put_upload(&target, upload, &change).await;
        if let Err(err) = &done {
            console::audit_refusal(&self.registry, &change, err).await;
        }
        done.map(|put| put.digest)
    }

    /// The size of the open upload `path`, if there is one.
    pub(super) fn open_size(&self, path: &str) -> Option<u64> {
        let mut open = self.open.all().filter(|open| view_path::clean(&open.label) == path);
        open.next().map(|open| open.upload.len())
    }

    /// Attributes of the open or recent upload `path`, if there is one.
    pub async fn attributes(&self, path: &str) -> Option<FileAttributes> {
        if path.len() > MAX_PATH {
            return None;
        }
        let path = view_path::clean(path);
        if let Some(size) = self.open_size(&path) {
            return Some(attributes(size, Timestamp::now()));
        }
        let Uploaded { digest, bytes, time, bound } =
            self.registry.recent.find(&self.caller, &path)?;
        // The function returns nothing for a bound upload, because the catalogue knows whether its
        // version still exists.
        let blobs = self.registry.blobs();
        let is_there = !bound
            && (blobs.is_staged(digest).await.unwrap_or(false)
                || blobs.contains(digest).await.unwrap_or(false));
        is_there.then(|| attributes(bytes, time))
    }
}

fn attributes(size: u64, time: Timestamp) -> FileAttributes {
    file_attributes::blob(size, time.as_second())
}

/// Answers a request that sets the attributes `wanted` on a file, whose present attributes are
/// `known`. The function ignores modes and times, and denies a change of the size.
pub fn set_attributes(known: &FileAttributes, wanted: &FileAttributes) -> Result<Reply, SftpError> {
    match wanted.size {
        Some(size) if known.size != Some(size) => Err(SftpError::denied()),
        _ => Ok(Reply::Done),
    }
}

/// The command for an upload to `/put`.
pub(super) fn put(target: &PutTarget) -> Command {
    let PutTarget { component, version } = target.clone();
    Command::Put { component, version, json: false }
}
