//! Serves sftp, version 3. `packets` parses and encodes packets. `writing` handles the uploads of
//! operators, and `reading` handles the files that clients see.

pub(crate) mod exchange;
mod file_attributes;
mod handles;
mod nested;
mod packets;
pub(crate) mod reading;
mod renaming;
pub(crate) mod writing;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use russh_sftp::protocol::{File, Lstat, OpenFlags, Packet, Stat, StatusCode};

use self::packets::{
    BadLength, RENAME_EXTENSION, Reply, SftpError, SftpRequest, encode, encode_reply, extend,
    parse, renaming, take_packet, version,
};
use self::reading::View;
use self::writing::Uploads;
use super::activity::Activity;
use super::channel_io::{Gone, Incoming};
use crate::view::view_path;

/// How often the server checks the uploads of a client that sends nothing. Other clients may take
/// the slots of such uploads.
const CHECK_EVERY: Duration = Duration::from_secs(5);

/// The files that a client sees.
#[derive(Debug)]
pub struct Files {
    /// The files that the client may read.
    pub view: View,
    /// The uploads, if the client may write.
    pub uploads: Option<Uploads>,
}

impl Files {
    /// Answers a request. The handle of a request shows whether the request is about an upload.
    async fn answer(&mut self, packet: Packet) -> Result<Reply, SftpError> {
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
                match uploads.attributes(&path).await {
                    Some(attributes) => Ok(Reply::Attributes(attributes)),
                    None => self.view.stat(&path).await.map(Reply::Attributes),
                }
            }
            Packet::SetStat(request) => {
                let known = match uploads.attributes(&request.path).await {
                    Some(attributes) => attributes,
                    None if view_path::is_in_put(&request.path) => {
                        self.view.stat(&request.path).await?
                    }
                    None => return Err(SftpError::denied()),
                };
                writing::set_attributes(&known, &request.attrs)
            }
            packet => self.view.answer(packet).await,
        }
    }

    /// A notice for the operator at the end of the session, about uploads that did not become
    /// versions.
    fn left_over(&self) -> Option<String> {
        self.uploads.as_ref().and_then(Uploads::left_over)
    }
}

/// Serves sftp until the client ends the session. Returns whether the session ended without an
/// error.
pub async fn run(
    client: &mut Incoming,
    activity: &Arc<Activity>,
    mut files: Files,
) -> Result<bool, Gone> {
    let mut told = String::new();
    loop {
        let request = match take_packet(&mut client.bytes) {
            Ok(Some(packet)) => parse(packet),
            Ok(None) if client.ended && client.bytes.is_empty() => {
                if let Some(text) = files.left_over() {
                    tracing::warn!("{}", text.trim_end());
                    client.send_error(text).await?;
                }
                return Ok(true);
            }
            Ok(None) if client.ended => None,
            Ok(None) => {
                match &mut files.uploads {
                    Some(uploads) if !client.more_within(CHECK_EVERY).await? => uploads.drop_lost(),
                    Some(_) => {}
                    None => client.more().await?,
                }
                continue;
            }
            Err(BadLength) => None,
        };
        let Some(request) = request else {
            tracing::info!("malformed sftp packet, session ended");
            return Ok(false);
        };
        // The connection counts as busy until the reply is sent, so that the server does not stop
        // earlier.
        let _busy = activity.busy();
        let working = activity.working();
        let (reply, why) = answer(request, &mut files).await;
        drop(working);
        // Stock clients show the status code, which says little, and the text on standard error.
        // They show no other text.
        if let Some(why) = why.filter(|why| *why != told) {
            client.send_error(format!("{why}\n")).await?;
            told = why;
        }
        client.send(reply).await?;
    }
}

/// Returns the reply to a request. If the request failed, also returns the reason, for the
/// operator's standard error.
pub(super) async fn answer(request: SftpRequest, files: &mut Files) -> (Bytes, Option<String>) {
    let (id, done) = match request {
        SftpRequest::Write { id, handle, offset, data } => (
            id,
            match &mut files.uploads {
                Some(uploads) => uploads.write(&handle, offset, data).await,
                None => Err(SftpError::denied()),
            },
        ),
        SftpRequest::Other(Packet::Init(_)) => return (encode(version()), None),
        SftpRequest::Other(Packet::Extended(extended)) if extended.request != RENAME_EXTENSION => {
            return (extend(extended), None);
        }
        SftpRequest::Other(packet) => {
            let id = packet.get_request_id();
            match packet {
                Packet::RealPath(request) if request.path.len() <= view_path::MAX_PATH => {
                    let name = File::dummy(view_path::clean(&request.path));
                    (id, Ok(Reply::Names(vec![name])))
                }
                Packet::Extended(extended) => {
                    let done = match renaming(extended) {
                        Some(rename) => files.answer(Packet::Rename(rename)).await,
                        None => Err(SftpError {
                            code: StatusCode::BadMessage,
                            text: "the request is malformed".to_owned(),
                        }),
                    };
                    (id, done)
                }
                packet => (id, files.answer(packet).await),
            }
        }
    };
    let why = match &done {
        Err(SftpError { code: StatusCode::Failure, text }) => Some(text.clone()),
        _ => None,
    };
    let why = why.filter(|_| files.uploads.is_some());
    (encode_reply(id, done), why)
}
