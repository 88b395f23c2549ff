//! Implements one upload. The bytes may arrive in any order, and a finished upload becomes a staged
//! blob. Threads write, hash and sync while more bytes arrive.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use deploy_store::{BlobWriter, Digest, Size};
use tokio::task::{JoinHandle, spawn_blocking};

use super::announced::AnnouncedShare;
use super::slots::Slot;
use super::upload_quota::QuotaShare;
use super::upload_room::UploadRoom;
use crate::blocking::blocking;
use crate::error::{Error, Result};

/// Maximum number of bytes of one upload that may wait for the disk. When this limit is reached,
/// the client has to wait.
const MAX_QUEUED: usize = 4 << 20;
/// A thread starts to write when at least this many bytes are queued, and at the end of the upload.
const BATCH: usize = 1 << 20;
/// The upload is synced each time this many more bytes have been written.
const SYNC_EVERY: usize = 32 << 20;
/// The memory that one queued write takes in addition to its data, in bytes. The limit includes
/// this memory, so that many tiny writes reach the limit, too.
const WRITE_OVERHEAD: usize = 100;

/// A blob that is being uploaded. Dropping the value before [`Upload::finish`] removes the upload.
#[derive(Debug)]
pub struct Upload {
    room: Arc<UploadRoom>,
    disk: Disk,
    queue: Vec<(u64, Bytes)>,
    queued: usize,
    end: u64,
    behind: File,
    syncing: Option<JoinHandle<io::Result<()>>>,
    unsynced: usize,
    /// The upload's share of the quota of its key.
    share: QuotaShare,
    /// The bytes that the client has yet to send.
    announced: AnnouncedShare,
    slot: Slot,
}

/// The open file, or the thread that is writing to the file, or the text of a failure.
#[derive(Debug)]
enum Disk {
    Idle(Box<BlobWriter>),
    Writing(JoinHandle<deploy_store::Result<Box<BlobWriter>>>),
    Failed(String),
}

impl Upload {
    /// Begins an upload with `key`. `size` is the number of bytes, if the client announced it. The
    /// call fails with [`Error::Busy`] if too many uploads are open, and with [`Error::OverLimit`]
    /// if `size` is over the limit or does not fit on the disk.
    pub async fn begin(room: &Arc<UploadRoom>, key: &str, size: Option<u64>) -> Result<Self> {
        let slot = room.slots.try_take(key).ok_or_else(too_many)?;
        let size = size.unwrap_or(0);
        let limit = room.limits.max_upload;
        if size > limit {
            return Err(Error::OverLimit(too_large(limit)));
        }
        let announced = room.announced.begin(size, |others| room.check_space(size, others))?;
        let blobs = Arc::clone(&room.blobs);
        let staging = blocking(move || blobs.stage()).await?;
        slot.waits_for_client();
        Ok(Self {
            behind: staging.sync_handle()?,
            disk: Disk::Idle(Box::new(staging)),
            queue: Vec::new(),
            queued: 0,
            end: 0,
            syncing: None,
            unsynced: 0,
            share: room.quota.begin_beside(key, room.counted_bytes(key).await?),
            announced,
            slot,
            room: Arc::clone(room),
        })
    }

    /// The key of the client.
    pub fn key(&self) -> &str {
        self.share.key()
    }

    /// The length of the upload: the end of the farthest write.
    pub fn len(&self) -> u64 {
        self.end
    }

    /// Whether no byte has arrived yet.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Takes bytes that the client has sent. If a write to the disk fails, this call, a later call
    /// or [`Upload::finish`] reports the failure.
    pub async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        if !self.slot.client_sent() {
            self.slot = self.room.slots.try_take(self.share.key()).ok_or_else(too_many)?;
        }
        self.end = self.end.max(offset.saturating_add(data.len() as u64));
        self.announced.came(self.end);
        self.queued += data.len() + WRITE_OVERHEAD;
        self.queue.push((offset, data));
        if self.queued >= MAX_QUEUED || self.is_written() {
            self.wait_for_write().await;
        }
        let mut refused = self.share.grow(self.end);
        if self.queued >= BATCH {
            self.start_writing();
            if self.sync_behind().await {
                refused = refused.and_then(|()| self.check_free());
            }
            self.room.renew(self.share.key()).await;
        }
        if let Err(err) = refused {
            self.wait_for_write().await;
            self.disk = Disk::Failed(err.to_string());
        }
        self.slot.waits_for_client();
        match &self.disk {
            Disk::Failed(text) => Err(Error::Failed(text.clone())),
            _ => Ok(()),
        }
    }

    /// Checks the free space of the disk. An upload of known size has reserved its space, but other
    /// programs may take this space.
    fn check_free(&self) -> Result<()> {
        if self.announced.is_known() { self.room.check_space(0, 0) } else { self.room.check_free() }
    }

    /// Whether the upload has lost its slot to another client, because its own client was silent.
    pub fn has_lost_slot(&self) -> bool {
        self.slot.is_lost()
    }

    fn is_written(&self) -> bool {
        matches!(&self.disk, Disk::Writing(task) if task.is_finished())
    }

    /// Waits until no thread is writing.
    async fn wait_for_write(&mut self) {
        if let Disk::Writing(task) = &mut self.disk {
            self.disk = match task.await {
                Ok(Ok(staging)) => Disk::Idle(staging),
                Ok(Err(deploy_store::Error::OverLimit { limit, .. })) => {
                    Disk::Failed(too_large(limit))
                }
                Ok(Err(err)) => Disk::Failed(err.to_string()),
                Err(err) => Disk::Failed(format!("internal error: {err}")),
            };
        }
    }

    /// Starts a thread that writes and hashes the queue, unless a thread is already writing.
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

    /// Syncs the written part while more bytes arrive, so that little remains to be synced at the
    /// end. Returns whether the next sync was due.
    async fn sync_behind(&mut self) -> bool {
        self.unsynced += BATCH;
        if self.unsynced < SYNC_EVERY
            || self.syncing.as_ref().is_some_and(|task| !task.is_finished())
        {
            return false;
        }
        self.wait_for_sync().await;
        self.unsynced = 0;
        if let Ok(file) = self.behind.try_clone() {
            self.syncing = Some(spawn_blocking(move || file.sync_data()));
        }
        true
    }

    /// Waits for a running sync, and keeps its error, because the system reports an error only
    /// once.
    async fn wait_for_sync(&mut self) {
        let Some(task) = self.syncing.take() else { return };
        let failed = match task.await {
            Ok(Ok(())) => return,
            Ok(Err(err)) => format!("cannot sync the upload: {err}"),
            Err(err) => format!("internal error: {err}"),
        };
        self.wait_for_write().await;
        self.disk = Disk::Failed(failed);
    }

    /// Ends the upload: syncs the file, and stages it under its digest. The staged file waits to be
    /// bound.
    pub async fn finish(mut self) -> Result<Digest> {
        self.wait_for_write().await;
        self.start_writing();
        self.wait_for_write().await;
        self.wait_for_sync().await;
        let digest = match self.disk {
            Disk::Idle(staging) => blocking(move || staging.finish()).await?,
            Disk::Failed(text) => return Err(Error::Failed(text)),
            Disk::Writing(_) => {
                return Err(Error::Failed("internal error: still writing".to_owned()));
            }
        };
        self.room.renew(self.share.key()).await;
        // With a bucket, the rows of the catalogue count the staged bytes.
        if !self.room.counts_rows() {
            self.share.wait(digest);
        }
        Ok(digest)
    }
}

fn too_large(limit: u64) -> String {
    format!("size of the upload is over the limit of {} (-max-upload)", Size(limit))
}

fn too_many() -> Error {
    Error::Busy("too many uploads are in progress, try again later".to_owned())
}
