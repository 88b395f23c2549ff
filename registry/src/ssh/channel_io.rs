//! What a client sends on a channel, and how to send to it without ceasing to listen.
//!
//! The ssh library stops reading the whole connection when a channel's messages are not
//! taken, and then never learns that the client has room for more. Whoever waits for
//! room must therefore take messages meanwhile, or both wait for ever.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::server::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::time::timeout;

use crate::ssh::activity::{Activity, Busy};
use crate::ssh::command_progress::Progress;
use crate::stdin::{Feed, Piece};

/// Bytes of a client that are kept while it is being sent something.
pub const MAX_AHEAD: usize = 1 << 20;
/// Bytes of which each must go on its way before the client counts as gone.
const PIECE: usize = 32 << 10;
/// What a client has read as soon as it is sent. Of more, some may be under way yet.
const SHORT: usize = 32 << 10;
/// How long a client may take to read the end of what was sent.
const LINGER: Duration = Duration::from_secs(30);
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
    activity: Arc<Activity>,
}

impl Incoming {
    /// The channel with these two halves.
    pub fn new(
        reader: ChannelReadHalf,
        writer: ChannelWriteHalf<Msg>,
        activity: Arc<Activity>,
    ) -> Self {
        let bytes = BytesMut::new();
        Self { reader, writer, bytes, ended: false, columns: None, activity }
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

    /// As [`Incoming::more`], for `time` at most; whether something came.
    pub async fn more_within(&mut self, time: Duration) -> Result<bool, Gone> {
        match timeout(time, self.more()).await {
            Ok(more) => more.map(|()| true),
            Err(_) => Ok(false),
        }
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

    /// In pieces: what counts as a stall is that nothing moves, not that all takes long.
    async fn send_as(&mut self, kind: Option<u32>, mut data: Bytes) -> Result<(), Gone> {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(PIECE));
            self.send_piece(kind, piece).await?;
            self.activity.moved();
        }
        Ok(())
    }

    async fn send_piece(&mut self, kind: Option<u32>, data: Bytes) -> Result<(), Gone> {
        let Self { reader, writer, bytes, ended, columns, activity } = self;
        let sending = async {
            match kind {
                None => writer.data_bytes(data).await,
                Some(kind) => writer.extended_data_bytes(kind, data).await,
            }
        };
        let sending = timeout(activity.stall, sending);
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

    /// Waits for `work` and hands it what the client sends, and shows its progress; gives up when
    /// the client goes away. What comes after `work` has let go of its end is dropped.
    pub async fn feeding<T>(
        &mut self,
        feed: Feed,
        activity: &Activity,
        progress: &mut Progress,
        work: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        let Self { reader, writer, bytes, ended, columns, .. } = self;
        let mut feed = Some(feed);
        let mut working = None;
        // Beside everything else, as it waits where the client reads nothing.
        let telling = async {
            loop {
                let text = progress.next().await;
                if writer.extended_data_bytes(STDERR, text).await.is_err() {
                    return;
                }
            }
        };
        let mut is_told = true;
        tokio::pin!(work, telling);
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
                () = &mut telling, if is_told => is_told = false,
            }
            if feed.is_none() {
                bytes.clear();
            }
        }
    }

    /// As [`Incoming::finish`], after an answer of `length` bytes. The end of a long one is in
    /// the client's window, and not with whoever reads it: until the client has left, or has had
    /// time to read, the connection counts as `busy`.
    pub async fn finish_answer(self, code: u8, length: usize, busy: Busy) {
        let Self { mut reader, writer, .. } = self;
        end(&writer, code).await;
        if length > SHORT {
            tokio::spawn(async move {
                let left = async { while reader.wait().await.is_some() {} };
                // Whether it has read it or not, nobody waits for it any longer.
                let _ = timeout(LINGER, left).await;
                drop(busy);
            });
        }
    }

    /// Ends the channel, telling the exit code.
    pub async fn finish(self, code: u8) {
        end(&self.writer, code).await;
    }

    /// Ends the channel.
    pub async fn close(self) {
        let _ = self.writer.close().await;
    }
}

async fn end(writer: &ChannelWriteHalf<Msg>, code: u8) {
    // The client may be gone at any of these; then there is nobody to tell.
    let _ = writer.exit_status(code.into()).await;
    let _ = writer.eof().await;
    let _ = writer.close().await;
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
