//! The prompt: on a terminal with line editing, in a pipe line by line.

use russh::server::Msg;
use russh::{Channel, ChannelMsg};

use super::Shared;
use super::editor::{Editor, Event, PROMPT};
use super::session::end;
use crate::console::{self, Answer, Caller};
use deploy_wire::exit;

/// Longest line without an end, in a pipe.
const MAX_LINE: usize = 1 << 20;

/// Width of a terminal, in characters.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Columns.
    pub columns: u32,
}

/// Serves the prompt until the client leaves.
pub async fn serve(
    shared: &Shared,
    caller: &Caller,
    channel: Channel<Msg>,
    terminal: Option<Size>,
) -> Result<(), russh::Error> {
    match terminal {
        Some(size) => prompt(shared, caller, channel, size).await,
        None => pipe(shared, caller, channel).await,
    }
}

async fn prompt(
    shared: &Shared,
    caller: &Caller,
    mut channel: Channel<Msg>,
    size: Size,
) -> Result<(), russh::Error> {
    let mut editor = Editor::new(size.columns);
    channel.data_bytes(PROMPT).await?;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::WindowChange { col_width, .. } => editor.resize(col_width),
            ChannelMsg::Eof | ChannelMsg::Close => break,
            ChannelMsg::Data { data } => {
                for &byte in &*data {
                    let event = editor.feed(byte);
                    let echo = editor.take_output();
                    if !echo.is_empty() {
                        channel.data_bytes(echo).await?;
                    }
                    let line = match event {
                        Event::None => continue,
                        Event::Leave => return end(&channel, exit::OK).await,
                        Event::Line(line) => line,
                    };
                    if matches!(line.trim(), "exit" | "quit") {
                        return end(&channel, exit::OK).await;
                    }
                    if !line.trim().is_empty() {
                        let _busy = shared.busy();
                        let answer = console::run(&shared.registry, caller, &line).await;
                        channel.data_bytes(for_terminal(&answer)).await?;
                    }
                    channel.data_bytes(PROMPT).await?;
                }
            }
            _ => {}
        }
    }
    end(&channel, exit::OK).await
}

/// Without a terminal each line is a command; the exit code is that of the last one
/// that failed, 1 for all of them, so that scripts notice.
async fn pipe(
    shared: &Shared,
    caller: &Caller,
    mut channel: Channel<Msg>,
) -> Result<(), russh::Error> {
    let mut buffer: Vec<u8> = Vec::new();
    let mut code = exit::OK;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => buffer.extend_from_slice(&data),
            ChannelMsg::Eof | ChannelMsg::Close => break,
            _ => continue,
        }
        while let Some(at) = buffer.iter().position(|&byte| byte == b'\n' || byte == b'\r') {
            let line: Vec<u8> = buffer.drain(..=at).collect();
            let line = String::from_utf8_lossy(&line[..at]).into_owned();
            if matches!(line.trim(), "exit" | "quit") {
                return end(&channel, code).await;
            }
            code = code.max(run_line(shared, caller, &channel, &line).await?);
        }
        if buffer.len() > MAX_LINE {
            channel.extended_data_bytes(1, &b"command line is too long\n"[..]).await?;
            return end(&channel, exit::FAILED).await;
        }
    }
    let line = String::from_utf8_lossy(&buffer).into_owned();
    code = code.max(run_line(shared, caller, &channel, &line).await?);
    end(&channel, code).await
}

async fn run_line(
    shared: &Shared,
    caller: &Caller,
    channel: &Channel<Msg>,
    line: &str,
) -> Result<u8, russh::Error> {
    if line.trim().is_empty() {
        return Ok(exit::OK);
    }
    let _busy = shared.busy();
    let Answer { stdout, stderr, code } = console::run(&shared.registry, caller, line).await;
    if !stdout.is_empty() {
        channel.data_bytes(stdout).await?;
    }
    if !stderr.is_empty() {
        channel.extended_data_bytes(1, stderr).await?;
    }
    Ok(if code == exit::OK { exit::OK } else { exit::FAILED })
}

/// An answer as a terminal in raw mode wants it: carriage returns before line feeds.
fn for_terminal(answer: &Answer) -> Vec<u8> {
    let both = [answer.stdout.as_slice(), answer.stderr.as_slice()].concat();
    let mut text = Vec::with_capacity(both.len() + 16);
    for byte in both {
        if byte == b'\n' {
            text.push(b'\r');
        }
        text.push(byte);
    }
    text
}
