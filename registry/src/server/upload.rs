//! Sftp for operators: write-only. The name of an upload is a label and nothing more;
//! what counts is the digest that its bytes have when it is closed.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use deploy_store::{Digest, Error, Staging, escape};
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, spawn_blocking};

use super::activity::{Activity, Busy};
use super::channel::Context;
use super::path::MAX_PATH;
use super::sftp::{Handles, Refusal, Reply};
use crate::console::Caller;
use crate::registry::Registry;
use crate::staged;

/// Uploads that are open at once, of all clients together.
pub const MAX_UPLOADS: usize = 256;
/// Bytes of an upload that wait for the disk before the client has to.
const MAX_QUEUED: usize = 4 << 20;
/// Bytes worth waking a thread for.
const BATCH: usize = 1 << 20;
/// Bytes of an upload after which the disk is asked to take them.
const SYNC_EVERY: usize = 32 << 20;
/// What a write takes in memory besides its bytes, so that tiny ones count too.
const WRITE_OVERHEAD: usize = 100;

/// The uploads of one channel.
#[derive(Debug)]
pub struct Uploads {
    registry: Arc<Registry>,
    places: Arc<Semaphore>,
    activity: Arc<Activity>,
    caller: Caller,
    open: Handles<Upload>,
}

#[derive(Debug)]
struct Upload {
    label: String,
    disk: Disk,
    queue: Vec<(u64, Bytes)>,
    queued: usize,
    end: u64,
    behind: File,
    syncing: Option<JoinHandle<io::Result<()>>>,
    unsynced: usize,
    /// What it counts for among the bytes of its key.
    share: staged::Upload,
    _place: OwnedSemaphorePermit,
    _busy: Busy,
}

/// Where the file is: here, or with the thread that is writing to it.
#[derive(Debug)]
enum Disk {
    Idle(Box<Staging>),
    Writing(JoinHandle<Result<Box<Staging>, Error>>),
    Failed(String),
}

impl Uploads {
    /// The uploads of a channel, none so far.
    pub fn new(context: &Context) -> Self {
        Self {
            registry: Arc::clone(&context.registry),
            places: Arc::clone(&context.uploads),
            activity: Arc::clone(&context.activity),
            caller: context.caller.clone(),
            open: Handles::default(),
        }
    }

    /// Answers what is no write.
    pub async fn answer(&mut self, packet: Packet) -> Result<Reply, Refusal> {
        match packet {
            Packet::Open(open) => self.open(&open.filename, open.pflags).await,
            Packet::Close(close) => self.close(&close.handle).await,
            Packet::Fstat(request) => {
                let size = Some(self.open.get(&request.handle)?.end);
                Ok(Reply::Attributes(FileAttributes { size, ..FileAttributes::empty() }))
            }
            Packet::FSetStat(request) => {
                let end = self.open.get(&request.handle)?.end;
                // Modes and times of an upload mean nothing; its size does.
                match request.attrs.size {
                    Some(size) if size != end => Err(Refusal::denied()),
                    _ => Ok(Reply::Done),
                }
            }
            _ => Err(Refusal::denied()),
        }
    }

    async fn open(&mut self, label: &str, flags: OpenFlags) -> Result<Reply, Refusal> {
        let writes = OpenFlags::WRITE | OpenFlags::APPEND | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        if !flags.intersects(writes) || label.len() > MAX_PATH {
            return Err(Refusal::denied());
        }
        self.open.check_room()?;
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| Refusal::failure("too many uploads at once, try again later"))?;
        self.registry.check_free().map_err(|why| self.refuse(label, why))?;
        let blobs = Arc::clone(self.registry.blobs());
        let staging = blocking(move || blobs.stage()).await?;
        Ok(self.open.insert(Upload {
            label: label.to_owned(),
            behind: staging.sync_handle().map_err(|err| Refusal::failure(err.to_string()))?,
            disk: Disk::Idle(Box::new(staging)),
            queue: Vec::new(),
            queued: 0,
            end: 0,
            syncing: None,
            unsynced: 0,
            share: self.registry.staged.begin(&self.caller.key),
            _place: place,
            _busy: self.activity.busy(),
        }))
    }

    /// Takes bytes of an upload. That they cannot be written may show only at a later
    /// write or at the close.
    pub async fn write(
        &mut self,
        handle: &str,
        offset: u64,
        data: Bytes,
    ) -> Result<Reply, Refusal> {
        let upload = self.open.get(handle)?;
        upload.end = upload.end.max(offset.saturating_add(data.len() as u64));
        upload.queued += data.len() + WRITE_OVERHEAD;
        upload.queue.push((offset, data));
        if upload.queued >= MAX_QUEUED || upload.is_written() {
            upload.settle().await;
        }
        let mut refused = upload.share.grow(upload.end);
        if upload.queued >= BATCH {
            upload.start_writing();
            if upload.sync_behind().await {
                refused = refused.and_then(|()| self.registry.check_free());
            }
        }
        if let Err(why) = refused {
            upload.settle().await;
            upload.disk = Disk::Failed(why);
        }
        match &upload.disk {
            Disk::Failed(text) => Err(Refusal::failure(text.clone())),
            _ => Ok(Reply::Done),
        }
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
        let mut upload = self.open.remove(handle)?;
        let (label, bytes) = (escape(&upload.label), upload.end);
        let Caller { user, key, address } = &self.caller;
        let user = escape(user);
        match upload.finish().await {
            Ok(digest) => {
                tracing::info!(user, key, address, label, bytes, %digest, "upload ok");
                upload.share.wait(digest);
                if let Err(refusal) = self.registry.take_back(digest).await {
                    tracing::error!(%digest, "cannot take a lost blob back: {refusal}");
                }
                Ok(Reply::Done)
            }
            Err(refusal) => {
                tracing::warn!(user, key, address, label, bytes, "upload fail: {}", refusal.text);
                Err(refusal)
            }
        }
    }
}

impl Upload {
    fn is_written(&self) -> bool {
        matches!(&self.disk, Disk::Writing(task) if task.is_finished())
    }

    /// Waits for the writes that were handed over.
    async fn settle(&mut self) {
        if let Disk::Writing(task) = &mut self.disk {
            self.disk = match task.await {
                Ok(Ok(staging)) => Disk::Idle(staging),
                Ok(Err(err)) => Disk::Failed(err.to_string()),
                Err(err) => Disk::Failed(format!("internal error: {err}")),
            };
        }
    }

    /// Hands what is queued to a thread that writes and hashes it, unless one is at it.
    fn start_writing(&mut self) {
        if self.queue.is_empty() || !matches!(self.disk, Disk::Idle(_)) {
            return;
        }
        let Disk::Idle(mut staging) =
            std::mem::replace(&mut self.disk, Disk::Failed(String::new()))
        else {
            return;
        };
        let queue = std::mem::take(&mut self.queue);
        self.queued = 0;
        self.disk = Disk::Writing(spawn_blocking(move || {
            queue.iter().try_for_each(|(offset, data)| staging.write_at(*offset, data))?;
            Ok(staging)
        }));
    }

    /// Has the disk take what is written while more comes, so that little is left to
    /// wait for at the end. Returns whether it was time to.
    async fn sync_behind(&mut self) -> bool {
        self.unsynced += BATCH;
        if self.unsynced < SYNC_EVERY
            || self.syncing.as_ref().is_some_and(|task| !task.is_finished())
        {
            return false;
        }
        self.settle_sync().await;
        self.unsynced = 0;
        if let Ok(file) = self.behind.try_clone() {
            self.syncing = Some(spawn_blocking(move || file.sync_data()));
        }
        true
    }

    /// Waits for a sync that was begun. The system tells of an error once only.
    async fn settle_sync(&mut self) {
        let Some(task) = self.syncing.take() else { return };
        let failed = match task.await {
            Ok(Ok(())) => return,
            Ok(Err(err)) => format!("sync upload: {err}"),
            Err(err) => format!("internal error: {err}"),
        };
        self.settle().await;
        self.disk = Disk::Failed(failed);
    }

    async fn finish(&mut self) -> Result<Digest, Refusal> {
        self.settle().await;
        self.start_writing();
        self.settle().await;
        self.settle_sync().await;
        match std::mem::replace(&mut self.disk, Disk::Failed(String::new())) {
            Disk::Idle(staging) => blocking(move || staging.finish()).await,
            Disk::Failed(text) => Err(Refusal::failure(text)),
            Disk::Writing(_) => Err(Refusal::failure("internal error: still writing")),
        }
    }
}

/// Runs `work`, which waits for the disk, beside the tasks that wait for the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> deploy_store::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    match spawn_blocking(work).await {
        Ok(done) => done.map_err(|err| Refusal::failure(err.to_string())),
        Err(err) => Err(Refusal::failure(format!("internal error: {err}"))),
    }
}

/// The places for uploads of a whole server.
pub fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MAX_UPLOADS))
}
