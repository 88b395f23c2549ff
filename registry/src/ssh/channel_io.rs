//! Receives and sends the data of a channel. The code continues to receive while it sends.
//!
//! If nobody takes a channel's messages, the ssh library stops reading the whole connection. The
//! library then never learns that the client has room for more data. So code that waits for such
//! room must also take messages. Otherwise, client and server would wait for each other forever.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use russh::server::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::time::timeout;

use crate::ssh::activity::{Activity, Busy};
use crate::ssh::command_progress::Progress;
use crate::stdin::{Feed, Piece};

/// While data is sent or a command runs, the code stops receiving once this many bytes wait.
pub const MAX_AHEAD: usize = 1 << 20;
/// Data is sent in pieces of this size. A client that does not accept a piece in time counts as
/// disconnected.
const PIECE: usize = 32 << 10;
/// An answer up to this size counts as read as soon as it is sent. Part of a longer answer may
/// still be on its way.
const SHORT: usize = 32 << 10;
/// How long a client may take to read the end of an answer.
const LINGER: Duration = Duration::from_secs(30);
/// The pause between the end of the progress bar and the answer. If both arrive together, `ssh`
/// prints standard output first, and the answer would appear inside the bar.
const BAR_PAUSE: Duration = Duration::from_millis(50);
const STDERR: u32 = 1;

/// The client has disconnected, or accepts no more data.
#[derive(Debug)]
pub struct Gone;

/// Both directions of a channel.
#[derive(Debug)]
pub struct Incoming {
    reader: ChannelReadHalf,
    writer: ChannelWriteHalf<Msg>,
    /// Received bytes that nobody has taken yet.
    pub bytes: BytesMut,
    /// Whether the client has ended its input.
    pub ended: bool,
    columns: Option<u32>,
    activity: Arc<Activity>,
}

impl Incoming {
    /// Both directions of a channel, made from the channel's two halves.
    pub fn new(
        reader: ChannelReadHalf,
        writer: ChannelWriteHalf<Msg>,
        activity: Arc<Activity>,
    ) -> Self {
        let bytes = BytesMut::new();
        Self { reader, writer, bytes, ended: false, columns: None, activity }
    }

    /// Takes a message that another function has read.
    pub fn take(&mut self, message: ChannelMsg) -> Result<(), Gone> {
        take(Some(message), &mut self.bytes, &mut self.ended, &mut self.columns).map(drop)
    }

    /// Waits for more bytes, for the end of the input, or for a new width of the terminal.
    pub async fn more(&mut self) -> Result<(), Gone> {
        while !self.ended {
            let message = self.reader.wait().await;
            if take(message, &mut self.bytes, &mut self.ended, &mut self.columns)? {
                break;
            }
        }
        Ok(())
    }

    /// Waits until the client closes the channel, and ignores its input.
    pub async fn until_closed(&mut self) {
        while !matches!(self.reader.wait().await, None | Some(ChannelMsg::Close)) {}
    }

    /// Like [`Incoming::more`], but waits for at most `time`. Returns whether something arrived.
    pub async fn more_within(&mut self, time: Duration) -> Result<bool, Gone> {
        match timeout(time, self.more()).await {
            Ok(more) => more.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// The width of the terminal, if the width has changed.
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

    /// Sends data in pieces. A client that does not accept a piece in time counts as stalled. There
    /// is no limit on the time for all pieces together.
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

    /// Waits for `work`, passes the client's bytes to `work`, and shows the progress of `work`. The
    /// wait also ends if the client disconnects before it has ended its input. After `work` has
    /// dropped its input, the function discards further bytes.
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
        // A separate future sends progress, because sending waits while the client reads nothing.
        let showing = async {
            loop {
                let text = progress.next().await;
                if writer.extended_data_bytes(STDERR, text).await.is_err() {
                    return;
                }
            }
        };
        let mut is_shown = true;
        tokio::pin!(work, showing);
        loop {
            if feed.is_none() && working.is_none() {
                // From now on, the work does not wait for the client.
                working = Some(activity.working());
            }
            let waiting = feed.clone();
            let input_dropped = async {
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
                () = input_dropped => feed = None,
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
                () = &mut showing, if is_shown => is_shown = false,
            }
            if feed.is_none() {
                bytes.clear();
            }
        }
    }

    /// Ends the progress of a command, before its answer is sent.
    pub async fn end_progress(&mut self, progress: &mut Progress) -> Result<(), Gone> {
        let Some((text, is_bar)) = progress.last() else { return Ok(()) };
        self.send_error(text).await?;
        if is_bar {
            tokio::time::sleep(BAR_PAUSE).await;
        }
        Ok(())
    }

    /// Waits for `work`, and shows the progress of `work`.
    pub async fn beside<T>(
        &mut self,
        progress: &mut Progress,
        work: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.end_progress(progress).await?;
                    return Ok(done);
                }
                text = progress.next() => self.send_error(text).await?,
            }
        }
    }

    /// Ends the channel with an exit code, after an answer of `length` bytes. The client may not
    /// have read the end of a long answer yet. So after a long answer, the connection counts as
    /// busy until the client has disconnected, or has had time to read the answer.
    pub async fn finish_answer(self, code: u8, length: usize, busy: Busy) {
        let Self { mut reader, writer, .. } = self;
        end(&writer, code).await;
        if length > SHORT {
            tokio::spawn(async move {
                let left = async { while reader.wait().await.is_some() {} };
                // After `LINGER`, the server no longer waits for the client, even if the client has
                // not read the answer.
                let _ = timeout(LINGER, left).await;
                drop(busy);
            });
        }
    }

    /// Ends the channel with an exit code.
    pub async fn finish(self, code: u8) {
        end(&self.writer, code).await;
    }

    /// Ends the channel.
    pub async fn close(self) {
        let _ = self.writer.close().await;
    }
}

async fn end(writer: &ChannelWriteHalf<Msg>, code: u8) {
    // The client may have disconnected before any of these calls. In that case nobody needs the
    // answer.
    let _ = writer.exit_status(code.into()).await;
    let _ = writer.eof().await;
    let _ = writer.close().await;
}

/// Takes a message. Returns whether the message brought bytes, the end of the input, or a new
/// width.
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
