//! Parses the requests and encodes the replies of the sftp protocol, version 3.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use deploy_store::escape;
use russh_sftp::protocol::{
    Attrs, Extended, ExtendedReply, File, FileAttributes, Handle, Name, Packet, Rename, Status,
    StatusCode, Version,
};

use crate::error::Error;

/// Maximum length of a client's packet, in bytes. `OpenSSH` refuses longer packets, too.
pub const MAX_PACKET: u32 = 256 << 10;
/// Maximum number of bytes of a read or a write. A packet has 1 KiB of room for the other fields.
pub const MAX_DATA: u32 = 255 << 10;
/// Maximum number of handles that one channel may have open.
pub const MAX_HANDLES: usize = 64;

const INIT: u8 = 1;
const WRITE: u8 = 6;
const EXTENDED: u8 = 200;
const LAST_REQUEST: u8 = 20;
const DATA: u8 = 103;
const LIMITS_EXTENSION: &str = "limits@openssh.com";
const FSYNC_EXTENSION: &str = "fsync@openssh.com";
/// The extension for renames. Most clients use this extension if the server announces it.
pub(super) const RENAME_EXTENSION: &str = "posix-rename@openssh.com";
/// The server announces this extension, and denies every request that uses the extension. So
/// clients get a clear answer.
const DENIED_EXTENSION: &str = "hardlink@openssh.com";

/// Why a request failed.
#[derive(Debug)]
pub struct SftpError {
    /// The status code. Most clients show only the code.
    pub code: StatusCode,
    /// The reason.
    pub text: String,
}

impl SftpError {
    /// The client is not allowed to do this.
    pub fn denied() -> Self {
        Self { code: StatusCode::PermissionDenied, text: "permission denied".to_owned() }
    }

    /// The file does not exist.
    pub fn not_found() -> Self {
        Self { code: StatusCode::NoSuchFile, text: "no such file".to_owned() }
    }

    /// The client has read everything.
    pub fn end() -> Self {
        Self { code: StatusCode::Eof, text: "end of file".to_owned() }
    }

    /// The request failed.
    pub fn failure(text: impl Into<String>) -> Self {
        Self { code: StatusCode::Failure, text: text.into() }
    }
}

impl From<Error> for SftpError {
    fn from(err: Error) -> Self {
        match err {
            Error::NotFound(_) => Self::not_found(),
            Error::Store(err) => Self::failure(escape(&err.to_string())),
            other => Self::failure(other.to_string()),
        }
    }
}

/// A request. The sftp library parses all kinds of requests except writes.
pub(crate) enum SftpRequest {
    Write { id: u32, handle: String, offset: u64, data: Bytes },
    Other(Packet),
}

/// The answer to a request. `Data` already has the form of a packet.
#[derive(Debug)]
pub enum Reply {
    /// The request was successful.
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

/// The length of a packet is zero or over the limit.
pub(super) struct BadLength;

/// Takes the next packet, without its length field, if the whole packet has arrived.
pub(super) fn take_packet(bytes: &mut BytesMut) -> Result<Option<Bytes>, BadLength> {
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

/// Parses a request. `None` if the request cannot be parsed. Such a request ends the session.
pub(super) fn parse(mut packet: Bytes) -> Option<SftpRequest> {
    match *packet.first()? {
        WRITE => {
            packet.advance(1);
            let id = packet.try_get_u32().ok()?;
            let handle = String::from_utf8(take_string(&mut packet)?.to_vec()).ok()?;
            let offset = packet.try_get_u64().ok()?;
            let data = take_string(&mut packet)?;
            Some(SftpRequest::Write { id, handle, offset, data })
        }
        // Replies and unknown kinds of packets end the session.
        INIT | 3..=LAST_REQUEST | EXTENDED => {
            Packet::try_from(&mut packet).ok().map(SftpRequest::Other)
        }
        _ => None,
    }
}

fn take_string(packet: &mut Bytes) -> Option<Bytes> {
    let length = packet.try_get_u32().ok()? as usize;
    (length <= packet.len()).then(|| packet.split_to(length))
}

/// The next request, if the whole request has arrived and can be parsed.
pub(super) fn next(bytes: &mut BytesMut) -> Option<SftpRequest> {
    take_packet(bytes).ok().flatten().and_then(parse)
}

/// The first answer of a session: the version and the extensions.
pub(super) fn version() -> Packet {
    let mut version = Version::new();
    for name in [LIMITS_EXTENSION, FSYNC_EXTENSION, RENAME_EXTENSION, DENIED_EXTENSION] {
        version.extensions.insert(name.to_owned(), "1".to_owned());
    }
    Packet::Version(version)
}

/// The answer to an extended request other than a rename.
pub(super) fn extend(Extended { id, request, .. }: Extended) -> Bytes {
    match request.as_str() {
        LIMITS_EXTENSION => {
            let handles = MAX_HANDLES as u64;
            let limits = [MAX_PACKET.into(), MAX_DATA.into(), MAX_DATA.into(), handles];
            let data = limits.iter().flat_map(|limit: &u64| limit.to_be_bytes()).collect();
            encode(Packet::ExtendedReply(ExtendedReply { id, data }))
        }
        // The registry syncs every upload when the client closes the file, so there is nothing to
        // do here.
        FSYNC_EXTENSION => encode_reply(id, Ok(Reply::Done)),
        DENIED_EXTENSION => encode_reply(id, Err(SftpError::denied())),
        _ => {
            let (code, text) = (StatusCode::OpUnsupported, "not supported".to_owned());
            encode_reply(id, Err(SftpError { code, text }))
        }
    }
}

/// The two paths of a `posix-rename@openssh.com` request.
pub(super) fn renaming(Extended { id, data, .. }: Extended) -> Option<Rename> {
    let mut data = Bytes::from(data);
    let mut path = || String::from_utf8(take_string(&mut data)?.to_vec()).ok();
    Some(Rename { id, oldpath: path()?, newpath: path()? })
}

/// Encodes the reply to the request `id`.
pub(super) fn encode_reply(id: u32, done: Result<Reply, SftpError>) -> Bytes {
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
        Err(SftpError { code, text }) => status(code, text),
    })
}

pub(super) fn encode(packet: Packet) -> Bytes {
    // Encoding fails only for a packet over 4 GiB. The empty packet that is then sent ends the
    // client's session.
    Bytes::try_from(packet).unwrap_or_default()
}

const DATA_HEADER: usize = 13;

/// A data packet with `length` zero bytes. The caller overwrites these bytes through [`data_of`].
pub fn data_packet(length: usize) -> BytesMut {
    BytesMut::zeroed(DATA_HEADER + length)
}

/// The data in a data packet, for writing.
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
    fn malformed_requests_are_refused() {
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
        let Some(SftpRequest::Write { id, handle, offset, data }) = parse(write(3)) else {
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
    fn data_packets_follow_the_protocol() {
        let mut packet = data_packet(5);
        data_of(&mut packet)[..3].copy_from_slice(b"xyz");
        shorten(&mut packet, 3);
        let bytes = encode_reply(258, Ok(Reply::Data(packet)));
        assert_eq!(&bytes[..], b"\0\0\0\x0c\x67\0\0\x01\x02\0\0\0\x03xyz");
    }
}
