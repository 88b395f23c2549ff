//! Running the script: who it is told about, how it ends, what its failure means.
//!
//! The script is started at least once for every change: should the agent die after the
//! script and before the state file is replaced, it is started again. Processes that it
//! leaves in the background live on.

pub mod env_file;
pub mod executable;
pub mod output;

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use deploy_store::disk::{Dir, TempFile};
use deploy_store::{Configuration, Digest};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::script::executable::Missing;
use crate::script::output::Output;
use crate::stop::Stop;

/// Variables of the agent's own environment that the script sees, where they are set.
pub const PASSED: [&str; 8] =
    ["PATH", "HOME", "TMPDIR", "USER", "LOGNAME", "LANG", "LC_ALL", "SHELL"];
/// Most bytes of environment: the system takes a quarter of the stack's 8 MiB.
pub const MAX_ENVIRONMENT: usize = 1_900_000;
/// Bytes of environment that a layer takes beside its names: those of two variables, and
/// what the system needs to point at them.
const PER_LAYER: usize = 2 * ("LAYER_nnnnn_VERSION=".len() + 1 + 8);
/// Bytes of environment left to paths and to the agent's own variables.
const BESIDE_LAYERS: usize = 128 << 10;
/// From TERM to KILL when a script is ended.
pub const KILL_AFTER: Duration = Duration::from_secs(10);
/// What is done while it runs.
const WAIT: &str = "wait for it";
/// How long a script may go on when the agent is to end.
pub const STOP_GRACE: Duration = Duration::from_secs(60);

/// What is run after a root is ready.
#[derive(Debug, Clone)]
pub struct Script {
    /// A path, or a name to be found in `PATH`.
    pub program: String,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// A file with variables of its own.
    pub env_file: Option<PathBuf>,
    /// How long it may run.
    pub timeout: Option<Duration>,
    /// How long it may go on when the agent is to end.
    pub grace: Duration,
    /// From TERM to KILL when it is ended.
    pub kill_after: Duration,
}

/// What the script is told: the change it is run for.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// What was deployed before, with its root; `None` on the first run.
    pub old: Option<(Digest, &'a Path)>,
    /// What is deployed now.
    pub new: &'a Configuration,
    /// Its root.
    pub new_root: &'a Path,
}

/// Why a script did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be started as it is.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// The configuration cannot be told to a script.
    #[error("configuration \"{name}\" cannot be told to a script: {reason}")]
    Environment {
        /// The configuration.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The system did what it should not while starting or watching it.
    #[error("{program:?}: cannot {action}: {cause}")]
    System {
        /// The script.
        program: String,
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        cause: io::Error,
    },
    /// A file for it could not be made.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The file with its own variables cannot be used.
    #[error(transparent)]
    Variables(#[from] env_file::Error),
    /// It said that it failed.
    #[error("{program:?} call failure: {}", describe(*status))]
    Failed {
        /// The script.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// It was ended because it took too long.
    #[error("{program:?} call failure: ended after {after:?}, {why}")]
    Ended {
        /// The script.
        program: String,
        /// How long it had run.
        after: Duration,
        /// What limit it crossed.
        why: &'static str,
    },
}

impl Script {
    /// The file to run.
    pub fn find(&self) -> Result<PathBuf, Missing> {
        executable::program(&self.program, std::env::var_os("PATH").as_deref())
    }
}

impl Error {
    /// Whether the script was started: nobody knows what it did then.
    pub fn has_run(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::Ended { .. } => true,
            Self::System { action, .. } => *action == WAIT,
            _ => false,
        }
    }
}

/// Checks before any work is done that `configuration` can be told to a script.
pub fn check_environment(configuration: &Configuration) -> Result<(), Error> {
    let refuse =
        |reason: String| Err(Error::Environment { name: configuration.name().to_string(), reason });
    let layers = configuration.layers();
    let with_nul = layers.iter().find(|layer| {
        layer.component.as_str().contains('\0') || layer.version.as_str().contains('\0')
    });
    if let Some(layer) = with_nul {
        return refuse(format!("layer \"{}\" has a NUL in its name", layer.component));
    }
    // With room for the paths and the rest.
    let bytes = layers
        .iter()
        .map(|layer| layer.component.as_str().len() + layer.version.as_str().len() + PER_LAYER);
    match bytes.sum::<usize>() + BESIDE_LAYERS {
        bytes if bytes > MAX_ENVIRONMENT => refuse(format!(
            "the names of its {} layers take {bytes} bytes of environment, {MAX_ENVIRONMENT} is most",
            layers.len()
        )),
        _ => Ok(()),
    }
}

/// The environment of the script, but for its own variables; `outer` is the agent's own.
pub fn environment(
    change: Change<'_>,
    state_file: &Path,
    outer: impl Fn(&str) -> Option<OsString>,
) -> Vec<(String, OsString)> {
    let (old_id, old_root) = match change.old {
        Some((id, root)) => (id.to_string(), root.as_os_str().to_owned()),
        None => (String::new(), OsString::new()),
    };
    let mut all: Vec<(String, OsString)> = vec![
        ("OLDID".to_owned(), old_id.into()),
        ("OLDROOT".to_owned(), old_root),
        ("NEWID".to_owned(), change.new.id().to_string().into()),
        ("NEWROOT".to_owned(), change.new_root.into()),
        ("STATEFILE".to_owned(), state_file.into()),
    ];
    all.extend(PASSED.iter().filter_map(|&name| Some((name.to_owned(), outer(name)?))));
    for (n, layer) in change.new.layers().iter().enumerate() {
        all.push((format!("LAYER_{n}_NAME"), layer.component.as_str().into()));
        all.push((format!("LAYER_{n}_VERSION"), layer.version.as_str().into()));
    }
    all
}

/// Runs the script for `change` and waits for its end, logging what it prints. `note` is told 0
/// when it is about to start, which an error prevents, and its process when it has. Returns the
/// end of its output, and the reason if it did not do its work.
pub async fn run(
    script: &Script,
    change: Change<'_>,
    stop: &Stop,
    mut note: impl FnMut(u32) -> Result<(), deploy_store::Error>,
) -> (Vec<u8>, Result<(), Error>) {
    let started = Instant::now();
    let begun = begin(script, change, &mut note);
    let (mut child, mut output, state_file) = match begun {
        Ok(begun) => begun,
        Err(err) => return (Vec::new(), Err(err)),
    };
    if let Some(Err(err)) = child.id().map(note) {
        tracing::warn!("no note of the script that runs: {err}");
    }
    if let Err(err) = output.outlive() {
        tracing::warn!("what the script leaves running may not outlive the agent: {err}");
    }
    let ended = wait(script, &mut child, &mut output, stop).await;
    let ended = match ended {
        Ok(Some(why)) => {
            end_group(script, &mut child, &mut output).await;
            let (program, after) = (script.program.clone(), started.elapsed());
            Err(Error::Ended { program, after, why })
        }
        Ok(None) => status(script, &mut child).await,
        Err(err) => Err(system(script, WAIT, err)),
    };
    output.read_rest();
    drop(state_file);
    (output.leave(), ended)
}

fn begin(
    script: &Script,
    change: Change<'_>,
    note: &mut impl FnMut(u32) -> Result<(), deploy_store::Error>,
) -> Result<(Child, Output, TempFile), Error> {
    let program = script.find()?;
    let own = env_file::read(script.env_file.as_deref())?;
    let state_file = state_file(change.new)?;
    let path = temp_dir().join(OsStr::new(&*state_file.name().to_string_lossy()));
    let (reader, writer) = io::pipe().map_err(|err| system(script, "make a pipe", err))?;
    let output = Output::new(reader).map_err(|err| system(script, "watch a pipe", err))?;
    let other = writer.try_clone().map_err(|err| system(script, "make a pipe", err))?;
    note(0)?;
    let child = Command::new(&program)
        .arg0(&script.program)
        .args(&script.arguments)
        .env_clear()
        .envs(environment(change, &path, |name| std::env::var_os(name)))
        .envs(own)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(other)
        .process_group(0)
        .spawn()
        .map_err(|err| not_started(script, &program, err))?;
    tracing::info!(
        event = "script_started",
        id = %change.new.id(),
        pid = child.id().unwrap_or(0),
        "script {:?} started for {}", script.program, change.new.id()
    );
    Ok((child, output, state_file))
}

/// The new configuration in a temporary file that anybody may read.
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

/// Waits for the script's end (`None`) or for a reason to end it.
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
        "the most that -script-timeout allows"
    };
    let stopped = async {
        stop.requested().await;
        tokio::time::sleep(script.grace).await;
        "because the agent was told to end and cannot wait longer"
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
    let status = child.wait().await.map_err(|err| system(script, WAIT, err))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::Failed { program: script.program.clone(), status })
}

/// Ends the script and all it started in its process group: TERM, some time to clean up,
/// KILL for whoever is left, even when the script itself has gone by then.
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
    // Late or not, what is left is killed.
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
    Error::System { program, action: "start it", cause: err }
}

fn system(script: &Script, action: &'static str, cause: io::Error) -> Error {
    Error::System { program: script.program.clone(), action, cause }
}

/// How a process ended, in the Go tool's words.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
