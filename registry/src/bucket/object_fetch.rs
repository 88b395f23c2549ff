//! Copies an object from the bucket to the local disk. Any number of readers follow the growing
//! file, so one request serves all of them. The last byte becomes readable only after the whole
//! object was hashed: no reader gets a complete file with wrong bytes.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy_store::{BlobWriter, Digest};
use futures_util::StreamExt as _;
use tokio::sync::watch;

use super::s3_client::Client;
use crate::blocking::blocking;
use crate::catalog::ObjectRow;
use crate::error::{Error, Result};

/// How many bytes are written at a time.
const BATCH: usize = 256 << 10;
/// How many times a transfer is continued that breaks again before any new byte arrives, and the
/// pause before that.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(500);

/// A copy that is being made.
#[derive(Debug)]
pub struct Fetch {
    file: Arc<File>,
    progress: watch::Sender<Progress>,
}

#[derive(Debug, Clone)]
enum Progress {
    /// Readers may read this many bytes.
    Readable(u64),
    Complete,
    Failed(String),
}

/// Why an object could not be copied.
pub(super) enum Failed {
    /// The object has wrong bytes.
    Damaged(String),
    /// The server, the network or the local disk failed.
    Other(Error),
}

impl From<Error> for Failed {
    fn from(err: Error) -> Self {
        Self::Other(err)
    }
}

impl From<deploy_store::Error> for Failed {
    fn from(err: deploy_store::Error) -> Self {
        Self::Other(err.into())
    }
}

impl Fetch {
    /// A copy that has no bytes yet. `file` is the file into which they are written.
    pub(super) fn new(file: File) -> Arc<Self> {
        Arc::new(Self { file: Arc::new(file), progress: watch::Sender::new(Progress::Readable(0)) })
    }

    /// The file, which may still grow.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Waits until the bytes up to `end` can be read, or until the copy is complete.
    pub async fn wait_for(&self, end: u64) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let reached = progress
            .wait_for(|progress| match progress {
                Progress::Readable(bytes) => *bytes >= end,
                Progress::Complete | Progress::Failed(_) => true,
            })
            .await;
        match reached.as_deref() {
            Ok(Progress::Failed(why)) => Err(Error::NoBucket(why.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Failed("internal error: the copy has ended".to_owned())),
        }
    }

    /// Waits until the copy is complete.
    pub async fn complete(&self) -> Result<()> {
        self.wait_for(u64::MAX).await
    }

    /// Tells the readers how the copy ended.
    pub(super) fn end(&self, ended: Result<(), String>) {
        self.progress.send_replace(match ended {
            Ok(()) => Progress::Complete,
            Err(why) => Progress::Failed(why),
        });
    }

    /// Copies the object into `writer`. Ends with a complete staged file.
    pub(super) async fn copy(
        &self,
        client: &Client,
        row: &ObjectRow,
        writer: BlobWriter,
    ) -> Result<(), Failed> {
        let mut writer = Box::new(writer);
        let readable = |written: u64| {
            let readable = written.min(row.bytes.saturating_sub(1));
            self.progress.send_replace(Progress::Readable(readable));
        };
        let mut source = Source::new(client, row);
        while let Some(bytes) = source.next().await? {
            let written = blocking(move || {
                for piece in bytes {
                    writer.write_at(writer.len(), &piece)?;
                }
                Ok(writer)
            });
            writer = written.await?;
            readable(writer.len());
        }
        let digest = row.digest;
        match blocking(move || writer.finish_as(digest)).await {
            Err(deploy_store::Error::DigestMismatch { found, .. }) => Err(damaged(row, found)),
            done => Ok(done?),
        }
    }
}

/// The error for an object with the digest `found`.
pub(super) fn damaged(row: &ObjectRow, found: Digest) -> Failed {
    Failed::Damaged(format!(
        "the object {} in the bucket is damaged: the digest of its bytes is {found}; upload the \
         same bytes again",
        row.place
    ))
}

/// Reads an object from its beginning to its end. If the connection breaks, the reading continues
/// where it stopped.
pub(super) struct Source<'a> {
    client: &'a Client,
    row: &'a ObjectRow,
    pieces: Option<super::s3_client::Pieces>,
    at: u64,
    failures: u32,
}

impl<'a> Source<'a> {
    pub(super) fn new(client: &'a Client, row: &'a ObjectRow) -> Self {
        Self { client, row, pieces: None, at: 0, failures: 0 }
    }

    /// The next bytes. `None` at the end of the object.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, Failed> {
        loop {
            if self.at == self.row.bytes {
                return Ok(None);
            }
            match self.read().await? {
                Ok(batch) if !batch.is_empty() => {
                    self.failures = 0;
                    return Ok(Some(batch));
                }
                broken => {
                    self.pieces = None;
                    self.failures += 1;
                    if self.failures > TRIES {
                        let ended = || {
                            let (place, at) = (&self.row.place, self.at);
                            let address = self.client.address();
                            Error::NoBucket(format!(
                                "bucket {address}: read {place}: the answer ended after {at} bytes"
                            ))
                        };
                        return Err(broken.err().unwrap_or_else(ended).into());
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Reads some bytes. The outer error is final. After the inner error, the reading may be
    /// continued.
    async fn read(&mut self) -> Result<Result<Vec<Bytes>>, Failed> {
        let pieces = match &mut self.pieces {
            Some(pieces) => pieces,
            none => match self.client.get(&self.row.place, self.at).await? {
                Some(pieces) => none.insert(pieces),
                None => return Err(missing(self.row).into()),
            },
        };
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while bytes < BATCH {
            match pieces.next().await {
                Some(Ok(piece)) => {
                    bytes += piece.len();
                    self.at += piece.len() as u64;
                    batch.push(piece);
                }
                Some(Err(err)) if batch.is_empty() => return Ok(Err(err)),
                Some(Err(_)) | None => {
                    self.pieces = None;
                    break;
                }
            }
        }
        if self.at > self.row.bytes {
            let (place, bytes) = (&self.row.place, self.row.bytes);
            return Err(Failed::Damaged(format!(
                "the object {place} in the bucket is damaged: it has more than {bytes} bytes; \
                 upload the same bytes again"
            )));
        }
        Ok(Ok(batch))
    }
}

fn missing(row: &ObjectRow) -> Error {
    let (place, digest) = (&row.place, row.digest);
    Error::Damaged(format!(
        "the object {place} is missing in the bucket; upload the bytes of {digest} again"
    ))
}
