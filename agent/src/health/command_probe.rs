//! Probes by running a program. Exit status 0 is a success.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use crate::blocking;
use crate::health::subject::Subject;
use crate::health::wording::{last_line, reason};
use crate::script::{self, Change, env_file};

/// The probe keeps at most this number of bytes from the end of the output.
const MOST_KEPT: usize = 4 << 10;
/// Capacity of a pipe in bytes (pipe(7)).
const PIPE: usize = 64 << 10;
/// Variables of the script's environment that have no meaning for a check.
const OF_CHANGE: [&str; 3] = ["OLDID", "OLDROOT", "STATEFILE"];

/// Runs the program, and waits for its end. Dropping the future kills the program and all processes
/// of its group.
pub(super) async fn probe(program: &str, subject: &Subject) -> Result<(), String> {
    let environment = environment(subject)?;
    let name = program.to_owned();
    let started = blocking::run(move || Running::start(&name, environment)).await;
    let mut running = started.map_err(|err| reason(&err))?;
    let status = running.wait().await.map_err(|err| reason(&err))?;
    if status.success() {
        return Ok(());
    }
    let line = last_line(&running.kept);
    let separator = if line.is_empty() { "" } else { ": " };
    Err(format!("{}{separator}{line}", script::describe(status)))
}

/// The script's environment, without the old configuration and the state file.
fn environment(subject: &Subject) -> Result<Vec<(OsString, OsString)>, String> {
    let own = env_file::read(subject.env_file.as_deref()).map_err(|err| err.to_string())?;
    let change = Change { old: None, new: &subject.configuration, new_root: &subject.root };
    let all = script::environment(change, Path::new(""), |name| std::env::var_os(name));
    let all = all.into_iter().filter(|(name, _)| !OF_CHANGE.contains(&&**name));
    Ok(all.map(|(name, value)| (name.into(), value)).chain(own).collect())
}

/// A running program.
struct Running {
    group: Group,
    child: Child,
    output: Receiver,
    kept: Vec<u8>,
}

/// A process group. Dropping this value kills the group, unless the leader of the group has already
/// ended.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // The call fails if all processes of the group have already ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Running {
    fn start(program: &str, environment: Vec<(OsString, OsString)>) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let other = writer.try_clone()?;
        let child = Command::new(program)
            .env_clear()
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(other)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let group = Group(leader);
        let output = Receiver::from_owned_fd(OwnedFd::from(reader))?;
        Ok(Self { group, child, output, kept: Vec::new() })
    }

    /// Waits for the program's end, but not for processes that the program leaves behind.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let mut buffer = vec![0; 4 << 10];
        let mut is_open = true;
        let status = loop {
            tokio::select! {
                status = self.child.wait() => break status?,
                read = self.output.read(&mut buffer), if is_open => match read {
                    Ok(n) if n > 0 => keep(&mut self.kept, &buffer[..n]),
                    _ => is_open = false,
                },
            }
        };
        self.group.0 = None;
        // The runtime may not yet know that the pipe contains output, so this code reads the pipe
        // directly.
        let mut left = PIPE;
        while let (true, Ok(n)) = (left > 0, rustix::io::read(&self.output, &mut buffer)) {
            if n == 0 {
                break;
            }
            keep(&mut self.kept, &buffer[..n]);
            left = left.saturating_sub(n);
        }
        Ok(status)
    }
}

/// Adds `bytes` to `kept`, and discards all but the last `MOST_KEPT` bytes.
fn keep(kept: &mut Vec<u8>, bytes: &[u8]) {
    kept.extend(bytes);
    kept.drain(..kept.len().saturating_sub(MOST_KEPT));
}
