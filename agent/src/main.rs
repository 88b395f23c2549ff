//! `deploy-agent`: flags, signals, exit codes. The work is in the library.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use deploy_agent::cycle::Agent;
use deploy_agent::flags::{Cli, Flags, MAX_BLOB, Refused, Sub};
use deploy_agent::poll::{self, Stopped};
use deploy_agent::report::{Report, link_word};
use deploy_agent::script::{KILL_AFTER, STOP_GRACE, Script};
use deploy_agent::session::Session;
use deploy_agent::spare::Spares;
use deploy_agent::stop::Stop;
use deploy_agent::throttle::Throttle;
use deploy_agent::{error, log, status, unpack, verify};
use deploy_store::{Error, Limits, Options, Store};
use deploy_wire::client::{Connect, HostKey, Keys};
use deploy_wire::exit;

/// The user name that the registry serves agents under.
const USER: &str = "deploy-agent";
/// Longest time to connect and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(err) => {
            let code = if err.use_stderr() { exit::USAGE } else { exit::OK };
            // Nobody is left to be told when this fails.
            let _ = err.print();
            return ExitCode::from(code);
        }
    };
    log::start(cli.flags.log_format, cli.flags.v);
    let done = match &cli.command {
        Some(Sub::Status { json }) => show_status(&cli.flags, *json),
        Some(Sub::Verify { json }) => show_verify(&cli.flags, *json),
        Some(Sub::Unpack { blobs, into }) => unpack::run(blobs, into, cli.flags.link.into())
            .map_err(anyhow::Error::from)
            .and_then(|line| Ok(writeln!(std::io::stderr(), "{line}")?))
            .map(|()| exit::OK),
        None => track(&cli.flags),
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            // Each error says its cause itself.
            tracing::error!(event = "failed", "{err}");
            ExitCode::from(exit_code(&err))
        }
    }
}

fn exit_code(err: &anyhow::Error) -> u8 {
    if err.is::<Refused>() {
        return exit::USAGE;
    }
    err.downcast_ref::<error::Error>().map_or(exit::FAILED, error::Error::exit_code)
}

fn show_status(flags: &Flags, json: bool) -> Result<u8> {
    let status = status::read(&flags.dir, &flags.state)?;
    let text = if json { status.to_json()? + "\n" } else { status.to_text() };
    print(&text)?;
    Ok(exit::OK)
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|err| anyhow!("write to stdout: {err}"))
}

fn show_verify(flags: &Flags, json: bool) -> Result<u8> {
    let report = verify::read(&flags.dir)?;
    let text = if json { report.to_json()? + "\n" } else { report.to_text() };
    print(&text)?;
    Ok(if report.is_sound() { exit::OK } else { exit::CORRUPT })
}

fn track(flags: &Flags) -> Result<u8> {
    flags.check()?;
    let runtime = tokio::runtime::Runtime::new().map_err(|err| anyhow!("start threads: {err}"))?;
    let done = runtime.block_on(run(flags));
    // Work on the disk may be under way: every step of it can be cut off.
    runtime.shutdown_background();
    done
}

async fn run(flags: &Flags) -> Result<u8> {
    let stop = Stop::on_signals().map_err(|err| anyhow!("watch for signals: {err}"))?;
    let agent = open(flags, stop)?;
    let mut session = Session::new(Connect {
        addr: flags.addr.clone(),
        user: USER.to_owned(),
        keys: Keys::File(flags.key.clone()),
        host: HostKey::Fingerprint(flags.fp.clone()),
        timeout: CONNECT_TIMEOUT,
    });
    if !flags.once {
        let (name, addr) = (&agent.name, &flags.addr);
        tracing::info!(event = "started", %name, %addr, "tracking \"{name}\" of {addr}");
        let signal = poll::run(&agent, &mut session, flags.poll).await?;
        tracing::info!(event = "stopped", "{signal}");
        return Ok(exit::OK);
    }
    match poll::once(&agent, &mut session).await {
        Ok(_) => Ok(exit::OK),
        Err(Stopped::Error(err)) => Err(anyhow::Error::new(*err)),
        Err(Stopped::Signal(signal)) => {
            tracing::info!(event = "stopped", "{signal}");
            Ok(if signal == "interrupt" { 130 } else { 143 })
        }
    }
}

fn open(flags: &Flags, stop: Stop) -> Result<Agent> {
    let options = Options {
        limits: Limits::STANDARD,
        link: flags.link.into(),
        max_blob: MAX_BLOB,
        keep_blobs: flags.keep_blobs,
    };
    let store = Store::open(&flags.dir, options).map_err(|err| not_opened(&flags.dir, err))?;
    let link = link_word(store.link_mode());
    tracing::debug!(event = "store_open", dir = %flags.dir.display(), link, "files are placed by {link}");
    Report::update(&flags.dir, |report| {
        report.version = String::from(env!("CARGO_PKG_VERSION"));
        report.link = Some(link.to_owned());
    });
    let script = Script {
        program: flags.script.clone(),
        timeout: Some(flags.script_timeout).filter(|timeout| !timeout.is_zero()),
        grace: STOP_GRACE,
        kill_after: KILL_AFTER,
    };
    Ok(Agent {
        name: flags.name.parse().map_err(|err| anyhow!("-name: {err}"))?,
        dir: flags.dir.clone(),
        store: Arc::new(store),
        state: flags.state.clone(),
        script: Some(script).filter(|script| !script.program.is_empty()),
        current: flags.current.clone(),
        keep_roots: flags.roots_to_keep(),
        // A spare lives as long as the agent does.
        spares: (!flags.no_spare && !flags.once).then(Spares::default),
        throttle: Throttle::new(flags.limit_download),
        stop,
    })
}

fn not_opened(dir: &Path, err: Error) -> anyhow::Error {
    match err {
        Error::Busy { pid, .. } => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let dir = dir.to_string_lossy();
            anyhow!("cannot acquire exclusive lock on {dir:?}: in use by another process{pid}")
        }
        other => other.into(),
    }
}
