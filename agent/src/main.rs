//! `deploy-agent`: flags, signals, exit codes. The work is in the library.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use deploy_agent::agent::Agent;
use deploy_agent::agent::Spares;
use deploy_agent::cache_repair::{self, AT_ONCE, Mended};
use deploy_agent::commands::{init, status, unpack, verify};
use deploy_agent::control::control_socket::Control;
use deploy_agent::control::protocol::{Answer, Request};
use deploy_agent::control::sync_answer::Synced;
use deploy_agent::control::{ask, handler};
use deploy_agent::cycle::deploy_previous::{self, Released, RolledBack};
use deploy_agent::fetch::registry_session::Session;
use deploy_agent::fetch::throttle::Throttle;
use deploy_agent::flags::{Cli, Flags, MAX_BLOB, Refused, Sub};
use deploy_agent::flags::{owner_flag, sub_help};
use deploy_agent::poll::{self, Stopped};
use deploy_agent::records::agent_report::{Reporter, link_word};
use deploy_agent::records::previous;
use deploy_agent::records::rollback_hold::Hold;
use deploy_agent::records::state_owner;
use deploy_agent::sandbox::{Confinement, Walls};
use deploy_agent::script::{KILL_AFTER, STOP_GRACE, Script};
use deploy_agent::settings::Settings;
use deploy_agent::space::collection::{self, Gc};
use deploy_agent::stop::Stop;
use deploy_agent::{error, log, progress_log};
use deploy_cli::progress::{Form, Shown, Stderr};
use deploy_cli::{Names, service};
use deploy_store::disk::Lock;
use deploy_store::{Error, Limits, Options, Store, escape_json};
use deploy_wire::client::{Connect, HostKey, Keys};
use deploy_wire::exit;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The user name that the registry serves agents under.
const USER: &str = "deploy-agent";
/// Longest time to connect and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let described = || deploy_cli::full(Cli::described(deploy_cli::version!()));
    if let Some(code) = deploy_cli::early(std::env::args_os(), described, Names::None) {
        return code;
    }
    let words: Vec<_> = std::env::args_os().collect();
    let command = deploy_cli::focused(described(), &words, sub_help::heading);
    let cli = match Cli::read(command, words) {
        Ok(cli) => cli,
        Err(err) => return deploy_cli::exit(&err),
    };
    log::start(cli.flags.log_format, cli.flags.v);
    log::tell_panics();
    let flags = &cli.flags;
    let done = match cli.command {
        Some(ref sub) if sub.looks_at_directory() && !flags.dir.exists() => {
            Err(no_directory(flags))
        }
        Some(Sub::Status { json }) => show_status(flags, json),
        Some(Sub::Verify { repair, json }) => show_verify(flags, repair, json),
        Some(Sub::Gc { dry_run, taken_over, json }) => run_gc(flags, dry_run, taken_over, json),
        Some(Sub::Sync { json }) => run_sync(flags, json),
        Some(Sub::Rollback { release: false, json }) => run_rollback(flags, json),
        Some(Sub::Rollback { release: true, json }) => run_release(flags, json),
        Some(Sub::Init { settings }) => init(flags, settings.as_deref()),
        Some(Sub::Unpack { blobs, into }) => unpack_confined(flags, &blobs, &into)
            .and_then(|line| Ok(writeln!(Stderr, "{line}")?))
            .map(|()| exit::OK),
        None => track(flags),
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

fn no_directory(flags: &Flags) -> anyhow::Error {
    let dir = flags.dir.display();
    anyhow!("there is no directory {dir}: no agent has run there; check -dir")
}

fn init(flags: &Flags, settings: Option<&Path>) -> Result<u8> {
    flags.check()?;
    match init::run(flags, settings) {
        Ok(told) => print(&told).map(|()| exit::OK),
        Err(err @ init::Error::InUse { .. }) => {
            tracing::error!(event = "failed", "{err}");
            Ok(exit::CONFLICT)
        }
        Err(err) => Err(err.into()),
    }
}

/// The whole program is confined: it does nothing else.
fn unpack_confined(flags: &Flags, blobs: &[PathBuf], into: &Path) -> Result<String> {
    let confinement = Confinement::to(&unpack::ground(into), flags.confine)?;
    confinement.enter();
    let meter = Arc::default();
    let _shown = Shown::with(&meter, Form::here(flags.q), progress_log::tell);
    Ok(unpack::run(blobs, into, flags.link.into(), flags.limits.limits(), &meter)?)
}

/// Where there is no Landlock, whoever runs agents as root should know.
fn tell_walls(walls: Option<&Walls>) {
    let told = walls.map_or_else(|| "-confine off".to_owned(), Walls::to_string);
    let has_landlock = walls.is_some_and(|walls| walls.landlock != "none");
    if walls.is_none() || has_landlock {
        tracing::info!(event = "confined", walls = told, "archives are read under: {told}");
    } else {
        tracing::warn!(
            event = "confined",
            walls = told,
            "archives are read under: {told}; this kernel has no landlock"
        );
    }
}

fn show_status(flags: &Flags, json: bool) -> Result<u8> {
    let status = status::read(&flags.dir, &Settings::of(flags).state)?;
    let text = if json { status.to_json()? + "\n" } else { status.to_text() };
    print(&text)?;
    Ok(exit::OK)
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|err| anyhow!("write to stdout: {err}"))
}

fn show_verify(flags: &Flags, repair: bool, json: bool) -> Result<u8> {
    let meter = Arc::default();
    let shown = Shown::with(&meter, Form::here(flags.q), progress_log::tell);
    let report = if repair {
        verify::repair(&flags.dir, &meter, |damaged| mend(flags, &damaged))?
    } else {
        verify::read(&flags.dir, &meter)?
    };
    drop(shown);
    if report.is_empty() {
        let dir = flags.dir.display();
        return Err(anyhow!("nothing to verify in {dir}: no agent has deployed there; check -dir"));
    }
    let text = if json { report.to_json()? + "\n" } else { report.to_text() };
    print(&text)?;
    Ok(if report.is_sound() { exit::OK } else { exit::CORRUPT })
}

fn run_gc(flags: &Flags, dry_run: bool, taken_over: bool, json: bool) -> Result<u8> {
    let settings = Settings::of(flags);
    let answer = ask::either(&flags.dir, &Request::Gc { dry_run, taken_over }, || {
        if let Err(err) = state_owner::check(&flags.dir, &settings.state) {
            return Ok(Answer::failed(exit::FAILED, err.to_string()));
        }
        let done = collection::alone(&flags.dir, &settings, dry_run, taken_over)?;
        Ok(Answer::of(exit::OK, &done))
    })?;
    show(&answer, json, Gc::to_text)
}

fn run_sync(flags: &Flags, json: bool) -> Result<u8> {
    let answer = ask::either(&flags.dir, &Request::Sync, || {
        // Somebody who cannot be asked may have it: that is for the lock to tell.
        let _lock = Lock::take(&flags.dir)?;
        let why = "no agent runs here; start one, or run deploy-agent with its flags and -once";
        Ok(Answer::failed(exit::FAILED, why))
    })?;
    show(&answer, json, Synced::to_text)
}

fn run_rollback(flags: &Flags, json: bool) -> Result<u8> {
    let answer = ask::either(&flags.dir, &Request::Rollback, || roll_back_alone(flags))?;
    show(&answer, json, RolledBack::to_text)
}

fn run_release(flags: &Flags, json: bool) -> Result<u8> {
    let answer = ask::either(&flags.dir, &Request::Release, || {
        let _lock = Lock::take(&flags.dir)?;
        let was_held = Hold::lift(&flags.dir)?;
        Ok(Answer::of(exit::OK, &Released { was_held }))
    })?;
    show(&answer, json, Released::to_text)
}

/// Prints what was done. Returns the exit code.
fn show<T: Serialize + DeserializeOwned>(
    answer: &Answer,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> Result<u8> {
    if let Some(err) = &answer.error {
        tracing::error!(event = "failed", "{err}");
        return Ok(answer.code);
    }
    let done: T = answer.read().map_err(|err| anyhow!("read the answer: {err}"))?;
    let text =
        if json { escape_json(&serde_json::to_string_pretty(&done)?) + "\n" } else { text(&done) };
    print(&text)?;
    Ok(answer.code)
}

fn mend(flags: &Flags, damaged: &[String]) -> Result<Vec<Mended>> {
    let mut all = Vec::new();
    for damaged in damaged.chunks(AT_ONCE) {
        let request = Request::Repair { damaged: damaged.to_vec() };
        let answer = ask::either(&flags.dir, &request, || {
            alone(flags, async |agent, session| {
                handler::answer(cache_repair::run(agent, session, None, damaged).await)
            })
        })?;
        if let Some(err) = answer.error {
            return Err(anyhow!("{err}"));
        }
        all.extend(answer.read::<Vec<Mended>>().map_err(|err| anyhow!("read the answer: {err}"))?);
    }
    Ok(all)
}

fn roll_back_alone(flags: &Flags) -> Result<Answer, ask::Error> {
    alone(flags, async |agent, session| {
        if let Err(err) = state_owner::check(&agent.dir, &agent.state) {
            return Answer::failed(exit::FAILED, err.to_string());
        }
        if let Some(Err(err)) = agent.script.as_ref().map(Script::find) {
            // A rollback by hand that cannot end well is not begun.
            return Answer::failed(exit::FAILED, format!("script {err}"));
        }
        handler::answer(deploy_previous::run(agent, session, None).await)
    })
}

/// Does `work` in an agent's stead, with a registry if the flags name one.
fn alone(
    flags: &Flags,
    work: impl AsyncFnOnce(&Agent, &mut Session) -> Answer,
) -> Result<Answer, ask::Error> {
    let settings = Settings::of(flags);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(err) => return Ok(Answer::failed(exit::FAILED, format!("start threads: {err}"))),
    };
    runtime.block_on(async {
        let stop = match Stop::on_signals() {
            Ok(stop) => stop,
            Err(err) => {
                return Ok(Answer::failed(exit::FAILED, format!("watch for signals: {err}")));
            }
        };
        let store = Store::open(&flags.dir, options(&settings, flags.limits.limits()))?;
        let known = previous::read(&flags.dir, None).map(|known| known.name().to_string());
        let name = known.filter(|_| flags.name.is_empty());
        // A name is only for asking what there is, which nobody does here.
        let name = name.unwrap_or_else(|| flags.name.clone());
        let name = if name.is_empty() { "unknown" } else { &name };
        let agent = match agent(flags, &settings, name, store, stop) {
            Ok(agent) => Agent { spares: None, ..agent },
            Err(err) => return Ok(Answer::failed(exit::FAILED, err.to_string())),
        };
        let mut session = if flags.fp.is_empty() { Session::none() } else { session(flags) };
        Ok(tokio::select! {
            answer = work(&agent, &mut session) => answer,
            signal = agent.stop.requested_when_idle() => {
                Answer::failed(if signal == "interrupt" { 130 } else { 143 }, signal)
            }
        })
    })
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
    let mut session = session(flags);
    if !flags.once {
        let mut control = Control::open(&flags.dir);
        tell_walls(agent.confinement.walls().as_ref());
        let (name, addr) = (&agent.name, &flags.addr);
        tracing::info!(event = "started", %name, %addr, "tracking \"{name}\" of {addr}");
        service::ready(&format!("tracking {name} of {addr}"));
        let watched = tokio::spawn(keep_watch());
        let signal = poll::run(&agent, &mut session, flags.poll, &mut control).await?;
        service::stopping();
        watched.abort();
        tracing::info!(event = "stopped", "{signal}");
        return Ok(exit::OK);
    }
    let shown = Shown::with(agent.store.meter(), Form::here(flags.q), progress_log::tell);
    let done = poll::once(&agent, &mut session).await;
    drop(shown);
    match done {
        Ok(code) => Ok(code),
        Err(Stopped::Error(err)) => Err(anyhow::Error::new(*err)),
        Err(Stopped::Signal(signal)) => {
            tracing::info!(event = "stopped", "{signal}");
            Ok(if signal == "interrupt" { 130 } else { 143 })
        }
    }
}

/// Tells a service manager that asks for it, again and again, that work goes on.
async fn keep_watch() {
    let Some(every) = service::watchdog() else { return };
    loop {
        service::alive();
        tokio::time::sleep(every).await;
    }
}

fn session(flags: &Flags) -> Session {
    Session::new(Connect {
        addr: flags.addr.clone(),
        user: USER.to_owned(),
        keys: Keys::File(flags.key.clone()),
        host: HostKey::Fingerprint(flags.fp.clone()),
        timeout: CONNECT_TIMEOUT,
    })
}

fn options(settings: &Settings, limits: Limits) -> Options {
    Options { limits, link: settings.link, max_blob: MAX_BLOB, keep_blobs: settings.keep_blobs }
}

fn open(flags: &Flags, stop: Stop) -> Result<Agent> {
    let state = flags.state.clone().unwrap_or_else(|| state_owner::find(&flags.dir));
    state_owner::check(&flags.dir, &state)?;
    if let (Some(other), None) = (state_owner::passed_over(&flags.dir), &flags.state) {
        let (other, state) = (other.display(), state.display());
        tracing::info!(
            event = "state_passed_over",
            "{other} is not of the agent of {}: {state} is used; to go on with the other name it with -state",
            flags.dir.display()
        );
    }
    let settings = Settings {
        state,
        link: flags.link.into(),
        placing: flags.link.into(),
        keep_roots: flags.roots_to_keep(),
        keep_blobs: flags.keep_blobs,
        count_taken_over: flags.says_how_many_roots(),
    };
    let store = Store::open(&flags.dir, options(&settings, flags.limits.limits()));
    let mut store = store.map_err(|err| not_opened(&flags.dir, err))?;
    store.set_writable(&flags.writable).map_err(|err| anyhow!("-writable: {err}"))?;
    let owners =
        flags.owner.iter().map(|text| owner_flag::rule(text)).collect::<Result<Vec<_>, _>>();
    let owners = owners.map_err(|err| anyhow!("-owner: {err}"))?;
    if !owners.is_empty() && !store.restores_owners() {
        return Err(anyhow!("-owner: only root can give files away, and this agent is not root"));
    }
    store.set_owners(&owners).map_err(|err| anyhow!("-owner: {err}"))?;
    if let Err(err) = state_owner::take(&flags.dir, &settings.state) {
        // Each look tells that the state file cannot be written either.
        tracing::debug!("cannot write down whose the state file is: {err}");
    }
    let link = link_word(store.link_mode());
    tracing::debug!(event = "store_open", dir = %flags.dir.display(), link, "files are placed by {link}");
    let agent = agent(flags, &settings, &flags.name, store, stop)?;
    let walls = agent.confinement.walls();
    agent.report.update(|report| {
        report.version = String::from(env!("CARGO_PKG_VERSION"));
        report.confinement = walls;
        report.link = Some(link.to_owned());
        report.link_flag = Some(link_word(flags.link.into()).to_owned());
        report.state = std::path::absolute(&settings.state).ok();
        report.keep_roots = Some(settings.keep_roots);
        report.count_taken_over = settings.count_taken_over;
        report.keep_blobs = settings.keep_blobs;
        report.min_free = flags.min_free;
        report.spare = None;
    });
    Ok(agent)
}

fn agent(
    flags: &Flags,
    settings: &Settings,
    name: &str,
    store: Store,
    stop: Stop,
) -> Result<Agent> {
    let script = Script {
        program: flags.script.clone(),
        arguments: flags.script_arg.clone(),
        env_file: flags.script_env_file.clone(),
        timeout: Some(flags.script_timeout).filter(|timeout| !timeout.is_zero()),
        grace: STOP_GRACE,
        kill_after: KILL_AFTER,
    };
    let confinement = Confinement::to(&flags.dir, flags.confine)?;
    Ok(Agent {
        confinement,
        name: name.parse().map_err(|err| anyhow!("-name: {err}"))?,
        dir: flags.dir.clone(),
        store: Arc::new(store),
        state: settings.state.clone(),
        script: Some(script).filter(|script| !script.program.is_empty()),
        report: Reporter::new(&flags.dir),
        current: flags.current.clone(),
        keep_roots: settings.keep_roots,
        count_taken_over: settings.count_taken_over,
        keep_blobs: settings.keep_blobs,
        min_free: flags.min_free,
        // A spare lives as long as the agent does.
        spares: (!flags.no_spare && !flags.once).then(Spares::default),
        throttle: Throttle::new(flags.limit_download),
        quiet: flags.q,
        stop,
    })
}

fn not_opened(dir: &Path, err: Error) -> anyhow::Error {
    match err {
        Error::Busy { pid, .. } => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let dir = dir.to_string_lossy();
            anyhow!(
                "cannot acquire exclusive lock on {dir:?}: in use by another process{pid}; stop that agent first"
            )
        }
        other => other.into(),
    }
}
