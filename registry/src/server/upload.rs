//! Sftp for operators, where it writes. The name of an upload is a label and nothing more:
//! what counts is the digest that its bytes have when it is closed. A name in `/put` is
//! more: `/put/NAME/VERSION` is bound to that version at its close, or the close fails.

use std::sync::Arc;

use bytes::Bytes;
use deploy_store::escape;
use deploy_wire::command::{Command, Refusal as Refused};
use russh_sftp::protocol::{FileAttributes, Packet};

use super::activity::{Activity, Busy};
use super::channel::Context;
use super::path::{self, MAX_PATH};
use super::sftp::{Handles, Refusal, Reply};
use crate::console::{self, Caller};
use crate::put::Target;
use crate::registry::Registry;
use crate::upload::Upload;

/// The uploads of one channel.
#[derive(Debug)]
pub struct Uploads {
    registry: Arc<Registry>,
    activity: Arc<Activity>,
    caller: Caller,
    open: Handles<Open>,
}

#[derive(Debug)]
struct Open {
    label: String,
    target: Option<Target>,
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
        }
    }

    /// Answers what is no write.
    pub async fn answer(&mut self, packet: Packet) -> Result<Reply, Refusal> {
        match packet {
            Packet::Open(open) => self.open(&open.filename).await,
            Packet::Close(close) => self.close(&close.handle).await,
            Packet::Fstat(request) => {
                let size = Some(self.open.get(&request.handle)?.upload.len());
                Ok(Reply::Attributes(FileAttributes { size, ..FileAttributes::empty() }))
            }
            Packet::FSetStat(request) => {
                let end = self.open.get(&request.handle)?.upload.len();
                // Modes and times of an upload mean nothing; its size does.
                match request.attrs.size {
                    Some(size) if size != end => Err(Refusal::denied()),
                    _ => Ok(Reply::Done),
                }
            }
            _ => Err(Refusal::denied()),
        }
    }

    async fn open(&mut self, label: &str) -> Result<Reply, Refusal> {
        if label.len() > MAX_PATH {
            return Err(Refusal::denied());
        }
        self.open.check_room()?;
        let target = match path::put(label) {
            None => None,
            Some(target) => Some(self.check(label, target).await?),
        };
        let upload = Upload::begin(&self.registry, &self.caller.key).await;
        let upload = upload.map_err(|why| self.refuse(label, why))?;
        let (label, busy) = (label.to_owned(), self.activity.busy());
        Ok(self.open.insert(Open { label, target, upload, _busy: busy }))
    }

    /// Refuses what can be refused before a byte comes.
    async fn check(&self, label: &str, target: Result<Target, String>) -> Result<Target, Refusal> {
        let target = target.map_err(|why| self.refuse(label, why))?;
        let Target { component, version } = &target;
        let checked = self.registry.catalog.check_new_version(component, version).await;
        if let Err(refusal) = checked.map_err(Refused::from) {
            let change = self.caller.change(&put(&target));
            console::audit_refusal(&self.registry, &change, &refusal).await;
            return Err(self.refuse(label, refusal.text));
        }
        Ok(target)
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

    fn refuse(&self, label: &str, why: String) -> Refusal {
        let Caller { user, key, address } = &self.caller;
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
        let Open { label, target, upload, _busy } = self.open.remove(handle)?;
        let (label, bytes) = (escape(&label), upload.len());
        let Caller { user, key, address } = &self.caller;
        let user = escape(user);
        let done = match target {
            None => upload.finish(&self.registry).await,
            Some(target) => self.put(target, upload).await,
        };
        match done {
            Ok(digest) => {
                tracing::info!(user, key, address, label, bytes, %digest, "upload ok");
                Ok(Reply::Done)
            }
            Err(why) => {
                tracing::warn!(user, key, address, label, bytes, "upload fail: {why}");
                Err(Refusal::failure(why))
            }
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
}

/// What an upload to `/put` does, as a command.
fn put(target: &Target) -> Command {
    let Target { component, version } = target.clone();
    Command::Put { component, version, json: false }
}
