//! SFTP for the user `deploy-agent`: the configurations as JSON and the blobs,
//! read-only.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::SystemTime;

use deploy_store::{ConfigurationName, Digest};
use russh_sftp::protocol::{
    Attrs, Data, File, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode, Version,
};
use russh_sftp::server::{Handler, StatusReply};

use super::sftp::{self, MAX_HANDLES, MAX_TRANSFER, Path};
use super::{Busy, Shared};

/// Names in one answer to a READDIR.
const PAGE: usize = 100;

/// One service's SFTP session.
#[derive(Debug)]
pub struct View {
    shared: Arc<Shared>,
    open: HashMap<String, Open>,
    opened: u64,
}

/// What a handle stands for.
#[derive(Debug)]
enum Open {
    Blob(Arc<std::fs::File>, #[expect(dead_code, reason = "held, not read")] Busy),
    Json(Vec<u8>),
    Directory(std::vec::IntoIter<File>),
}

impl View {
    /// A session.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: HashMap::new(), opened: 0 }
    }

    fn insert(&mut self, id: u32, open: Open) -> Result<Handle, StatusReply> {
        if self.open.len() >= MAX_HANDLES {
            return Err(StatusCode::Failure.with_message("too many open files in this session"));
        }
        self.opened += 1;
        let handle = self.opened.to_string();
        self.open.insert(handle.clone(), open);
        Ok(Handle { id, handle })
    }

    async fn json(&self, name: &ConfigurationName) -> Result<Vec<u8>, StatusReply> {
        match self.shared.registry.configuration_json(name).await {
            Ok(json) => json.ok_or_else(|| StatusCode::NoSuchFile.into()),
            Err(refusal) => {
                tracing::error!("reading configuration {name} failed: {refusal}");
                Err(StatusCode::Failure.with_message(refusal.text))
            }
        }
    }

    fn blob(&self, digest: Digest) -> Result<std::fs::File, StatusReply> {
        self.shared.registry.blobs().reader(digest).map_err(|err| match err {
            deploy_store::Error::NoSuchBlob(_) => StatusCode::NoSuchFile.into(),
            other => {
                tracing::error!("reading a blob failed: {other}");
                StatusCode::Failure.with_message(other.to_string())
            }
        })
    }

    async fn attributes(&self, path: &str) -> Result<FileAttributes, StatusReply> {
        match Path::clean(path) {
            Path::Root | Path::Configurations | Path::Files => Ok(sftp::directory_attributes()),
            Path::Configuration(name) => {
                let size = self.json(&name).await?.len() as u64;
                Ok(sftp::file_attributes(size, Some(SystemTime::now()), 0o644))
            }
            Path::File(digest) => {
                let meta = self.blob(digest)?.metadata().map_err(|_| StatusCode::Failure)?;
                Ok(sftp::file_attributes(meta.len(), meta.modified().ok(), 0o600))
            }
            Path::Other(_) => Err(StatusCode::NoSuchFile.into()),
        }
    }

    async fn list(&self, path: &Path) -> Result<Vec<File>, StatusReply> {
        match path {
            Path::Root => {
                let entry = |name: &str| File::new(name, sftp::directory_attributes());
                Ok(vec![entry("configs"), entry("files")])
            }
            Path::Configurations => {
                let configurations = self.shared.registry.configurations().await;
                let configurations = configurations
                    .map_err(|refusal| StatusCode::Failure.with_message(refusal.text))?;
                let now = Some(SystemTime::now());
                let entry = |configuration: &deploy_store::Configuration| {
                    let size = configuration.to_json().len() as u64;
                    let name = format!("{}.json", configuration.name().as_str());
                    File::new(name, sftp::file_attributes(size, now, 0o644))
                };
                Ok(configurations.iter().map(entry).collect())
            }
            Path::Files => {
                let blobs = Arc::clone(self.shared.registry.blobs());
                let listed = tokio::task::spawn_blocking(move || blobs.list()).await;
                let listed = listed.map_err(|_| StatusCode::Failure)?;
                let listed =
                    listed.map_err(|err| StatusCode::Failure.with_message(err.to_string()))?;
                let entry = |blob: deploy_store::BlobInfo| {
                    let attributes = sftp::file_attributes(blob.bytes, Some(blob.modified), 0o600);
                    File::new(blob.digest.to_string(), attributes)
                };
                Ok(listed.into_iter().map(entry).collect())
            }
            Path::Configuration(_) | Path::File(_) | Path::Other(_) => {
                Err(StatusCode::NoSuchFile.into())
            }
        }
    }
}

impl Handler for View {
    type Error = StatusReply;

    fn unimplemented(&self) -> Self::Error {
        StatusCode::PermissionDenied.into()
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
        filename: String,
        flags: OpenFlags,
        _attrs: FileAttributes,
    ) -> Result<Handle, Self::Error> {
        let write = OpenFlags::WRITE | OpenFlags::APPEND | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        if flags.intersects(write) {
            return Err(StatusCode::PermissionDenied.into());
        }
        let open = match Path::clean(&filename) {
            Path::Configuration(name) => Open::Json(self.json(&name).await?),
            Path::File(digest) => Open::Blob(Arc::new(self.blob(digest)?), self.shared.busy()),
            _ => return Err(StatusCode::NoSuchFile.into()),
        };
        self.insert(id, open)
    }

    async fn read(
        &mut self,
        id: u32,
        handle: String,
        offset: u64,
        len: u32,
    ) -> Result<Data, Self::Error> {
        let length = len.min(MAX_TRANSFER) as usize;
        let data = match self.open.get(&handle) {
            Some(Open::Json(json)) => {
                let from = usize::try_from(offset).unwrap_or(usize::MAX).min(json.len());
                json[from..json.len().min(from.saturating_add(length))].to_vec()
            }
            Some(Open::Blob(file, _)) => {
                let file = Arc::clone(file);
                let read = tokio::task::spawn_blocking(move || read_at(&file, offset, length));
                let read = read.await.map_err(|_| StatusCode::Failure)?;
                read.map_err(|err| StatusCode::Failure.with_message(err.to_string()))?
            }
            _ => return Err(StatusCode::Failure.into()),
        };
        if data.is_empty() { Err(StatusCode::Eof.into()) } else { Ok(Data { id, data }) }
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, Self::Error> {
        self.open.remove(&handle).ok_or(StatusCode::Failure)?;
        Ok(sftp::ok(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, Self::Error> {
        let list = self.list(&Path::clean(&path)).await?;
        self.insert(id, Open::Directory(list.into_iter()))
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, Self::Error> {
        let Some(Open::Directory(rest)) = self.open.get_mut(&handle) else {
            return Err(StatusCode::Failure.into());
        };
        let files: Vec<File> = rest.by_ref().take(PAGE).collect();
        if files.is_empty() { Err(StatusCode::Eof.into()) } else { Ok(Name { id, files }) }
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, Self::Error> {
        Ok(Attrs { id, attrs: self.attributes(&path).await? })
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, Self::Error> {
        self.stat(id, path).await
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, Self::Error> {
        let attrs = match self.open.get(&handle) {
            Some(Open::Json(json)) => {
                sftp::file_attributes(json.len() as u64, Some(SystemTime::now()), 0o644)
            }
            Some(Open::Blob(file, _)) => {
                let meta = file.metadata().map_err(|_| StatusCode::Failure)?;
                sftp::file_attributes(meta.len(), meta.modified().ok(), 0o600)
            }
            Some(Open::Directory(_)) => sftp::directory_attributes(),
            None => return Err(StatusCode::Failure.into()),
        };
        Ok(Attrs { id, attrs })
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

fn read_at(file: &std::fs::File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; length];
    let mut n = 0;
    while n < length {
        match file.read_at(&mut data[n..], offset.saturating_add(n as u64)) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    data.truncate(n);
    Ok(data)
}
