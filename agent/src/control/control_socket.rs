//! Serves the control socket, over which subcommands send requests to a running agent. For each
//! client, one task reads the client's request. The polling loop serves the request between two
//! cycles, so that no request runs during a deploy. A client that disconnects or sends garbage
//! affects no other client.

use std::path::Path;
use std::sync::Arc;

use deploy_store::disk::Dir;
use deploy_store::{Error, Result};
use deploy_wire::exit;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{interval, sleep, timeout};

use crate::control::protocol::{Answer, MAX_REQUEST, PATIENCE, Request, SIGN_OF_LIFE, SOCKET};
use crate::records::running_script;

/// Maximum number of ancestors of a client that [`is_below`] examines.
const MAX_DEPTH: u32 = 64;
/// Maximum number of clients that the agent serves at the same time.
const MAX_CLIENTS: usize = 16;

/// A request, and the channel for its answer.
#[derive(Debug)]
pub struct Asked {
    /// The request.
    pub request: Request,
    reply: oneshot::Sender<Answer>,
}

impl Asked {
    /// Whether the client still waits for the answer.
    pub fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    /// Sends the answer to the client, which may have disconnected.
    pub fn answer(self, answer: Answer) {
        let _ = self.reply.send(answer);
    }
}

/// The control socket. Dropping this value removes the socket.
#[derive(Debug)]
pub struct Control {
    dir: Option<Dir>,
    requests: mpsc::Receiver<Asked>,
    /// Keeps the channel open if there is no socket.
    _sender: mpsc::Sender<Asked>,
}

impl Control {
    /// Creates the socket in the agent's directory, which this process must have locked, and
    /// listens on the socket. If the agent cannot listen, it continues without a socket, and
    /// subcommands cannot reach the agent.
    pub fn open(dir: &Path) -> Self {
        let (sender, requests) = mpsc::channel(1);
        let dir = match listen(dir) {
            Ok((dir, listener)) => {
                tokio::spawn(accept(listener, dir.path().into(), sender.clone()));
                Some(dir)
            }
            Err(err) => {
                tracing::warn!(event = "no_control", "subcommands cannot reach this agent: {err}");
                None
            }
        };
        Self { dir, requests, _sender: sender }
    }

    /// Returns the next request. Skips requests whose clients no longer wait for the answer.
    pub async fn next(&mut self) -> Asked {
        loop {
            match self.requests.recv().await {
                Some(asked) if asked.is_wanted() => return asked,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            // If the removal fails, the next start of the agent replaces the socket.
            let _ = dir.remove_file(SOCKET);
        }
    }
}

fn listen(dir: &Path) -> Result<(Dir, UnixListener)> {
    let dir = Dir::open(dir)?;
    let listener = dir.listen(SOCKET)?;
    let listener = UnixListener::from_std(listener)
        .map_err(|err| Error::io("watch", dir.path_of(SOCKET), err))?;
    Ok((dir, listener))
}

async fn accept(listener: UnixListener, dir: Arc<Path>, requests: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // If the agent already serves `MAX_CLIENTS` clients, further clients wait in the queue of
        // the operating system.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (dir, requests) = (Arc::clone(&dir), requests.clone());
                tokio::spawn(async move {
                    serve(stream, &dir, &requests).await;
                    drop(place);
                });
            }
            // The most likely cause is that the agent has no free file descriptors at the moment.
            Err(err) => {
                tracing::debug!("cannot accept a request: {err}");
                sleep(SIGN_OF_LIFE).await;
            }
        }
    }
}

async fn serve(stream: UnixStream, dir: &Path, requests: &mpsc::Sender<Asked>) {
    let client = stream.peer_cred().ok().and_then(|client| client.pid());
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let answer = match timeout(PATIENCE, request(&mut read)).await {
        Ok(Ok(_)) if client.is_some_and(|client| is_of_script(client, dir)) => Answer::failed(
            exit::FAILED,
            "the deploy script or a health check sent this request; the agent serves requests only \
             after that program has ended",
        ),
        Ok(Ok(request)) => {
            let (reply, answer) = oneshot::channel();
            tokio::select! {
                // A client that disconnects cancels its request.
                () = gone(read) => return,
                answered = answered(requests, Asked { request, reply }, answer, &mut write) => {
                    match answered {
                        Some(answer) => answer,
                        None => return,
                    }
                }
            }
        }
        Ok(Err(why)) => Answer::failed(exit::USAGE, format!("the request {why}")),
        Err(_) => Answer::failed(exit::USAGE, "no request arrived in time"),
    };
    let mut json = serde_json::to_vec(&answer).unwrap_or_default();
    json.push(b'\n');
    // If a client takes too long to receive one piece, the agent sends no further pieces.
    for piece in json.chunks(64 << 10) {
        if !matches!(timeout(PATIENCE, write.write_all(piece)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Whether a process belongs to a deploy script, or to another program that this agent runs, such
/// as a health check. The script may also be a script that a killed agent left running.
fn is_of_script(pid: i32, dir: &Path) -> bool {
    let waited_for = |script: u32| i64::from(pid) == i64::from(script) || is_below(pid, script);
    is_below(pid, std::process::id())
        || running_script::read(dir).is_some_and(|script| waited_for(script.pid))
}

/// Whether the process `pid` is a descendant of the process `other`.
fn is_below(mut pid: i32, other: u32) -> bool {
    for _ in 0..MAX_DEPTH {
        match parent(pid) {
            Some(parent) if i64::from(parent) == i64::from(other) => return true,
            Some(parent) if parent > 1 => pid = parent,
            _ => return false,
        }
    }
    false
}

/// The id of the parent process of `pid`, read from `/proc/PID/stat`. For the form of that file,
/// see proc(5): `4711 (any name) S PARENT …`.
fn parent(pid: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Waits until the request is served, and sends keepalives meanwhile. Returns `None` if the client
/// has disconnected.
async fn answered(
    requests: &mpsc::Sender<Asked>,
    asked: Asked,
    mut answer: oneshot::Receiver<Answer>,
    write: &mut OwnedWriteHalf,
) -> Option<Answer> {
    let mut signs = interval(SIGN_OF_LIFE);
    let served = async {
        // The channel closes only when the agent ends.
        requests.send(asked).await.ok()?;
        (&mut answer).await.ok()
    };
    tokio::pin!(served);
    loop {
        tokio::select! {
            answer = &mut served => {
                return Some(answer.unwrap_or_else(|| {
                    Answer::failed(exit::FAILED, "the agent is stopping")
                }));
            }
            _ = signs.tick() => {
                if !matches!(timeout(PATIENCE, write.write_all(b" ")).await, Ok(Ok(()))) {
                    return None;
                }
            }
        }
    }
}

/// Reads the one line that a client sends. The error says why the agent refuses the request.
async fn request(read: &mut BufReader<OwnedReadHalf>) -> Result<Request, String> {
    let mut line = Vec::new();
    let mut limited = read.take(MAX_REQUEST);
    limited.read_until(b'\n', &mut line).await.map_err(|err| format!("cannot be read: {err}"))?;
    if line.last() != Some(&b'\n') {
        return Err("is too long or incomplete".to_owned());
    }
    serde_json::from_slice(&line).map_err(|err| format!("is not valid: {err}"))
}

/// Returns when the client has disconnected, or has sent more than its request.
async fn gone(mut read: BufReader<OwnedReadHalf>) {
    let mut byte = [0];
    let _ = read.read(&mut byte).await;
}
