//! What runs on one channel: a command, the prompt, or sftp.

use std::sync::Arc;

use deploy_cli::progress::Form;
use deploy_wire::exit;
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf};
use tokio::sync::oneshot;

use crate::caller::Client;
use crate::console::{self, Answer, Caller};
use crate::registry::Registry;
use crate::ssh::activity::Activity;
use crate::ssh::auth::keyring::Role;
use crate::ssh::channel_io::{Gone, Incoming};
use crate::ssh::command_progress::Progress;
use crate::ssh::sftp;
use crate::ssh::sftp::reading::View;
use crate::ssh::sftp::writing::Uploads;
use crate::ssh::shell;
use crate::stdin::{self, Input};

/// The one request that a channel serves.
#[derive(Debug)]
pub enum Request {
    /// A command line; with the terminal, if there is one, and the form of progress.
    Exec(String, Option<Terminal>, Form),
    /// The prompt; with the terminal, if there is one.
    Shell(Option<Terminal>, Form),
    /// Files.
    Sftp,
}

/// A client's terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Its width.
    pub columns: u32,
    /// Whether it may be sent colours.
    pub colours: bool,
}

/// What a channel's task works with.
#[derive(Debug)]
pub struct Context {
    /// The registry.
    pub registry: Arc<Registry>,
    /// What the connection is doing.
    pub activity: Arc<Activity>,
    /// What the client may do.
    pub role: Role,
    /// Who the client is.
    pub caller: Caller,
}

/// Serves the request on `channel` that `started` says was granted.
pub async fn run(channel: Channel<Msg>, started: oneshot::Receiver<Request>, mut context: Context) {
    let (mut reader, writer) = channel.split();
    let Some((request, first)) = wait(&mut reader, started).await else { return };
    if matches!(request, Request::Shell(..)) {
        context.caller.client = Client::Prompt;
    }
    let mut client = Incoming::new(reader, writer, Arc::clone(&context.activity));
    if let Some(first) = first
        && client.take(first).is_err()
    {
        return client.close().await;
    }
    let code = match request {
        Request::Exec(line, terminal, form) => {
            return exec(client, &context, line, terminal, form).await;
        }
        Request::Shell(terminal, form) => shell::run(&mut client, &context, terminal, form).await,
        Request::Sftp => {
            let uploads = (context.role == Role::Operator).then(|| Uploads::new(&context));
            let files = sftp::Files { view: View::new(&context), uploads };
            sftp::run(&mut client, &context.activity, files).await
        }
    };
    match code {
        Ok(code) => client.finish(code).await,
        Err(Gone) => client.close().await,
    }
}

/// Waits for a request to be granted, passing over whatever the client sends before. With it
/// comes what the client sent right after, if that was seen first.
async fn wait(
    reader: &mut ChannelReadHalf,
    mut started: oneshot::Receiver<Request>,
) -> Option<(Request, Option<ChannelMsg>)> {
    loop {
        tokio::select! {
            biased;
            request = &mut started => return Some((request.ok()?, None)),
            message = reader.wait() => match message {
                None | Some(ChannelMsg::Close) => return None,
                Some(message) => {
                    // Between the two looks it may have been granted, and this be its input.
                    if let Ok(request) = started.try_recv() {
                        return Some((request, Some(message)));
                    }
                }
            },
        }
    }
}

/// Runs a command and sends its answer. The connection is busy until the client has it.
async fn exec(
    mut client: Incoming,
    context: &Context,
    line: String,
    terminal: Option<Terminal>,
    form: Form,
) {
    let busy = context.activity.busy();
    match exec_and_send(&mut client, context, line, terminal, form).await {
        Ok((code, length)) => client.finish_answer(code, length, busy).await,
        Err(Gone) => client.close().await,
    }
}

/// The exit code, and the length of what was sent.
async fn exec_and_send(
    client: &mut Incoming,
    context: &Context,
    line: String,
    terminal: Option<Terminal>,
    form: Form,
) -> Result<(u8, usize), Gone> {
    let (feed, input) = stdin::channel();
    let mut progress = Progress::new(form);
    let work = answer(context, line, input, &progress);
    let Answer { mut stdout, mut stderr, code } =
        client.feeding(feed, &context.activity, &mut progress, work).await?;
    progress.end(client).await?;
    if terminal.is_some() {
        (stdout, stderr) = (shell::for_terminal(&stdout), shell::for_terminal(&stderr));
    }
    let length = stdout.len() + stderr.len();
    client.send(stdout).await?;
    client.send_error(stderr).await?;
    Ok((code, length))
}

/// Runs one command line, with what the client sends as its input. It runs to its end even
/// if the client goes away.
pub fn answer(
    context: &Context,
    line: String,
    input: Input,
    progress: &Progress,
) -> impl Future<Output = Answer> + use<> {
    let busy = context.activity.busy();
    let (registry, caller) = (Arc::clone(&context.registry), context.caller.clone());
    let meter = Arc::clone(&progress.meter);
    async move {
        if is_old_scp(&line) {
            let text = "scp's old protocol is not supported; use scp without -O, or sftp\n";
            return Answer { stdout: Vec::new(), stderr: text.into(), code: exit::FAILED };
        }
        let running = tokio::spawn(async move {
            let answer = console::run(&registry, &caller, &line, input, &meter).await;
            drop(busy);
            answer
        });
        running.await.unwrap_or_else(|err| {
            tracing::error!("command failed inside: {err}");
            let text = "internal error, see the registry's log\n";
            Answer { stdout: Vec::new(), stderr: text.into(), code: exit::FAILED }
        })
    }
}

fn is_old_scp(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("scp") && words.any(|word| word == "-t" || word == "-f")
}
