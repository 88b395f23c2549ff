//! An upload: bytes in any order, at last a staged blob. Threads write, hash and sync while
//! more comes; every limit on uploads is kept here, however they come.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use deploy_store::{Digest, Error, Size, Staging};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::registry::Registry;
use crate::uploads::announced;
use crate::uploads::slots::Place;
use crate::uploads::upload_quota;

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

/// A blob that is being uploaded. Dropped before it is finished, it is gone.
#[derive(Debug)]
pub struct Upload {
    disk: Disk,
    queue: Vec<(u64, Bytes)>,
    queued: usize,
    end: u64,
    behind: File,
    syncing: Option<JoinHandle<io::Result<()>>>,
    unsynced: usize,
    /// What it counts for among the bytes of its key.
    share: upload_quota::Upload,
    /// What it has still to bring.
    announced: announced::Share,
    place: Place,
}

/// Where the file is: here, or with the thread that is writing to it.
#[derive(Debug)]
enum Disk {
    Idle(Box<Staging>),
    Writing(JoinHandle<Result<Box<Staging>, Error>>),
    Failed(String),
}

impl Upload {
    /// Begins an upload of who has `key`, of `size` bytes if that is known, or says why not.
    pub async fn begin(registry: &Registry, key: &str, size: Option<u64>) -> Result<Self, String> {
        let place = registry.uploads.try_enter(key).ok_or_else(too_many)?;
        let size = size.unwrap_or(0);
        let limit = registry.settings.max_upload;
        if size > limit {
            return Err(too_large(limit));
        }
        let fits = |others| registry.check_room(size, others);
        let announced = registry.announced.begin(size, fits)?;
        let blobs = Arc::clone(registry.blobs());
        let staging = blocking(move || blobs.stage()).await?;
        place.waits();
        Ok(Self {
            behind: staging.sync_handle().map_err(|err| err.to_string())?,
            disk: Disk::Idle(Box::new(staging)),
            queue: Vec::new(),
            queued: 0,
            end: 0,
            syncing: None,
            unsynced: 0,
            share: registry.staged.begin(key),
            announced,
            place,
        })
    }

    /// Bytes from the start to the end of the farthest write.
    pub fn len(&self) -> u64 {
        self.end
    }

    /// Whether nothing came.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Takes bytes. That they cannot be written may show only at a later write or at the
    /// end.
    pub async fn write(
        &mut self,
        registry: &Registry,
        offset: u64,
        data: Bytes,
    ) -> Result<(), String> {
        if !self.place.moved() {
            let place = registry.uploads.try_enter(self.share.key());
            self.place = place.ok_or_else(too_many)?;
        }
        self.end = self.end.max(offset.saturating_add(data.len() as u64));
        self.announced.came(self.end);
        self.queued += data.len() + WRITE_OVERHEAD;
        self.queue.push((offset, data));
        if self.queued >= MAX_QUEUED || self.is_written() {
            self.settle().await;
        }
        let mut refused = self.share.grow(self.end);
        if self.queued >= BATCH {
            self.start_writing();
            if self.sync_behind().await {
                refused = refused.and_then(|()| self.check_free(registry));
            }
            registry.renew_staged(self.share.key()).await;
        }
        if let Err(why) = refused {
            self.settle().await;
            self.disk = Disk::Failed(why);
        }
        self.place.waits();
        match &self.disk {
            Disk::Failed(text) => Err(text.clone()),
            _ => Ok(()),
        }
    }

    /// What is announced has its room, unless others than uploads take it.
    fn check_free(&self, registry: &Registry) -> Result<(), String> {
        if self.announced.is_known() { registry.check_room(0, 0) } else { registry.check_free() }
    }

    /// Whether its client has sent nothing for so long that somebody else has its place.
    pub fn has_given_way(&self) -> bool {
        self.place.is_lost()
    }

    fn is_written(&self) -> bool {
        matches!(&self.disk, Disk::Writing(task) if task.is_finished())
    }

    /// Waits for the writes that were handed over.
    async fn settle(&mut self) {
        if let Disk::Writing(task) = &mut self.disk {
            self.disk = match task.await {
                Ok(Ok(staging)) => Disk::Idle(staging),
                Ok(Err(Error::OverLimit { limit, .. })) => Disk::Failed(too_large(limit)),
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

    /// The upload is whole: synced and staged under its digest, where it waits to be bound.
    pub async fn finish(mut self, registry: &Registry) -> Result<Digest, String> {
        self.settle().await;
        self.start_writing();
        self.settle().await;
        self.settle_sync().await;
        let digest = match self.disk {
            Disk::Idle(staging) => blocking(move || staging.finish()).await?,
            Disk::Failed(text) => return Err(text),
            Disk::Writing(_) => return Err("internal error: still writing".to_owned()),
        };
        registry.renew_staged(self.share.key()).await;
        self.share.wait(digest);
        if let Err(refusal) = registry.take_back(digest).await {
            tracing::error!(%digest, "cannot take a lost blob back: {refusal}");
        }
        Ok(digest)
    }
}

fn too_large(limit: u64) -> String {
    format!("size of the upload is over the limit of {} (-max-upload)", Size(limit))
}

fn too_many() -> String {
    "too many uploads at once, try again later".to_owned()
}

/// Runs `work`, which waits for the disk, beside the tasks that wait for the network.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> deploy_store::Result<T> + Send + 'static,
) -> Result<T, String> {
    crate::registry::blocking(work).await.map_err(|err| err.to_string())
}
