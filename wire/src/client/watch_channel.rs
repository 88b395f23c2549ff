//! Runs a command that stays open while the connection lasts, and exchanges lines with this command
//! in both directions.

use russh::client::Msg;
use russh::{ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::time::timeout;

use super::{Client, ClientError, STALLED};
use crate::fleet::MAX_LINE;

/// Maximum number of bytes of the command's standard error that the client keeps for its error
/// message.
const MAX_ERROR: usize = 2000;
/// The name of the command in error messages.
const WHAT: &str = "watch";

/// A running command and its channel. Dropping the value closes the channel.
pub struct WatchChannel {
    reader: ChannelReadHalf,
    /// `None` after the channel was closed.
    writer: Option<ChannelWriteHalf<Msg>>,
    received: Received,
}

/// The received bytes that no caller has taken yet, and how the command ended.
#[derive(Debug, Default)]
struct Received {
    bytes: Vec<u8>,
    /// The number of bytes at the start of `bytes` that were searched and contain no newline.
    searched: usize,
    stderr: Vec<u8>,
    code: Option<u32>,
    ended: bool,
}

impl std::fmt::Debug for WatchChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchChannel").field("received", &self.received).finish_non_exhaustive()
    }
}

impl Client {
    /// Starts a command that exchanges lines with this client until one side closes the channel.
    /// Fails with [`ClientError::Refused`] if the server runs no commands for this user.
    pub async fn watch(&self, line: &str) -> Result<WatchChannel, ClientError> {
        let stalled = |_| ClientError::Stalled { what: WHAT.to_owned() };
        timeout(STALLED, self.start_watch(line)).await.map_err(stalled)?
    }

    async fn start_watch(&self, line: &str) -> Result<WatchChannel, ClientError> {
        let (mut reader, writer) = self.start(line).await?;
        let refused = || {
            let (what, why) = (WHAT.to_owned(), "exec request refused".to_owned());
            ClientError::Refused { what, why }
        };
        let mut received = Received::default();
        loop {
            match reader.wait().await {
                Some(ChannelMsg::Success) => break,
                // The Go registry may close the channel instead.
                Some(ChannelMsg::Failure | ChannelMsg::Close) => return Err(refused()),
                Some(message) => received.take(Some(message)),
                None if self.is_alive() => return Err(refused()),
                None => {
                    return Err(ClientError::Lost(
                        "the server did not answer a command".to_owned(),
                    ));
                }
            }
        }
        Ok(WatchChannel { reader, writer: Some(writer), received })
    }
}

impl WatchChannel {
    /// Sends bytes. While it sends, the function also takes and keeps received bytes. Otherwise,
    /// the ssh library would stop reading from the connection.
    pub async fn send(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), ClientError> {
        let Self { reader, writer, received } = self;
        let Some(writer) = writer else { return Err(ended(received)) };
        let sending = writer.data_bytes(bytes.into());
        tokio::pin!(sending);
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return Ok(sent?),
                message = reader.wait(), if received.has_room() => received.take(message),
            }
        }
    }

    /// Waits for the next line, and returns it without its line break. If the caller drops the
    /// future, no bytes are lost. If the command failed with a message, the error is
    /// [`ClientError::Refused`] with this message.
    pub async fn next_line(&mut self) -> Result<Vec<u8>, ClientError> {
        loop {
            if let Some(line) = self.received.next_line()? {
                return Ok(line);
            }
            if self.received.ended {
                return Err(ended(&self.received));
            }
            let message = self.reader.wait().await;
            self.received.take(message);
        }
    }

    /// Ends the command's input, and closes the channel.
    pub async fn close(mut self) {
        if let Some(writer) = self.writer.take() {
            // The server may have closed the channel already.
            let _ = writer.eof().await;
            let _ = writer.close().await;
        }
    }
}

impl Drop for WatchChannel {
    fn drop(&mut self) {
        let (Some(writer), Ok(runtime)) =
            (self.writer.take(), tokio::runtime::Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            let _ = writer.close().await;
        });
    }
}

impl Received {
    /// Whether another message may be kept. The limit matters while no caller takes lines.
    fn has_room(&self) -> bool {
        !self.ended && self.bytes.len() <= 2 * MAX_LINE
    }

    fn take(&mut self, message: Option<ChannelMsg>) {
        match message {
            Some(ChannelMsg::Data { data }) => self.bytes.extend_from_slice(&data),
            Some(ChannelMsg::ExtendedData { data, .. }) => {
                let room = MAX_ERROR.saturating_sub(self.stderr.len());
                self.stderr.extend_from_slice(&data[..data.len().min(room)]);
            }
            Some(ChannelMsg::ExitStatus { exit_status }) => self.code = Some(exit_status),
            Some(ChannelMsg::Close) | None => self.ended = true,
            Some(_) => {}
        }
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let end = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n');
        if let Some(end) = end.map(|end| end + self.searched) {
            let mut line: Vec<u8> = self.bytes.drain(..=end).collect();
            self.searched = 0;
            line.pop();
            return Ok(Some(line));
        }
        self.searched = self.bytes.len();
        if self.searched > MAX_LINE {
            let what = "a line from the registry".to_owned();
            return Err(ClientError::TooLarge { what, limit: MAX_LINE });
        }
        Ok(None)
    }
}

/// The error of a command that has ended.
fn ended(received: &Received) -> ClientError {
    let said = String::from_utf8_lossy(&received.stderr);
    match (said.trim(), received.code) {
        ("", None) => ClientError::Lost("the watch ended".to_owned()),
        ("", Some(code)) => ClientError::Lost(format!("the watch ended with exit code {code}")),
        (said, _) => {
            ClientError::Refused { what: WHAT.to_owned(), why: deploy_store::escape(said) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "a channel gives messages in this form")]
    fn data(bytes: &[u8]) -> Option<ChannelMsg> {
        Some(ChannelMsg::Data { data: bytes.to_vec().into() })
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut received = Received::default();
        for (piece, lines) in [
            (&b"{\"a\""[..], &[][..]),
            (b":1}\n\n{", &[&b"{\"a\":1}"[..], b""]),
            (b"}\n", &[b"{}"]),
            (b"", &[]),
        ] {
            received.take(data(piece));
            for want in lines {
                assert_eq!(received.next_line().unwrap().unwrap(), *want);
            }
            assert_eq!(received.next_line().unwrap(), None);
        }
    }

    #[test]
    fn endless_line_is_refused_and_stderr_is_cut() {
        let mut received = Received::default();
        received.take(data(&vec![b'x'; MAX_LINE]));
        assert!(received.next_line().unwrap().is_none());
        received.take(data(b"y"));
        assert!(matches!(received.next_line(), Err(ClientError::TooLarge { .. })));
        let stderr = vec![b'e'; 3 * MAX_ERROR];
        received.take(Some(ChannelMsg::ExtendedData { data: stderr.into(), ext: 1 }));
        assert_eq!(received.stderr.len(), MAX_ERROR);
    }

    #[test]
    fn error_has_the_message_of_the_server() {
        let mut received = Received::default();
        assert!(ended(&received).to_string().ends_with("the watch ended"));
        received.take(Some(ChannelMsg::ExitStatus { exit_status: 3 }));
        assert!(ended(&received).to_string().ends_with("exit code 3"));
        let data = b"the host\x1b is another's\n".to_vec().into();
        received.take(Some(ChannelMsg::ExtendedData { data, ext: 1 }));
        let text = ended(&received).to_string();
        assert_eq!(text, "watch: the host\\u{1b} is another's");
    }
}
