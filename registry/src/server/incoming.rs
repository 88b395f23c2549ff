//! What a client sends on a channel, and how to send to it without ceasing to listen.
//!
//! The ssh library stops reading the whole connection when a channel's messages are not
//! taken, and then never learns that the client has room for more. Whoever waits for
//! room must therefore take messages meanwhile, or both wait for ever.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::server::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::time::timeout;

use super::activity::Activity;
use crate::input::{Feed, Piece};

/// A client that takes nothing for this long while something waits to be sent.
pub const STALL: Duration = Duration::from_secs(120);
/// Bytes of a client that are kept while it is being sent something.
pub const MAX_AHEAD: usize = 1 << 20;
const STDERR: u32 = 1;

/// The client is gone, or takes nothing any more.
#[derive(Debug)]
pub struct Gone;

/// Both directions of a channel.
#[derive(Debug)]
pub struct Incoming {
    reader: ChannelReadHalf,
    writer: ChannelWriteHalf<Msg>,
    /// Bytes that came and were not taken yet.
    pub bytes: BytesMut,
    /// Whether the client has said that no more will come.
    pub ended: bool,
    columns: Option<u32>,
}

impl Incoming {
    /// The channel with these two halves.
    pub fn new(reader: ChannelReadHalf, writer: ChannelWriteHalf<Msg>) -> Self {
        Self { reader, writer, bytes: BytesMut::new(), ended: false, columns: None }
    }

    /// Takes in a message that was read by other means.
    pub fn take(&mut self, message: ChannelMsg) -> Result<(), Gone> {
        take(Some(message), &mut self.bytes, &mut self.ended, &mut self.columns).map(drop)
    }

    /// Waits until there are more bytes, the end, or a new width of the terminal.
    pub async fn more(&mut self) -> Result<(), Gone> {
        while !self.ended {
            let message = self.reader.wait().await;
            if take(message, &mut self.bytes, &mut self.ended, &mut self.columns)? {
                break;
            }
        }
        Ok(())
    }

    /// The width of the terminal, if it is a new one.
    pub fn new_columns(&mut self) -> Option<u32> {
        self.columns.take()
    }

    /// Sends data.
    pub async fn send(&mut self, data: impl Into<Bytes>) -> Result<(), Gone> {
        self.send_as(None, data.into()).await
    }

    /// Sends data to the client's stderr.
    pub async fn send_error(&mut self, data: impl Into<Bytes>) -> Result<(), Gone> {
        self.send_as(Some(STDERR), data.into()).await
    }

    async fn send_as(&mut self, kind: Option<u32>, data: Bytes) -> Result<(), Gone> {
        let Self { reader, writer, bytes, ended, columns } = self;
        let sending = async {
            match kind {
                None => writer.data_bytes(data).await,
                Some(kind) => writer.extended_data_bytes(kind, data).await,
            }
        };
        let sending = timeout(STALL, sending);
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return sent.map_err(|_| Gone)?.map_err(|_| Gone),
                message = reader.wait(), if !*ended && bytes.len() < MAX_AHEAD => {
                    take(message, bytes, ended, columns)?;
                }
            }
        }
    }

    /// Waits for `work` and hands it what the client sends; gives up when the client goes
    /// away. What comes after `work` has let go of its end is dropped.
    pub async fn feeding<T>(
        &mut self,
        feed: Feed,
        activity: &Activity,
        work: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        let Self { reader, bytes, ended, columns, .. } = self;
        let mut feed = Some(feed);
        let mut working = None;
        tokio::pin!(work);
        loop {
            if feed.is_none() && working.is_none() {
                // From now on it waits for nothing that the client sends.
                working = Some(activity.working());
            }
            let waiting = feed.clone();
            let let_go = async {
                match waiting {
                    Some(feed) => feed.closed().await,
                    None => std::future::pending().await,
                }
            };
            let is_open = feed.is_some();
            let to_give = is_open && (!bytes.is_empty() || *ended);
            let room = async {
                match feed.clone().filter(|_| to_give) {
                    Some(feed) => feed.reserve_owned().await.ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = let_go => feed = None,
                room = room => match room {
                    Some(room) if !bytes.is_empty() => {
                        room.send(Piece::Bytes(bytes.split().freeze()));
                    }
                    Some(room) => {
                        room.send(Piece::End);
                        feed = None;
                    }
                    None => feed = None,
                },
                message = reader.wait(), if !*ended && (!is_open || bytes.len() < MAX_AHEAD) => {
                    take(message, bytes, ended, columns)?;
                    activity.moved();
                }
            }
            if feed.is_none() {
                bytes.clear();
            }
        }
    }

    /// Ends the channel, telling the exit code.
    pub async fn finish(self, code: u8) {
        // The client may be gone at any of these; then there is nobody to tell.
        let _ = self.writer.exit_status(code.into()).await;
        let _ = self.writer.eof().await;
        let _ = self.writer.close().await;
    }

    /// Ends the channel.
    pub async fn close(self) {
        let _ = self.writer.close().await;
    }
}

/// Takes in a message; whether it was of interest.
fn take(
    message: Option<ChannelMsg>,
    bytes: &mut BytesMut,
    ended: &mut bool,
    columns: &mut Option<u32>,
) -> Result<bool, Gone> {
    match message {
        Some(ChannelMsg::Data { data }) => bytes.extend_from_slice(&data),
        Some(ChannelMsg::Eof) => *ended = true,
        Some(ChannelMsg::WindowChange { col_width, .. }) => *columns = Some(col_width),
        Some(ChannelMsg::Close) | None => return Err(Gone),
        Some(_) => return Ok(false),
    }
    Ok(true)
}
