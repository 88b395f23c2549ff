//! Serves one channel: a command, the prompt, or sftp.

use std::sync::Arc;

use deploy_cli::progress::Form;
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf};
use tokio::sync::oneshot;

use super::auth::keyring::Role;
use super::channel_io::{Gone, Incoming};
use super::command_progress::Progress;
use super::context::{Context, Terminal};
use super::sftp::reading::View;
use super::sftp::writing::Uploads;
use super::{agent_commands, follow, sftp, shell, web_login};
use crate::caller::Client;
use crate::console::{self, Answer};
use crate::stdin;

/// The one request that a channel serves.
#[derive(Debug)]
pub enum ChannelRequest {
    /// A command line, the terminal (if there is one), and the form of progress.
    Exec(String, Option<Terminal>, Form),
    /// The prompt, with the terminal (if there is one) and the form of progress.
    Shell(Option<Terminal>, Form),
    /// A command of an agent.
    Service(String),
    /// An sftp session.
    Sftp,
}

/// Waits until `started` receives a granted request for `channel`, and serves this request.
///
/// A registry may serve thousands of watches, each with a channel. So this function boxes the
/// futures of all other requests, which keeps the future of this function small.
pub async fn run(
    channel: Channel<Msg>,
    started: oneshot::Receiver<ChannelRequest>,
    mut context: Context,
) {
    let (mut reader, writer) = channel.split();
    let Some((request, first)) = wait(&mut reader, started).await else { return };
    if matches!(request, ChannelRequest::Shell(..)) {
        context.caller.client = Client::Prompt;
    }
    let mut client = Incoming::new(reader, writer, Arc::clone(&context.activity));
    if let Some(first) = first
        && client.take(first).is_err()
    {
        return client.close().await;
    }
    let succeeded = match request {
        ChannelRequest::Exec(line, terminal, form) => {
            if let Some(follow) = follow::wanted(&line) {
                // The command is logged at its start, because it runs until the client leaves.
                console::log_answered(&context.caller, &line, &Answer::default());
                let followed = follow::run(client, &context, &follow, terminal.is_some());
                return Box::pin(followed).await;
            }
            if web_login::wanted(&line).is_some_and(|wanted| !wanted.json) {
                return Box::pin(log_in_to_page(client, &context, line, terminal, form)).await;
            }
            return Box::pin(exec(client, &context, line, terminal, form)).await;
        }
        ChannelRequest::Service(line) => return agent_commands::run(client, &context, &line).await,
        ChannelRequest::Shell(terminal, form) => {
            Box::pin(shell::run(&mut client, &context, terminal, form)).await
        }
        ChannelRequest::Sftp => {
            let uploads = (context.role == Role::Operator).then(|| Uploads::new(&context));
            let files = sftp::Files { view: View::new(&context), uploads };
            Box::pin(sftp::run(&mut client, &context.activity, files)).await
        }
    };
    match succeeded {
        Ok(succeeded) => client.finish(console::session_code(succeeded)).await,
        Err(Gone) => client.close().await,
    }
}

/// Waits until a request is granted, and ignores earlier messages of the client. If the client's
/// first message after the request arrives during the wait, the function returns this message, too.
async fn wait(
    reader: &mut ChannelReadHalf,
    mut started: oneshot::Receiver<ChannelRequest>,
) -> Option<(ChannelRequest, Option<ChannelMsg>)> {
    loop {
        tokio::select! {
            biased;
            request = &mut started => return Some((request.ok()?, None)),
            message = reader.wait() => match message {
                None | Some(ChannelMsg::Close) => return None,
                Some(message) => {
                    // The request may have been granted just before this message arrived. In that
                    // case, this message is the request's input.
                    if let Ok(request) = started.try_recv() {
                        return Some((request, Some(message)));
                    }
                }
            },
        }
    }
}

/// Runs a command and sends its answer. The connection is busy until the client has read the
/// answer, or has had time to read it.
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

/// Runs the verb `web`, and keeps the channel open until the client leaves, because the logins to
/// the page end with the connection.
async fn log_in_to_page(
    mut client: Incoming,
    context: &Context,
    line: String,
    terminal: Option<Terminal>,
    form: Form,
) {
    if exec_and_send(&mut client, context, line, terminal, form).await.is_ok() {
        client.until_closed().await;
    }
    client.close().await;
}

/// Runs a command and sends its answer. Returns the exit code and the length of the answer.
async fn exec_and_send(
    client: &mut Incoming,
    context: &Context,
    line: String,
    terminal: Option<Terminal>,
    form: Form,
) -> Result<(u8, usize), Gone> {
    let (feed, input) = stdin::channel();
    let mut progress = Progress::new(form);
    let work = context.answer(line, input, &progress.meter);
    let Answer { mut stdout, mut stderr, code } =
        client.feeding(feed, &context.activity, &mut progress, work).await?;
    client.end_progress(&mut progress).await?;
    if terminal.is_some() {
        (stdout, stderr) = (shell::for_terminal(&stdout), shell::for_terminal(&stderr));
    }
    let length = stdout.len() + stderr.len();
    client.send(stdout).await?;
    client.send_error(stderr).await?;
    Ok((code, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size in bytes of the future that `function` returns.
    fn future_size<A, B, C, F>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn future_of_a_channel_is_small() {
        let size = future_size(run);
        assert!(size <= 8 << 10, "{size} bytes for each watch");
    }
}
