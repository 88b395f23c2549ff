//! What runs on one channel: a command, the prompt, or sftp.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deploy_wire::exit;
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use super::activity::Activity;
use super::keyring::Role;
use super::upload::Uploads;
use super::view::View;
use super::{sftp, shell};
use crate::console::{self, Answer, Caller};
use crate::registry::Registry;

/// A client that takes nothing for this long while something waits to be sent.
pub const STALL: Duration = Duration::from_secs(120);
const STDERR: u32 = 1;

/// The one request that a channel serves.
#[derive(Debug)]
pub enum Request {
    /// A command line.
    Exec(String),
    /// The prompt; with the width of the terminal, if there is one.
    Shell {
        /// Columns.
        columns: Option<u32>,
    },
    /// Files.
    Sftp,
}

/// What a channel's task works with.
#[derive(Debug)]
pub struct Context {
    /// The registry.
    pub registry: Arc<Registry>,
    /// Uploads that may be open in all.
    pub uploads: Arc<Semaphore>,
    /// What the connection is doing.
    pub activity: Arc<Activity>,
    /// What the client may do.
    pub role: Role,
    /// Who the client is.
    pub caller: Caller,
}

/// The writing side of a channel.
pub type Writer = ChannelWriteHalf<Msg>;

/// The client is gone, or takes nothing any more.
#[derive(Debug)]
pub struct Gone;

/// Serves the request on `channel` that `started` says was granted.
pub async fn run(channel: Channel<Msg>, started: oneshot::Receiver<Request>, context: Context) {
    let (mut reader, writer) = channel.split();
    let Some(request) = wait(&mut reader, started).await else { return };
    let code = match request {
        Request::Exec(line) => exec(&mut reader, &writer, &context, line).await,
        Request::Shell { columns } => shell::run(&mut reader, &writer, &context, columns).await,
        Request::Sftp => {
            let files = match context.role {
                Role::Operator => sftp::Files::Uploads(Uploads::new(&context)),
                Role::Service => sftp::Files::View(View::new(&context)),
            };
            sftp::run(&mut reader, &writer, &context.activity, files).await
        }
    };
    if let Ok(code) = code {
        // The client may be gone at any of these; then there is nobody to tell.
        let _ = writer.exit_status(code.into()).await;
        let _ = writer.eof().await;
    }
    let _ = writer.close().await;
}

/// Waits for a request to be granted, passing over whatever the client sends before.
async fn wait(
    reader: &mut ChannelReadHalf,
    mut started: oneshot::Receiver<Request>,
) -> Option<Request> {
    loop {
        tokio::select! {
            biased;
            request = &mut started => return request.ok(),
            message = reader.wait() => match message {
                None | Some(ChannelMsg::Close) => return None,
                Some(_) => {}
            },
        }
    }
}

async fn exec(
    reader: &mut ChannelReadHalf,
    writer: &Writer,
    context: &Context,
    line: String,
) -> Result<u8, Gone> {
    let answering = async {
        let answer = answer(context, line).await;
        send(writer, answer.stdout).await?;
        send_error(writer, answer.stderr).await?;
        Ok(answer.code)
    };
    tokio::select! {
        done = answering => done,
        // Commands take no input; it is read so that it does not hold up the connection.
        () = closed(reader) => Err(Gone),
    }
}

async fn closed(reader: &mut ChannelReadHalf) {
    while !matches!(reader.wait().await, None | Some(ChannelMsg::Close)) {}
}

/// Runs one command line. It runs to its end even if the client goes away.
pub async fn answer(context: &Context, line: String) -> Answer {
    if is_old_scp(&line) {
        let text = "scp's old protocol is not supported; use scp without -O, or sftp\n";
        return Answer { stdout: Vec::new(), stderr: text.into(), code: exit::FAILED };
    }
    let busy = context.activity.busy();
    let (registry, caller) = (Arc::clone(&context.registry), context.caller.clone());
    let running = tokio::spawn(async move {
        let answer = console::run(&registry, &caller, &line).await;
        drop(busy);
        answer
    });
    running.await.unwrap_or_else(|err| {
        tracing::error!("command failed inside: {err}");
        let text = "internal error, see the registry's log\n";
        Answer { stdout: Vec::new(), stderr: text.into(), code: exit::FAILED }
    })
}

fn is_old_scp(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("scp") && words.any(|word| word == "-t" || word == "-f")
}

/// Sends data, as far as the client's window allows.
pub async fn send(writer: &Writer, data: impl Into<Bytes>) -> Result<(), Gone> {
    let sending = writer.data_bytes(data);
    timeout(STALL, sending).await.map_err(|_| Gone)?.map_err(|_| Gone)
}

/// As [`send`], to the client's stderr.
pub async fn send_error(writer: &Writer, data: impl Into<Bytes>) -> Result<(), Gone> {
    let sending = writer.extended_data_bytes(STDERR, data);
    timeout(STALL, sending).await.map_err(|_| Gone)?.map_err(|_| Gone)
}
