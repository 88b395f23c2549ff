//! Serves the prompt. On a terminal, the prompt has a line editor. Without a terminal, the prompt
//! reads its input line by line.

mod editor;

use bytes::Buf;
use deploy_cli::progress::Form;
use deploy_store::ComponentName;
use deploy_wire::command::complete::{Completion, Typed, Wanted, typed};

use crate::console::Answer;
use crate::ssh::channel_io::{Gone, Incoming};
use crate::ssh::command_progress::Progress;
use crate::ssh::context::{Context, Terminal};
use crate::ssh::shell::editor::{Editor, Event, MAX_LINE};
use crate::stdin::Input;

/// Serves the prompt until the client leaves. Returns whether all commands succeeded. On a
/// terminal, the function always returns true.
pub async fn run(
    client: &mut Incoming,
    context: &Context,
    terminal: Option<Terminal>,
    form: Form,
) -> Result<bool, Gone> {
    match terminal {
        Some(terminal) => on_terminal(client, context, terminal, form).await,
        None => line_by_line(client, context, form).await,
    }
}

fn is_leave(line: &str) -> bool {
    matches!(line.trim(), "exit" | "quit")
}

async fn on_terminal(
    client: &mut Incoming,
    context: &Context,
    terminal: Terminal,
    form: Form,
) -> Result<bool, Gone> {
    let Terminal { columns, colours } = terminal;
    let mut editor = Editor::new(columns, colours);
    editor.prompt();
    loop {
        client.send(editor.take_output()).await?;
        if client.bytes.is_empty() {
            client.more().await?;
        }
        if let Some(columns) = client.new_columns() {
            editor.resize(columns);
        }
        if client.bytes.is_empty() && client.ended {
            return Ok(true);
        }
        context.activity.moved();
        let (taken, event) = editor.feed(&client.bytes);
        client.bytes.advance(taken);
        match event {
            Some(Event::Line(line)) if !is_leave(&line) => {
                client.send(editor.take_output()).await?;
                run_for_terminal(client, context, line, colours, form).await?;
                editor.prompt();
            }
            Some(Event::Complete) => complete(&mut editor, context).await,
            Some(_) => {
                client.send(editor.take_output()).await?;
                return Ok(true);
            }
            None => {}
        }
    }
}

async fn complete(editor: &mut Editor, context: &Context) {
    let Some(typed) = typed(&editor.before_cursor()) else { return editor.ring() };
    let names = names(context, &typed).await;
    match typed.complete(&names) {
        Completion::Nothing => editor.ring(),
        Completion::Text(text) => editor.replace(typed.start, &text),
        Completion::Several(words) => editor.show(&words),
    }
}

/// The names that may complete the word. If the catalogue fails, the function returns no names,
/// because the command itself will report the failure.
async fn names(context: &Context, typed: &Typed) -> Vec<String> {
    let catalog = &context.registry.catalog;
    match &typed.wanted {
        Wanted::Words(words) => words.clone(),
        Wanted::Component | Wanted::Layer => {
            let components = catalog.components(None, u64::MAX).await.unwrap_or_default();
            components.iter().map(|name| name.as_str().to_owned()).collect()
        }
        Wanted::Configuration => {
            let configurations =
                catalog.configuration_names(None, u64::MAX).await.unwrap_or_default();
            configurations.iter().map(|name| name.as_str().to_owned()).collect()
        }
        Wanted::Version(component) => {
            let Ok(component) = component.parse::<ComponentName>() else { return Vec::new() };
            let versions = catalog.versions(&component).await.unwrap_or_default();
            versions.iter().map(|layer| layer.version.as_str().to_owned()).collect()
        }
    }
}

async fn run_for_terminal(
    client: &mut Incoming,
    context: &Context,
    line: String,
    colours: bool,
    form: Form,
) -> Result<(), Gone> {
    if line.trim().is_empty() {
        return Ok(());
    }
    let _busy = context.activity.busy();
    let Answer { stdout, stderr, .. } = run_beside(client, context, line, form).await?;
    client.send(for_terminal(&stdout)).await?;
    client.send(for_terminal(&if colours { in_red(&stderr) } else { stderr })).await
}

/// Runs a command line without standard input, and shows its progress.
async fn run_beside(
    client: &mut Incoming,
    context: &Context,
    line: String,
    form: Form,
) -> Result<Answer, Gone> {
    let mut progress = Progress::new(form);
    let work = context.answer(line, Input::none(), &progress.meter);
    client.beside(&mut progress, work).await
}

/// An error text with its first line in red. The usage below the first line is unchanged.
fn in_red(text: &[u8]) -> Vec<u8> {
    let (first, rest) = text.split_at(text.iter().position(|&c| c == b'\n').unwrap_or(text.len()));
    if first.is_empty() {
        return rest.to_vec();
    }
    [&b"\x1b[31m"[..], first, b"\x1b[0m", rest].concat()
}

/// Converts the line ends of a text to the line ends of a terminal.
pub fn for_terminal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + text.len() / 16);
    for &byte in text {
        if byte == b'\n' {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}

/// Serves command lines without a terminal. There is no echo and no prompt. Returns whether all
/// commands succeeded.
async fn line_by_line(client: &mut Incoming, context: &Context, form: Form) -> Result<bool, Gone> {
    let mut succeeded = true;
    let mut line: Vec<u8> = Vec::new();
    loop {
        while !client.bytes.is_empty() {
            context.activity.moved();
            match client.bytes.get_u8() {
                b'\r' | b'\n' => {
                    match run_line(client, context, std::mem::take(&mut line), form).await? {
                        Line::Leave => return Ok(succeeded),
                        Line::Failed => succeeded = false,
                        Line::Done => {}
                    }
                }
                // The code keeps at most one byte more than the limit. If the line has this extra
                // byte, it is too long.
                byte if line.len() <= MAX_LINE => line.push(byte),
                _ => {}
            }
        }
        if client.ended {
            // The last line may have no line end.
            let last = run_line(client, context, line, form).await?;
            return Ok(succeeded && !matches!(last, Line::Failed));
        }
        client.more().await?;
    }
}

enum Line {
    Done,
    Failed,
    Leave,
}

async fn run_line(
    client: &mut Incoming,
    context: &Context,
    line: Vec<u8>,
    form: Form,
) -> Result<Line, Gone> {
    if line.len() > MAX_LINE {
        let text = format!("the line is longer than {MAX_LINE} bytes, so it was not run\n");
        client.send_error(text).await?;
        return Ok(Line::Failed);
    }
    let Ok(line) = String::from_utf8(line) else {
        client.send_error("the line is not UTF-8, so it was not run\n").await?;
        return Ok(Line::Failed);
    };
    if line.trim().is_empty() {
        return Ok(Line::Done);
    }
    if is_leave(&line) {
        return Ok(Line::Leave);
    }
    let _busy = context.activity.busy();
    let answer = run_beside(client, context, line, form).await?;
    let succeeded = answer.is_ok();
    client.send(answer.stdout).await?;
    client.send_error(answer.stderr).await?;
    Ok(if succeeded { Line::Done } else { Line::Failed })
}
