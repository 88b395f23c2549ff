//! The prompt: on a terminal with a line editor, otherwise line by line.

use deploy_wire::command::VERBS;
use deploy_wire::exit;
use russh::{ChannelMsg, ChannelReadHalf};

use super::channel::{Context, Gone, Writer, answer, send, send_error};
use super::editor::{Editor, Event, MAX_LINE};

/// Serves the prompt until the client leaves; returns the exit code.
pub async fn run(
    reader: &mut ChannelReadHalf,
    writer: &Writer,
    context: &Context,
    columns: Option<u32>,
) -> Result<u8, Gone> {
    match columns {
        Some(columns) => on_terminal(reader, writer, context, columns).await,
        None => line_by_line(reader, writer, context).await,
    }
}

fn is_leave(line: &str) -> bool {
    matches!(line.trim(), "exit" | "quit")
}

async fn on_terminal(
    reader: &mut ChannelReadHalf,
    writer: &Writer,
    context: &Context,
    columns: u32,
) -> Result<u8, Gone> {
    let words: Vec<&str> = VERBS.iter().map(|verb| verb.name).chain(["exit", "quit"]).collect();
    let mut editor = Editor::new(columns, &words);
    editor.prompt();
    send(writer, editor.take_output()).await?;
    loop {
        match reader.wait().await {
            Some(ChannelMsg::Data { data }) => {
                if type_in(&mut editor, writer, context, &data).await? {
                    return Ok(exit::OK);
                }
            }
            Some(ChannelMsg::WindowChange { col_width, .. }) => editor.resize(col_width),
            Some(ChannelMsg::Eof) => return Ok(exit::OK),
            Some(ChannelMsg::Close) | None => return Err(Gone),
            Some(_) => {}
        }
    }
}

/// Gives the editor what was typed and runs the lines that come of it; true when the
/// user leaves.
async fn type_in(
    editor: &mut Editor,
    writer: &Writer,
    context: &Context,
    mut typed: &[u8],
) -> Result<bool, Gone> {
    context.activity.moved();
    while !typed.is_empty() {
        let (taken, event) = editor.feed(typed);
        typed = &typed[taken..];
        send(writer, editor.take_output()).await?;
        match event {
            Some(Event::End) => return Ok(true),
            Some(Event::Line(line)) if is_leave(&line) => return Ok(true),
            Some(Event::Line(line)) => {
                if !line.trim().is_empty() {
                    let answer = answer(context, line).await;
                    send(writer, for_terminal(&answer.stdout)).await?;
                    send(writer, for_terminal(&answer.stderr)).await?;
                }
                editor.prompt();
                send(writer, editor.take_output()).await?;
            }
            None => {}
        }
    }
    Ok(false)
}

/// Text with the line ends of a terminal.
fn for_terminal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 16);
    for &byte in text {
        if byte == b'\n' {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}

/// Without a terminal: no echo, no prompt; the exit code says whether a command failed.
async fn line_by_line(
    reader: &mut ChannelReadHalf,
    writer: &Writer,
    context: &Context,
) -> Result<u8, Gone> {
    let mut code = exit::OK;
    let mut line: Vec<u8> = Vec::new();
    loop {
        let (data, ended) = match reader.wait().await {
            Some(ChannelMsg::Data { data }) => (data, false),
            // The last line may have no end.
            Some(ChannelMsg::Eof) => (b"\n"[..].into(), true),
            Some(ChannelMsg::Close) | None => return Err(Gone),
            Some(_) => continue,
        };
        context.activity.moved();
        for &byte in &data {
            match byte {
                b'\r' | b'\n' => {
                    let text = std::mem::take(&mut line);
                    match run_line(writer, context, text).await? {
                        Line::Leave => return Ok(code),
                        Line::Failed => code = exit::FAILED,
                        Line::Done => {}
                    }
                }
                // One byte too many stays in it, and tells that it was cut.
                byte if line.len() <= MAX_LINE => line.push(byte),
                _ => {}
            }
        }
        if ended {
            return Ok(code);
        }
    }
}

enum Line {
    Done,
    Failed,
    Leave,
}

async fn run_line(writer: &Writer, context: &Context, line: Vec<u8>) -> Result<Line, Gone> {
    if line.len() > MAX_LINE {
        send_error(writer, format!("line is longer than {MAX_LINE} bytes, not run\n")).await?;
        return Ok(Line::Failed);
    }
    let Ok(line) = String::from_utf8(line) else {
        send_error(writer, "line is not UTF-8, not run\n").await?;
        return Ok(Line::Failed);
    };
    if line.trim().is_empty() {
        return Ok(Line::Done);
    }
    if is_leave(&line) {
        return Ok(Line::Leave);
    }
    let answer = answer(context, line).await;
    send(writer, answer.stdout).await?;
    send_error(writer, answer.stderr).await?;
    Ok(if answer.code == exit::OK { Line::Done } else { Line::Failed })
}
