//! Serves reads over sftp. Agents see `configs/NAME.json` from the catalogue, and the published
//! blobs in `files/`. Operators also see components, versions, states, `/fleet` and `/put`. No
//! other path exists.

use std::fs::File as Blob;
use std::io::{self, IoSliceMut};
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, OnceLock};
use std::vec::IntoIter;

use bytes::Bytes;
use deploy_wire::fleet::HostName;
use jiff::Timestamp;
use russh_sftp::protocol::{File, FileAttributes, Lstat, OpenFlags, Packet, Stat};
use rustix::io::{ReadWriteFlags, preadv2};
use tokio::task::spawn_blocking;

use super::file_attributes;
use super::handles::HandleTable;
use super::packets::{MAX_DATA, Reply, SftpError, data_of, data_packet, shorten};
use crate::bucket::BlobFile;
use crate::caller::Caller;
use crate::catalog::Position;
use crate::fleet::host_view::{HostView, view};
use crate::fleet::polls::{Poller, host_name};
use crate::registry::Registry;
use crate::ssh::activity::{Activity, Busy};
use crate::ssh::auth::keyring::Role;
use crate::ssh::context::Context;
use crate::uploads::downloads::Download;
use crate::uploads::open_files::{OpenFileGuard, OpenFileQuota};
use crate::view::items::Item;
use crate::view::lookup;
use crate::view::view_path::{self, Place};

/// Maximum number of names in one reply to readdir.
const PAGE: usize = 64;

/// The files that the client of one channel sees.
#[derive(Debug)]
pub struct View {
    registry: Arc<Registry>,
    activity: Arc<Activity>,
    operator: bool,
    caller: Caller,
    address: IpAddr,
    declared: Arc<OnceLock<HostName>>,
    open: HandleTable<(Open, Busy, Option<OpenFileGuard>)>,
}

/// What a client sees at a path.
struct Shown {
    place: Place,
    /// The agent that reads the target of a rollout, and the number of the rollout.
    fetches: Option<(Poller, u64)>,
    /// The position of the configuration, if [`View::shown`] has read it.
    position: Option<Position>,
}

impl From<Place> for Shown {
    fn from(place: Place) -> Self {
        Self { place, fetches: None, position: None }
    }
}

#[derive(Debug)]
enum Open {
    Blob {
        blob: BlobFile,
        created: Option<Timestamp>,
        #[expect(dead_code, reason = "the download ends when it is dropped")]
        download: Download,
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
            address: context.address,
            declared: Arc::clone(&context.declared),
            open: HandleTable::new(""),
        }
    }

    /// Answers a request.
    pub async fn answer(&mut self, packet: Packet) -> Result<Reply, SftpError> {
        match packet {
            Packet::Open(open) => self.open(&open.filename, open.pflags).await,
            Packet::Close(close) => self.open.remove(&close.handle).map(|_| Reply::Done),
            Packet::Read(read) => {
                let length = read.len.min(MAX_DATA) as usize;
                match &self.open.get(&read.handle)?.0 {
                    Open::Blob { blob, .. } => {
                        blob.wait_for(read.offset.saturating_add(length as u64)).await?;
                        let file = Arc::clone(blob.file());
                        let (packet, bytes) = read_blob(file, read.offset, length).await?;
                        self.registry.fleet.metrics.sent_bytes.inc_by(bytes);
                        Ok(packet)
                    }
                    Open::Document(json, _) => read_bytes(json, read.offset, length),
                    Open::Directory(_) => Err(SftpError::failure("is a directory")),
                }
            }
            Packet::Stat(Stat { path, .. }) | Packet::Lstat(Lstat { path, .. }) => {
                self.stat(&path).await.map(Reply::Attributes)
            }
            Packet::Fstat(request) => {
                let (open, ..) = self.open.get(&request.handle)?;
                Ok(Reply::Attributes(open.attributes()))
            }
            Packet::OpenDir(request) => self.open_directory(&request.path).await,
            Packet::ReadDir(request) => self.read_directory(&request.handle),
            _ => Err(SftpError::denied()),
        }
    }

    fn take_quota(&self, quota: &Arc<OpenFileQuota>) -> Result<OpenFileGuard, SftpError> {
        let none = || SftpError::failure("too many files are being read; try again later");
        quota.open(&self.caller.key).ok_or_else(none)
    }

    fn place(&self, path: &str) -> Result<Place, SftpError> {
        let parse = if self.operator { view_path::parse_for_operator } else { view_path::parse };
        parse(path).ok_or_else(SftpError::not_found)
    }

    /// The place whose contents the client gets if it asks for `place`. If an agent polls a
    /// configuration, the function also records the poll. An agent on a held host gets the state
    /// recorded for the hold. If a wave of a rollout has taken the host, the agent gets the target.
    async fn shown(&self, place: Place) -> Result<Shown, SftpError> {
        let Place::Configuration(name) = &place else { return Ok(Shown::from(place)) };
        if self.operator {
            return Ok(Shown::from(place));
        }
        let position = self.registry.fleet.catch_up(name).await?;
        let fleet = &self.registry.fleet;
        fleet.metrics.polls.inc();
        let (name, key) = (name.clone(), self.caller.fingerprint());
        let poller = Poller { name: name.clone(), key, address: self.address.to_canonical() };
        let held = fleet.polls.polled(poller.clone(), Timestamp::now());
        let host = self.declared.get().cloned().or_else(|| host_name(poller.address).ok());
        let host = host.as_ref().map_or("", HostName::as_str);
        let rollout = fleet.rollouts.shown_to(&name, host, &poller.key);
        Ok(match (view(held.is_some(), rollout.is_some()), held, rollout) {
            (HostView::Held, Some(number), _) => Shown::from(Place::State(name, number)),
            (HostView::Target, _, Some(rollout)) => {
                // An agent that has declared its host also reports, so the registry need not record
                // the read.
                let fetches = self.declared.get().is_none().then_some((poller, rollout.number));
                Shown { place: Place::State(name, rollout.target), fetches, position: None }
            }
            _ => Shown { place, fetches: None, position },
        })
    }

    async fn open(&mut self, path: &str, flags: OpenFlags) -> Result<Reply, SftpError> {
        if flags.bits() & !OpenFlags::READ.bits() != 0 {
            return Err(SftpError::denied());
        }
        self.open.check_room()?;
        let Shown { place, fetches, position } = self.shown(self.place(path)?).await?;
        // A whole fleet may ask for a configuration at the same time, and all readers share the
        // document in memory. So a configuration does not count towards the quota.
        let is_configuration = match place {
            Place::Configuration(_) => true,
            Place::State(..) => !self.operator,
            _ => false,
        };
        let quota =
            (!is_configuration).then(|| self.take_quota(&self.registry.open_files)).transpose()?;
        let open = Open::from(lookup::open(&self.registry, place, position).await?);
        if let Some((poller, rollout)) = fetches {
            self.registry.fleet.polls.fetched(&poller, rollout);
        }
        Ok(self.open.insert((open, self.activity.busy(), quota)))
    }

    /// Attributes of the file or directory `path`.
    pub async fn stat(&self, path: &str) -> Result<FileAttributes, SftpError> {
        let Shown { place, position, .. } = self.shown(self.place(path)?).await?;
        if lookup::is_directory(&self.registry, &place).await? {
            return Ok(file_attributes::directory());
        }
        if let Some(found) = lookup::blob_times(&self.registry, &place).await? {
            return Ok(file_attributes::blob(found.bytes, found.modified));
        }
        Ok(Open::from(lookup::open(&self.registry, place, position).await?).attributes())
    }

    async fn open_directory(&mut self, path: &str) -> Result<Reply, SftpError> {
        self.open.check_room()?;
        let quota = self.take_quota(&self.registry.open_lists)?;
        let mut items = lookup::list(&self.registry, &self.place(path)?, self.operator).await?;
        if self.operator {
            self.add_uploads(&view_path::clean(path), &mut items);
        }
        let open = Open::Directory(items.into_iter());
        Ok(self.open.insert((open, self.activity.busy(), Some(quota))))
    }

    /// Adds the unbound uploads of this connection to the list of the directory.
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

    fn read_directory(&mut self, handle: &str) -> Result<Reply, SftpError> {
        let (Open::Directory(items), ..) = self.open.get(handle)? else {
            return Err(SftpError::failure("the handle does not belong to a directory"));
        };
        let now = Timestamp::now();
        let page: Vec<File> =
            items.take(PAGE).map(|item| file_attributes::file(item, now)).collect();
        if page.is_empty() { Err(SftpError::end()) } else { Ok(Reply::Names(page)) }
    }
}

impl From<lookup::OpenFile> for Open {
    fn from(file: lookup::OpenFile) -> Self {
        match file {
            lookup::OpenFile::Blob(blob, download, created) => {
                Self::Blob { blob, created, download }
            }
            lookup::OpenFile::Document(bytes, modified) => Self::Document(bytes, modified),
        }
    }
}

impl Open {
    fn attributes(&self) -> FileAttributes {
        match self {
            Self::Blob { blob, created, .. } => {
                let seconds = created.map_or(blob.modified, Timestamp::as_second);
                file_attributes::blob(blob.bytes, seconds)
            }
            Self::Document(json, modified) => {
                file_attributes::configuration(json.len() as u64, *modified)
            }
            Self::Directory(_) => file_attributes::directory(),
        }
    }
}

/// Reads part of a blob. If the bytes are in memory, this thread reads them, because a change of
/// threads costs more than such a read. Otherwise, a thread that may wait for the disk reads them.
async fn read_blob(blob: Arc<Blob>, offset: u64, length: usize) -> Result<(Reply, u64), SftpError> {
    // No file is that long. Besides, the highest offset has a special meaning for the system call.
    if i64::try_from(offset).is_err() {
        return Err(SftpError::end());
    }
    let mut packet = data_packet(length);
    let cached = read_full(data_of(&mut packet), offset, |part, at| {
        let flags = ReadWriteFlags::NOWAIT;
        preadv2(&blob, &mut [IoSliceMut::new(part)], at, flags).map_err(io::Error::from)
    });
    let read = match cached {
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
                done.map_err(|err| SftpError::failure(format!("internal error: {err}")))?;
            read.map_err(|err| unreadable(&err))?
        }
    };
    shorten(&mut packet, read);
    if read == 0 { Err(SftpError::end()) } else { Ok((Reply::Data(packet), read as u64)) }
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
            // The system reports this error for an offset at which no file has bytes.
            Err(err) if err.kind() == io::ErrorKind::InvalidInput => break,
            Err(err) => return Err(err),
        }
    }
    Ok(done)
}

fn read_bytes(bytes: &Bytes, offset: u64, length: usize) -> Result<Reply, SftpError> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let part = &bytes[start..bytes.len().min(start.saturating_add(length))];
    if part.is_empty() {
        return Err(SftpError::end());
    }
    let mut packet = data_packet(part.len());
    data_of(&mut packet).copy_from_slice(part);
    Ok(Reply::Data(packet))
}

fn unreadable(err: &io::Error) -> SftpError {
    tracing::error!("blob cannot be read: {err}");
    SftpError::failure(err.to_string())
}
