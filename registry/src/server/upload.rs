//! SFTP for operators: write-only. Whatever name a file is put under, it is staged
//! under the digest of its bytes; the name is only a label.

use std::collections::HashMap;
use std::sync::Arc;

use deploy_store::{Digest, Staging};
use russh_sftp::protocol::{
    Attrs, File, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode, Version,
};
use russh_sftp::server::{Handler, StatusReply};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::sftp::{self, MAX_HANDLES, Path};
use super::{Busy, Shared};

/// Writes that wait for the disk before the client has to: 4 MiB of the largest.
const QUEUE: usize = 16;

/// One operator's SFTP session.
#[derive(Debug)]
pub struct Uploads {
    shared: Arc<Shared>,
    who: String,
    open: HashMap<String, Upload>,
    opened: u64,
}

/// A file that is being uploaded. Its writes are done by a thread that waits for the
/// disk, so that the next packet can be decrypted meanwhile.
#[derive(Debug)]
struct Upload {
    queue: mpsc::Sender<(u64, Vec<u8>)>,
    writer: JoinHandle<deploy_store::Result<Staging>>,
    _busy: Busy,
}

impl Uploads {
    /// A session of the operator `who`.
    pub fn new(shared: Arc<Shared>, who: String) -> Self {
        Self { shared, who, open: HashMap::new(), opened: 0 }
    }

    fn begin(&self) -> deploy_store::Result<Upload> {
        let staging = self.shared.registry.blobs().stage()?;
        let (queue, waiting) = mpsc::channel(QUEUE);
        let writer = tokio::task::spawn_blocking(move || write(staging, waiting));
        Ok(Upload { queue, writer, _busy: self.shared.busy() })
    }
}

fn write(
    mut staging: Staging,
    mut waiting: mpsc::Receiver<(u64, Vec<u8>)>,
) -> deploy_store::Result<Staging> {
    while let Some((offset, bytes)) = waiting.blocking_recv() {
        staging.write_at(offset, &bytes)?;
    }
    Ok(staging)
}

impl Upload {
    /// Waits for all writes, then gives the file its digest for a name.
    async fn finish(self) -> Result<Digest, String> {
        drop(self.queue);
        let staging = self.writer.await.map_err(|err| err.to_string())?;
        let finish = move || staging.and_then(Staging::finish);
        let finished = tokio::task::spawn_blocking(finish).await.map_err(|err| err.to_string())?;
        finished.map_err(|err| err.to_string())
    }
}

fn denied() -> StatusReply {
    StatusCode::PermissionDenied.into()
}

impl Handler for Uploads {
    type Error = StatusReply;

    fn unimplemented(&self) -> Self::Error {
        denied()
    }

    async fn init(
        &mut self,
        _version: u32,
        _extensions: HashMap<String, String>,
    ) -> Result<Version, Self::Error> {
        Ok(sftp::version())
    }

    async fn open(
        &mut self,
        id: u32,
        _filename: String,
        flags: OpenFlags,
        _attrs: FileAttributes,
    ) -> Result<Handle, Self::Error> {
        let write = OpenFlags::WRITE | OpenFlags::APPEND | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        if !flags.intersects(write) {
            return Err(denied());
        }
        if self.open.len() >= MAX_HANDLES {
            return Err(StatusCode::Failure.with_message("too many open files in this session"));
        }
        let upload = self.begin().map_err(|err| {
            tracing::error!("cannot take uploads: {err}");
            StatusCode::Failure.with_message(format!("cannot take uploads: {err}"))
        })?;
        self.opened += 1;
        let handle = self.opened.to_string();
        self.open.insert(handle.clone(), upload);
        Ok(Handle { id, handle })
    }

    async fn write(
        &mut self,
        id: u32,
        handle: String,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<Status, Self::Error> {
        let upload = self.open.get(&handle).ok_or(StatusCode::Failure)?;
        if upload.queue.send((offset, data)).await.is_ok() {
            return Ok(sftp::ok(id));
        }
        // The writer has stopped: its reason is the answer, and the upload is over.
        let why = match self.open.remove(&handle) {
            Some(upload) => upload.finish().await.err(),
            None => None,
        };
        let why = why.unwrap_or_else(|| "upload failed".to_owned());
        tracing::warn!(who = self.who, why, "upload failed");
        Err(StatusCode::Failure.with_message(why))
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, Self::Error> {
        let upload = self.open.remove(&handle).ok_or(StatusCode::Failure)?;
        match upload.finish().await {
            Ok(digest) => {
                tracing::info!(who = self.who, %digest, "uploaded");
                Ok(sftp::ok(id))
            }
            Err(why) => {
                tracing::warn!(who = self.who, why, "upload failed");
                Err(StatusCode::Failure.with_message(why))
            }
        }
    }

    async fn fsetstat(
        &mut self,
        id: u32,
        _handle: String,
        _attrs: FileAttributes,
    ) -> Result<Status, Self::Error> {
        Ok(sftp::ok(id))
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, Self::Error> {
        self.open.get(&handle).ok_or(StatusCode::Failure)?;
        Ok(Attrs { id, attrs: sftp::file_attributes(0, None, 0o600) })
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, Self::Error> {
        // scp asks whether its target is a directory; the top is one, nothing else is.
        match Path::clean(&path) {
            Path::Root => Ok(Attrs { id, attrs: sftp::directory_attributes() }),
            _ => Err(denied()),
        }
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, Self::Error> {
        self.stat(id, path).await
    }

    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, Self::Error> {
        Ok(Name { id, files: vec![File::dummy(Path::clean(&path).to_string())] })
    }

    async fn extended(
        &mut self,
        id: u32,
        request: String,
        _data: Vec<u8>,
    ) -> Result<Packet, Self::Error> {
        sftp::extended(id, &request)
    }
}
