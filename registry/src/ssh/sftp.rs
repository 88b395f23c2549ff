//! The sftp protocol, version 3: packets in, packets out. What they do is in
//! `writing.rs`, for operators, and in `reading.rs`.

pub(crate) mod exchange;
pub(crate) mod handles;
mod nested;
pub(crate) mod reading;
mod renaming;
pub(crate) mod writing;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use deploy_wire::exit;
use russh_sftp::protocol::{
    Attrs, Extended, ExtendedReply, File, FileAttributes, Handle, Lstat, Name, OpenFlags, Packet,
    Rename, Stat, Status, StatusCode, Version,
};

use crate::ssh::activity::Activity;
use crate::ssh::channel_io::{Gone, Incoming};
pub use crate::ssh::sftp::handles::Handles;
use crate::ssh::sftp::reading::View;
use crate::ssh::sftp::writing::Uploads;
use crate::view::view_path;

/// Longest packet of a client; `OpenSSH` refuses longer ones too.
pub const MAX_PACKET: u32 = 256 << 10;
/// Longest read or write: a packet less its other fields.
pub const MAX_DATA: u32 = 255 << 10;
/// Handles that one channel may have open.
pub const MAX_HANDLES: usize = 64;

/// How often a client that sends nothing is looked at: its uploads may have to give way.
const LOOK_EVERY: Duration = Duration::from_secs(5);

const INIT: u8 = 1;
const WRITE: u8 = 6;
const EXTENDED: u8 = 200;
const LAST_REQUEST: u8 = 20;
const DATA: u8 = 103;
const LIMITS_EXTENSION: &str = "limits@openssh.com";
const FSYNC_EXTENSION: &str = "fsync@openssh.com";
/// A rename, as most clients ask for it where it is announced.
const RENAME_EXTENSION: &str = "posix-rename@openssh.com";
/// Announced, so that clients ask and are told that they may not.
const DENIED_EXTENSION: &str = "hardlink@openssh.com";

/// The files that a client sees.
#[derive(Debug)]
pub struct Files {
    /// What it may read.
    pub view: View,
    /// What it writes, if it may.
    pub uploads: Option<Uploads>,
}

impl Files {
    /// Whoever is in charge of a request answers it: uploads know their own handles.
    async fn answer(&mut self, packet: Packet) -> Result<Reply, Refusal> {
        let writes = OpenFlags::WRITE | OpenFlags::APPEND | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let is_upload = match &packet {
            Packet::Open(open) => open.pflags.intersects(writes),
            Packet::Close(close) => close.handle.starts_with(writing::HANDLE),
            Packet::Fstat(request) => request.handle.starts_with(writing::HANDLE),
            Packet::FSetStat(request) => request.handle.starts_with(writing::HANDLE),
            Packet::Read(read) => read.handle.starts_with(writing::HANDLE),
            Packet::Rename(_) | Packet::MkDir(_) | Packet::Remove(_) => true,
            _ => false,
        };
        let Some(uploads) = &mut self.uploads else { return self.view.answer(packet).await };
        let packet = uploads.nested.without(packet);
        if is_upload {
            return uploads.answer(packet).await;
        }
        match packet {
            Packet::Stat(Stat { path, .. }) | Packet::Lstat(Lstat { path, .. }) => {
                match uploads.attributes(&path) {
                    Some(attributes) => Ok(Reply::Attributes(attributes)),
                    None => self.view.stat(&path).await.map(Reply::Attributes),
                }
            }
            Packet::SetStat(request) => {
                let known = match uploads.attributes(&request.path) {
                    Some(attributes) => attributes,
                    None if view_path::is_in_put(&request.path) => {
                        self.view.stat(&request.path).await?
                    }
                    None => return Err(Refusal::denied()),
                };
                writing::pass_over(&known, &request.attrs)
            }
            packet => self.view.answer(packet).await,
        }
    }

    /// What an operator should know before they leave.
    fn left_over(&self) -> Option<String> {
        self.uploads.as_ref().and_then(Uploads::left_over)
    }
}

/// A request that is not done, and why.
#[derive(Debug)]
pub struct Refusal {
    /// The code, which is all that most clients show.
    pub code: StatusCode,
    /// The reason.
    pub text: String,
}

impl Refusal {
    /// The client may not.
    pub fn denied() -> Self {
        Self { code: StatusCode::PermissionDenied, text: "permission denied".to_owned() }
    }

    /// There is no such file.
    pub fn not_found() -> Self {
        Self { code: StatusCode::NoSuchFile, text: "no such file".to_owned() }
    }

    /// There is nothing more to read.
    pub fn end() -> Self {
        Self { code: StatusCode::Eof, text: "end of file".to_owned() }
    }

    /// It went wrong.
    pub fn failure(text: impl Into<String>) -> Self {
        Self { code: StatusCode::Failure, text: text.into() }
    }
}

/// A request that hands or asks for data; the others are the library's.
pub(super) enum Request {
    Write { id: u32, handle: String, offset: u64, data: Bytes },
    Other(Packet),
}

/// What is answered; data is already in the form of the wire.
#[derive(Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// An open handle.
    Handle(String),
    /// Attributes of a file.
    Attributes(FileAttributes),
    /// Files of a directory.
    Names(Vec<File>),
    /// Bytes of a file, as [`data_packet`] makes them.
    Data(BytesMut),
}

/// Serves sftp until the client is done; returns the exit code.
pub async fn run(
    client: &mut Incoming,
    activity: &Arc<Activity>,
    mut files: Files,
) -> Result<u8, Gone> {
    let mut told = String::new();
    loop {
        let request = match take_packet(&mut client.bytes) {
            Ok(Some(packet)) => parse(packet),
            Ok(None) if client.ended && client.bytes.is_empty() => {
                if let Some(text) = files.left_over() {
                    tracing::warn!("{}", text.trim_end());
                    client.send_error(text).await?;
                }
                return Ok(exit::OK);
            }
            Ok(None) if client.ended => None,
            Ok(None) => {
                match &mut files.uploads {
                    Some(uploads) if !client.more_within(LOOK_EVERY).await? => uploads.give_way(),
                    Some(_) => {}
                    None => client.more().await?,
                }
                continue;
            }
            Err(BadLength) => None,
        };
        let Some(request) = request else {
            tracing::info!("sftp packet cannot be read, session ended");
            return Ok(exit::FAILED);
        };
        // Until the reply is on its way, so that a stop does not come between.
        let _busy = activity.busy();
        let working = activity.working();
        let (reply, why) = answer(request, &mut files).await;
        drop(working);
        // Stock clients show the code alone, which says nothing, and standard error.
        if let Some(why) = why.filter(|why| *why != told) {
            client.send_error(format!("{why}\n")).await?;
            told = why;
        }
        client.send(reply).await?;
    }
}

/// A packet says that it is empty, or longer than may be.
struct BadLength;

/// Takes the next packet, without its length, if it is all there.
fn take_packet(bytes: &mut BytesMut) -> Result<Option<Bytes>, BadLength> {
    let Some(mut head) = bytes.get(..4) else { return Ok(None) };
    let length = head.get_u32();
    if length == 0 || length > MAX_PACKET {
        return Err(BadLength);
    }
    let length = length as usize;
    if bytes.len() < 4 + length {
        bytes.reserve(4 + length - bytes.len());
        return Ok(None);
    }
    bytes.advance(4);
    Ok(Some(bytes.split_to(length).freeze()))
}

fn parse(mut packet: Bytes) -> Option<Request> {
    match *packet.first()? {
        WRITE => {
            packet.advance(1);
            let id = packet.try_get_u32().ok()?;
            let handle = String::from_utf8(take_string(&mut packet)?.to_vec()).ok()?;
            let offset = packet.try_get_u64().ok()?;
            let data = take_string(&mut packet)?;
            Some(Request::Write { id, handle, offset, data })
        }
        // Only requests: replies and unknown kinds of packets end the session.
        INIT | 3..=LAST_REQUEST | EXTENDED => {
            Packet::try_from(&mut packet).ok().map(Request::Other)
        }
        _ => None,
    }
}

fn take_string(packet: &mut Bytes) -> Option<Bytes> {
    let length = packet.try_get_u32().ok()? as usize;
    (length <= packet.len()).then(|| packet.split_to(length))
}

/// The next request, if it is all there and can be read.
pub(super) fn next(bytes: &mut BytesMut) -> Option<Request> {
    take_packet(bytes).ok().flatten().and_then(parse)
}

/// The reply to a request, and what an operator should know of it.
pub(super) async fn answer(request: Request, files: &mut Files) -> (Bytes, Option<String>) {
    let (id, done) = match request {
        Request::Write { id, handle, offset, data } => (
            id,
            match &mut files.uploads {
                Some(uploads) => uploads.write(&handle, offset, data).await,
                None => Err(Refusal::denied()),
            },
        ),
        Request::Other(Packet::Init(_)) => return (encode(version()), None),
        Request::Other(Packet::Extended(extended)) if extended.request != RENAME_EXTENSION => {
            return (extend(extended), None);
        }
        Request::Other(packet) => {
            let id = packet.get_request_id();
            match packet {
                Packet::RealPath(request) if request.path.len() <= view_path::MAX_PATH => {
                    let name = File::dummy(view_path::clean(&request.path));
                    (id, Ok(Reply::Names(vec![name])))
                }
                Packet::Extended(extended) => {
                    let done = match renaming(extended) {
                        Some(rename) => files.answer(Packet::Rename(rename)).await,
                        None => Err(Refusal {
                            code: StatusCode::BadMessage,
                            text: "cannot be read".to_owned(),
                        }),
                    };
                    (id, done)
                }
                packet => (id, files.answer(packet).await),
            }
        }
    };
    let why = match &done {
        Err(Refusal { code: StatusCode::Failure, text }) => Some(text.clone()),
        _ => None,
    };
    let why = why.filter(|_| files.uploads.is_some());
    (encode_reply(id, done), why)
}

fn version() -> Packet {
    let mut version = Version::new();
    for name in [LIMITS_EXTENSION, FSYNC_EXTENSION, RENAME_EXTENSION, DENIED_EXTENSION] {
        version.extensions.insert(name.to_owned(), "1".to_owned());
    }
    Packet::Version(version)
}

fn extend(Extended { id, request, .. }: Extended) -> Bytes {
    match request.as_str() {
        LIMITS_EXTENSION => {
            let handles = MAX_HANDLES as u64;
            let limits = [MAX_PACKET.into(), MAX_DATA.into(), MAX_DATA.into(), handles];
            let data = limits.iter().flat_map(|limit: &u64| limit.to_be_bytes()).collect();
            encode(Packet::ExtendedReply(ExtendedReply { id, data }))
        }
        // Every upload is synced when it is closed.
        FSYNC_EXTENSION => encode_reply(id, Ok(Reply::Done)),
        DENIED_EXTENSION => encode_reply(id, Err(Refusal::denied())),
        _ => {
            let (code, text) = (StatusCode::OpUnsupported, "not supported".to_owned());
            encode_reply(id, Err(Refusal { code, text }))
        }
    }
}

/// What `posix-rename@openssh.com` asks for: two paths.
fn renaming(Extended { id, data, .. }: Extended) -> Option<Rename> {
    let mut data = Bytes::from(data);
    let mut path = || String::from_utf8(take_string(&mut data)?.to_vec()).ok();
    Some(Rename { id, oldpath: path()?, newpath: path()? })
}

fn encode_reply(id: u32, done: Result<Reply, Refusal>) -> Bytes {
    let status = |status_code, error_message| {
        let language_tag = "en".to_owned();
        Packet::Status(Status { id, status_code, error_message, language_tag })
    };
    encode(match done {
        Ok(Reply::Data(packet)) => return finish_data_packet(id, packet),
        Ok(Reply::Done) => status(StatusCode::Ok, "ok".to_owned()),
        Ok(Reply::Handle(handle)) => Packet::Handle(Handle { id, handle }),
        Ok(Reply::Attributes(attrs)) => Packet::Attrs(Attrs { id, attrs }),
        Ok(Reply::Names(files)) => Packet::Name(Name { id, files }),
        Err(Refusal { code, text }) => status(code, text),
    })
}

fn encode(packet: Packet) -> Bytes {
    // Only a packet over 4 GiB cannot be encoded; the empty one ends the client's session.
    Bytes::try_from(packet).unwrap_or_default()
}

const DATA_HEADER: usize = 13;

/// Room for a data packet of `length` bytes, to be filled from [`data_of`].
pub fn data_packet(length: usize) -> BytesMut {
    BytesMut::zeroed(DATA_HEADER + length)
}

/// The bytes of a data packet.
pub fn data_of(packet: &mut BytesMut) -> &mut [u8] {
    &mut packet[DATA_HEADER..]
}

/// Shortens a data packet to `length` bytes.
pub fn shorten(packet: &mut BytesMut, length: usize) {
    packet.truncate(DATA_HEADER + length);
}

fn finish_data_packet(id: u32, mut packet: BytesMut) -> Bytes {
    let length = u32::try_from(packet.len()).unwrap_or(0);
    let mut header = &mut packet[..DATA_HEADER];
    header.put_u32(length.saturating_sub(4));
    header.put_u8(DATA);
    header.put_u32(id);
    header.put_u32(length.saturating_sub(13));
    packet.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_requests_that_can_be_read_are_taken() {
        let write = |length: u32| {
            let mut packet = BytesMut::new();
            packet.put_u8(WRITE);
            packet.put_u32(7);
            packet.put_slice(b"\0\0\0\x011");
            packet.put_u64(9);
            packet.put_u32(length);
            packet.put_slice(b"abc");
            packet.freeze()
        };
        let Some(Request::Write { id, handle, offset, data }) = parse(write(3)) else {
            panic!("not a write")
        };
        assert_eq!((id, &*handle, offset, &data[..]), (7, "1", 9, &b"abc"[..]));
        assert!(parse(write(4)).is_none());
        assert!(parse(write(u32::MAX)).is_none());
        for bad in [&b""[..], b"\x02", b"\x06", b"\x65\0\0\0\x01", b"\xff", b"\x03\0\0\0\x01\xff"] {
            assert!(parse(Bytes::from_static(bad)).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn data_packets_have_the_form_of_the_protocol() {
        let mut packet = data_packet(5);
        data_of(&mut packet)[..3].copy_from_slice(b"xyz");
        shorten(&mut packet, 3);
        let bytes = encode_reply(258, Ok(Reply::Data(packet)));
        assert_eq!(&bytes[..], b"\0\0\0\x0c\x67\0\0\x01\x02\0\0\0\x03xyz");
    }
}
