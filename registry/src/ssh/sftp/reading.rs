//! Sftp, where it reads: services see `configs/NAME.json` from the catalogue and the
//! published blobs in `files/`; operators see components, versions and states, too. Nothing
//! else exists, whatever a path says.

use std::fs::{File as Blob, Metadata};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use jiff::Timestamp;
use russh_sftp::protocol::{File, FileAttributes, Lstat, OpenFlags, Packet, Stat};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task::spawn_blocking;

use crate::console::Caller;
use crate::registry::Registry;
use crate::ssh::activity::{Activity, Busy};
use crate::ssh::auth::keyring::Role;
use crate::ssh::channel::Context;
use crate::ssh::sftp::{Handles, MAX_DATA, Refusal, Reply, data_of, data_packet, shorten};
use crate::uploads::downloads::Transfer;
use crate::uploads::open_files::{Reader, Readers};
use crate::view::items::{self, Item};
use crate::view::lookup::{self, Contents};
use crate::view::view_path::{self, Place};

/// Names that one reply to readdir carries.
const PAGE: usize = 64;

/// What one channel sees.
#[derive(Debug)]
pub struct View {
    registry: Arc<Registry>,
    activity: Arc<Activity>,
    operator: bool,
    caller: Caller,
    open: Handles<(Open, Busy, Option<Reader>)>,
}

#[derive(Debug)]
enum Open {
    Blob {
        blob: Arc<Blob>,
        created: Option<Timestamp>,
        #[expect(dead_code, reason = "it is one as long as it is there")]
        transfer: Transfer,
    },
    Document(Bytes, Timestamp),
    Directory(IntoIter<Item>),
}

impl View {
    /// The view of a channel.
    pub fn new(context: &Context) -> Self {
        Self {
            registry: Arc::clone(&context.registry),
            activity: Arc::clone(&context.activity),
            operator: context.role == Role::Operator,
            caller: context.caller.clone(),
            open: Handles::new(""),
        }
    }

    /// Answers a request.
    pub async fn answer(&mut self, packet: Packet) -> Result<Reply, Refusal> {
        match packet {
            Packet::Open(open) => self.open(&open.filename, open.pflags).await,
            Packet::Close(close) => self.open.remove(&close.handle).map(|_| Reply::Done),
            Packet::Read(read) => {
                let length = read.len.min(MAX_DATA) as usize;
                match &self.open.get(&read.handle)?.0 {
                    Open::Blob { blob, .. } => {
                        read_blob(Arc::clone(blob), read.offset, length).await
                    }
                    Open::Document(json, _) => read_bytes(json, read.offset, length),
                    Open::Directory(_) => Err(Refusal::failure("is a directory")),
                }
            }
            Packet::Stat(Stat { path, .. }) | Packet::Lstat(Lstat { path, .. }) => {
                self.stat(&path).await.map(Reply::Attributes)
            }
            Packet::Fstat(request) => {
                let (open, ..) = self.open.get(&request.handle)?;
                open.attributes().map(Reply::Attributes)
            }
            Packet::OpenDir(request) => self.open_directory(&request.path).await,
            Packet::ReadDir(request) => self.read_directory(&request.handle),
            _ => Err(Refusal::denied()),
        }
    }

    fn reader(&self, readers: &Arc<Readers>) -> Result<Reader, Refusal> {
        let none = || Refusal::failure("too much is being read here, try again later");
        readers.open(&self.caller.key).ok_or_else(none)
    }

    fn place(&self, path: &str) -> Result<Place, Refusal> {
        let parse = if self.operator { view_path::parse_for_operator } else { view_path::parse };
        parse(path).ok_or_else(Refusal::not_found)
    }

    async fn open(&mut self, path: &str, flags: OpenFlags) -> Result<Reply, Refusal> {
        if flags.bits() & !OpenFlags::READ.bits() != 0 {
            return Err(Refusal::denied());
        }
        self.open.check_room()?;
        let place = self.place(path)?;
        // Configurations are in memory once, for however many: a fleet may ask at one moment.
        let counts = !matches!(place, Place::Configuration(_));
        let reader = counts.then(|| self.reader(&self.registry.files)).transpose()?;
        let open = Open::from(lookup::open(&self.registry, place).await?);
        Ok(self.open.insert((open, self.activity.busy(), reader)))
    }

    /// Attributes of what `path` names.
    pub async fn stat(&self, path: &str) -> Result<FileAttributes, Refusal> {
        let place = self.place(path)?;
        if lookup::is_directory(&self.registry, &place).await? {
            return Ok(items::directory());
        }
        Open::from(lookup::open(&self.registry, place).await?).attributes()
    }

    async fn open_directory(&mut self, path: &str) -> Result<Reply, Refusal> {
        self.open.check_room()?;
        let reader = self.reader(&self.registry.lists)?;
        let mut items = lookup::list(&self.registry, &self.place(path)?, self.operator).await?;
        if self.operator {
            self.add_uploads(&view_path::clean(path), &mut items);
        }
        let open = Open::Directory(items.into_iter());
        Ok(self.open.insert((open, self.activity.busy(), Some(reader))))
    }

    /// What this connection uploaded to a directory and is no version is seen there, too.
    fn add_uploads(&self, directory: &str, items: &mut Vec<Item>) {
        for (path, uploaded) in self.registry.recent.of_connection(&self.caller) {
            let (parent, name) = view_path::split(&path);
            if parent == directory
                && !uploaded.bound
                && !items.iter().any(|item| item.name() == name)
            {
                let (size, time) = (uploaded.bytes, uploaded.time);
                items.push(Item::Upload { name: name.to_owned(), size, time });
            }
        }
    }

    fn read_directory(&mut self, handle: &str) -> Result<Reply, Refusal> {
        let (Open::Directory(items), ..) = self.open.get(handle)? else {
            return Err(Refusal::failure("is no directory"));
        };
        let now = Timestamp::now();
        let page: Vec<File> = items.take(PAGE).map(|item| item.file(now)).collect();
        if page.is_empty() { Err(Refusal::end()) } else { Ok(Reply::Names(page)) }
    }
}

impl From<Contents> for Open {
    fn from(contents: Contents) -> Self {
        match contents {
            Contents::Blob(blob, transfer, created) => {
                Self::Blob { blob: Arc::new(blob), created, transfer }
            }
            Contents::Document(bytes, modified) => Self::Document(bytes, modified),
        }
    }
}

impl Open {
    fn attributes(&self) -> Result<FileAttributes, Refusal> {
        match self {
            Self::Blob { blob, created, .. } => {
                let meta = blob.metadata().map_err(|err| unreadable(&err))?;
                Ok(blob_attributes(&meta, *created))
            }
            Self::Document(json, modified) => {
                Ok(items::configuration(json.len() as u64, *modified))
            }
            Self::Directory(_) => Ok(items::directory()),
        }
    }
}

fn blob_attributes(meta: &Metadata, created: Option<Timestamp>) -> FileAttributes {
    items::blob(meta.len(), created.map_or(meta.mtime(), Timestamp::as_second))
}

/// Reads from memory where the bytes are there, and only otherwise in a thread that
/// may wait for the disk: changing threads costs more than the reading.
async fn read_blob(blob: Arc<Blob>, offset: u64, length: usize) -> Result<Reply, Refusal> {
    // Further on no file goes, and to the system the farthest of all means something else.
    if i64::try_from(offset).is_err() {
        return Err(Refusal::end());
    }
    let mut packet = data_packet(length);
    let at_hand = read_full(data_of(&mut packet), offset, |part, at| {
        let flags = ReadWriteFlags::NOWAIT;
        preadv2(&blob, &mut [IoSliceMut::new(part)], at, flags).map_err(io::Error::from)
    });
    let read = match at_hand {
        Ok(read) => read,
        Err(_) => {
            let reading = spawn_blocking(move || {
                let read =
                    read_full(data_of(&mut packet), offset, |part, at| blob.read_at(part, at));
                (packet, read)
            });
            let done = reading.await;
            let read;
            (packet, read) =
                done.map_err(|err| Refusal::failure(format!("internal error: {err}")))?;
            read.map_err(|err| unreadable(&err))?
        }
    };
    shorten(&mut packet, read);
    if read == 0 { Err(Refusal::end()) } else { Ok(Reply::Data(packet)) }
}

/// Reads until `buffer` is full or the file ends.
fn read_full(
    buffer: &mut [u8],
    offset: u64,
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match read(&mut buffer[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            // So far on that no byte can follow.
            Err(err) if err.kind() == io::ErrorKind::InvalidInput => break,
            Err(err) => return Err(err),
        }
    }
    Ok(done)
}

fn read_bytes(bytes: &Bytes, offset: u64, length: usize) -> Result<Reply, Refusal> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let part = &bytes[start..bytes.len().min(start.saturating_add(length))];
    if part.is_empty() {
        return Err(Refusal::end());
    }
    let mut packet = data_packet(part.len());
    data_of(&mut packet).copy_from_slice(part);
    Ok(Reply::Data(packet))
}

fn unreadable(err: &io::Error) -> Refusal {
    tracing::error!("blob cannot be read: {err}");
    Refusal::failure(err.to_string())
}
