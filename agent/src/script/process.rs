//! Starts the script's process, enforces its time limits, and waits for its end.

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use deploy_store::disk::{Dir, TempFile};
use deploy_store::{Configuration, Digest};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::blocking;
use crate::script::executable::{self, Missing};
use crate::script::script_output::Output;
use crate::script::{Change, Error, Script, env_file, environment};
use crate::stop::Stop;

/// Runs the script for `change`, logs the script's output, and waits for the script's end. The
/// function calls `note` with 0 before the script starts, and with the script's process id after
/// the start. An error of the first call prevents the start. Returns the end of the output, and an
/// error if the script did not succeed.
pub async fn run(
    script: &Script,
    change: Change<'_>,
    stop: &Stop,
    note: impl FnMut(u32) -> deploy_store::Result<()> + Send + 'static,
) -> (Vec<u8>, Result<(), Error>) {
    let started = Instant::now();
    let id = change.new.id();
    let order = Order::new(script, change);
    let Started { mut child, mut output, state_file } =
        match blocking::run(move || start(&order, note)).await {
            Ok(started) => started,
            Err(err) => return (Vec::new(), Err(err)),
        };
    tracing::info!(
        event = "script_started",
        %id,
        pid = child.id().unwrap_or(0),
        "script {:?} started for {id}", script.program
    );
    let ended = match wait(script, &mut child, &mut output, stop).await {
        Ok(Some(why)) => {
            end_group(script, &mut child, &mut output).await;
            let (program, after) = (script.program.clone(), started.elapsed());
            Err(Error::Ended { program, after, why })
        }
        Ok(None) => status(script, &mut child).await,
        Err(cause) => Err(unwatched(script, cause)),
    };
    output.read_rest();
    drop(state_file);
    (output.leave(), ended)
}

/// Owned copies of the script and the change, for the thread that starts the script.
struct Order {
    script: Script,
    old: Option<(Digest, PathBuf)>,
    new: Configuration,
    new_root: PathBuf,
}

impl Order {
    fn new(script: &Script, Change { old, new, new_root }: Change<'_>) -> Self {
        Self {
            script: script.clone(),
            old: old.map(|(id, root)| (id, root.to_owned())),
            new: new.clone(),
            new_root: new_root.to_owned(),
        }
    }

    fn change(&self) -> Change<'_> {
        let old = self.old.as_ref().map(|(id, root)| (*id, &**root));
        Change { old, new: &self.new, new_root: &self.new_root }
    }
}

/// A running script.
struct Started {
    child: Child,
    output: Output,
    /// The file that `STATEFILE` names. Dropping this value removes the file.
    state_file: TempFile,
}

fn start(
    order: &Order,
    mut note: impl FnMut(u32) -> deploy_store::Result<()>,
) -> Result<Started, Error> {
    let script = &order.script;
    let unready =
        |cause| Error::Unready { program: script.program.clone(), cause: Box::new(cause) };
    let program = script.find()?;
    let own = env_file::read(script.env_file.as_deref())?;
    let state_file = state_file(&order.new).map_err(unready)?;
    let path = temp_dir().join(OsStr::new(&*state_file.name().to_string_lossy()));
    let (reader, writer) = io::pipe().map_err(|err| system(script, "make a pipe", err))?;
    let mut output = Output::new(reader).map_err(|err| system(script, "watch a pipe", err))?;
    let other = writer.try_clone().map_err(|err| system(script, "make a pipe", err))?;
    note(0).map_err(unready)?;
    let child = Command::new(&program)
        .arg0(&script.program)
        .args(&script.arguments)
        .env_clear()
        .envs(environment::environment(order.change(), &path, |name| std::env::var_os(name)))
        .envs(own)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(other)
        .process_group(0)
        .spawn()
        .map_err(|err| not_started(script, &program, err))?;
    if let Some(Err(err)) = child.id().map(note) {
        tracing::warn!("cannot record the running script: {err}");
    }
    if let Err(err) = output.outlive() {
        tracing::warn!(
            "background processes of the script may end if they print after the agent's end: {err}"
        );
    }
    Ok(Started { child, output, state_file })
}

/// Writes the new configuration to a temporary file that everybody may read.
fn state_file(state: &Configuration) -> Result<TempFile, deploy_store::Error> {
    let dir = Arc::new(Dir::open(&temp_dir())?);
    let temp = TempFile::create(&dir, "json-state")?;
    temp.file().write_all(&state.to_json()).map_err(|err| temp.error("write", err))?;
    let readable = std::fs::Permissions::from_mode(0o644);
    temp.file().set_permissions(readable).map_err(|err| temp.error("chmod", err))?;
    Ok(temp)
}

fn temp_dir() -> PathBuf {
    let dir = std::env::temp_dir();
    std::path::absolute(&dir).unwrap_or(dir)
}

/// Waits until the script ends, or until there is a reason to end the script. Returns the reason;
/// `None` if the script has ended.
async fn wait(
    script: &Script,
    child: &mut Child,
    output: &mut Output,
    stop: &Stop,
) -> io::Result<Option<&'static str>> {
    let too_long = async {
        match script.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
        "because it ran longer than -script-timeout allows"
    };
    let stopped = async {
        stop.requested().await;
        tokio::time::sleep(script.grace).await;
        "because the agent must stop and cannot wait longer"
    };
    tokio::pin!(too_long, stopped);
    loop {
        tokio::select! {
            status = child.wait() => return status.map(|_| None),
            () = output.read_some(), if !output.ended() => {}
            why = &mut too_long => return Ok(Some(why)),
            why = &mut stopped => return Ok(Some(why)),
        }
    }
}

async fn status(script: &Script, child: &mut Child) -> Result<(), Error> {
    let status = child.wait().await.map_err(|cause| unwatched(script, cause))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { program: script.program.clone(), status })
}

/// Ends the script and its process group: sends TERM, and sends KILL after `kill_after`. KILL
/// reaches the rest of the group even if the script itself has already ended.
async fn end_group(script: &Script, child: &mut Child, output: &mut Output) {
    let Some(group) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else {
        return;
    };
    signal(group, Signal::TERM);
    let mut exited = false;
    let all_gone = async {
        while !exited || !output.ended() {
            tokio::select! {
                _ = child.wait(), if !exited => exited = true,
                () = output.read_some(), if !output.ended() => {}
            }
        }
    };
    // After the wait, the agent kills the remaining processes, whether or not the wait timed out.
    let _ = tokio::time::timeout(script.kill_after, all_gone).await;
    signal(group, Signal::KILL);
    if let Err(err) = child.wait().await {
        tracing::warn!("cannot wait for script {:?}: {err}", script.program);
    }
}

fn signal(group: Pid, signal: Signal) {
    if let Err(err) = kill_process_group(group, signal)
        && err != rustix::io::Errno::SRCH
    {
        tracing::warn!("cannot send {signal:?} to the script's processes: {err}");
    }
}

fn not_started(script: &Script, program: &Path, err: io::Error) -> Error {
    let program = match executable::reason(program, &err) {
        Some(reason) => {
            return Missing { program: script.program.clone(), reason }.into();
        }
        None => script.program.clone(),
    };
    Error::System { program, action: "start the script", cause: err }
}

fn system(script: &Script, action: &'static str, cause: io::Error) -> Error {
    Error::System { program: script.program.clone(), action, cause }
}

fn unwatched(script: &Script, cause: io::Error) -> Error {
    Error::Unwatched { program: script.program.clone(), cause }
}
