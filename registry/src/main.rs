//! `deploy-registry`: keeps components and configurations, and serves them over ssh.
//! See ARCHITECTURE.md.

mod background_tasks;
mod http_flags;
mod log;
mod place_flags;
mod ready;
mod registry_import;
mod registry_init;
mod registry_migrate;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use deploy_cli::limit_flags::LimitFlags;
use deploy_cli::log::Format;
use deploy_cli::progress::{self, Form, Shown, Told};
use deploy_cli::{Names, service};
use deploy_registry::error::Error;
use deploy_registry::http;
use deploy_registry::registry::{OpenError, Registry, Settings};
use deploy_registry::ssh::{self, Keyring, Server};
use deploy_registry::{janitor, rollout_driver};
use deploy_wire::{exit, flags};
use http_flags::HttpFlags;
use place_flags::PlaceFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// The allocator. With this allocator, the registry notifies thousands of agents of a change sooner
/// than with the allocator of the C library (see docs/PERFORMANCE.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Maximum time that closing the catalogue may take.
const CLOSING: Duration = Duration::from_secs(5);

/// Keeps components and configurations, and serves them over ssh and sftp.
#[derive(Debug, Parser)]
#[command(name = "deploy-registry", args_override_self = true)]
struct Flags {
    /// Subcommand to run instead of serving
    #[command(subcommand)]
    command: Option<Sub>,
    /// Address to listen on
    #[arg(long, global = true, env = "DEPLOY_REGISTRY_ADDR", default_value = "localhost:2022")]
    addr: String,
    #[command(flatten)]
    place: PlaceFlags,
    /// File with the keys of operators, in the format of sshd's `authorized_keys`
    #[arg(
        long,
        global = true,
        env = "DEPLOY_REGISTRY_OPAUTH",
        default_value = "/etc/deploy-registry/operator.keys"
    )]
    opauth: PathBuf,
    /// File with the keys of agents, in the format of sshd's `authorized_keys`
    #[arg(
        long,
        global = true,
        env = "DEPLOY_REGISTRY_SRVAUTH",
        default_value = "/etc/deploy-registry/service.keys"
    )]
    srvauth: PathBuf,
    /// Newest versions of a component to keep even if not in use; 0 keeps all
    #[arg(long, env = "DEPLOY_REGISTRY_MAXVER", default_value_t = 10)]
    maxver: usize,
    /// Age after which a connection is closed as soon as it is idle
    #[arg(
        long,
        env = "DEPLOY_REGISTRY_DEADLINE",
        default_value = "30m",
        value_parser = flags::duration
    )]
    deadline: Duration,
    /// Largest upload
    #[arg(
        long,
        env = "DEPLOY_REGISTRY_MAX_UPLOAD",
        default_value = "64G",
        value_parser = flags::size
    )]
    max_upload: u64,
    /// Maximum bytes that each key may have in uploads that no version uses yet
    #[arg(
        long,
        env = "DEPLOY_REGISTRY_MAX_STAGED",
        default_value = "128G",
        value_parser = flags::size
    )]
    max_staged: u64,
    #[command(flatten)]
    limits: LimitFlags,
    /// Bytes of the disk that uploads leave free
    #[arg(
        long,
        env = "DEPLOY_REGISTRY_MIN_FREE",
        default_value = "64M",
        value_parser = flags::size
    )]
    min_free: u64,
    /// States of a configuration that a rollback can restore
    #[arg(long, env = "DEPLOY_REGISTRY_KEEP_STATES", default_value_t = 5)]
    keep_states: usize,
    /// How long states and the audit trail are kept, such as 8760h for a year; without it, forever
    #[arg(long, env = "DEPLOY_REGISTRY_KEEP_HISTORY", value_parser = flags::duration)]
    keep_history: Option<Duration>,
    /// How long to keep uploads that no version uses yet, and files that are no longer needed
    #[arg(
        long,
        env = "DEPLOY_REGISTRY_GRACE",
        default_value = "30m",
        value_parser = flags::duration
    )]
    grace: Duration,
    /// Let addconf replace an existing configuration, as in the Go tool, for all clients
    #[arg(long, env = "DEPLOY_REGISTRY_ADDCONF_REPLACES", action = ArgAction::Set)]
    #[arg(value_parser = flags::boolean, num_args = 0..=1, require_equals = true)]
    #[arg(default_value = "false", default_missing_value = "true")]
    addconf_replaces: bool,
    /// Maximum bytes per second of the weekly verify of all files; 0 disables it
    #[arg(
        long,
        env = "DEPLOY_REGISTRY_VERIFY_RATE",
        default_value = "8M",
        value_parser = flags::size
    )]
    verify_rate: u64,
    /// Program to run for each event of the fleet, with the event as JSON on its standard input
    #[arg(long, env = "DEPLOY_REGISTRY_ON_EVENT", value_name = "PROGRAM")]
    on_event: Option<PathBuf>,
    /// Time without a report or connection after which a host is retired, such as 720h;
    /// without it, never
    #[arg(long, env = "DEPLOY_REGISTRY_RETIRE_AFTER", value_parser = flags::duration)]
    retire_after: Option<Duration>,
    #[command(flatten)]
    http: HttpFlags,
    /// Format of the log on stderr
    #[arg(
        long,
        global = true,
        env = "DEPLOY_REGISTRY_LOG_FORMAT",
        default_value = "human",
        value_enum,
        ignore_case = true
    )]
    log_format: Format,
}

/// The subcommands
#[derive(Debug, Subcommand)]
enum Sub {
    /// Create the directory, the host key and the key files of a new registry
    Init(registry_init::Init),
    /// Ask a running registry whether it can serve: its database and its bucket answer
    Ready(ready::Ready),
    /// Import the state of a Go registry in the directory, as the first start does, and print a
    /// report; exit code 8 if files are damaged or missing
    ImportState(registry_import::ImportState),
    /// Move the registry in the directory to a database server and a bucket, or back; the registry
    /// must not run; exit code 8 if files are damaged or missing
    Migrate(registry_migrate::Migrate),
}

impl Flags {
    fn settings(&self) -> Settings {
        Settings {
            max_upload: self.max_upload,
            max_staged: self.max_staged,
            min_free: self.min_free,
            limits: self.limits.limits(),
            max_versions: self.maxver,
            keep_states: self.keep_states.max(1),
            keep_history: self.keep_history,
            grace: self.grace,
            addconf_replaces: self.addconf_replaces,
            retire_after: self.retire_after.filter(|time| !time.is_zero()),
        }
    }
}

fn main() -> ExitCode {
    if let Some(code) = deploy_cli::early(std::env::args_os(), described, Names::None) {
        return code;
    }
    let flags = match parse(std::env::args_os()) {
        Ok(flags) => flags,
        Err(err) => return deploy_cli::exit(&err),
    };
    log::start(flags.log_format);
    let done = match &flags.command {
        None => serve_until_stopped(&flags).map(|()| exit::OK),
        Some(Sub::Init(init)) => {
            init.run(&flags.addr, &flags.place.dir, &flags.opauth, &flags.srvauth)
        }
        Some(Sub::Ready(ready)) => ready.run().map(|()| exit::OK),
        Some(Sub::ImportState(import)) => import.run(&flags.place.place(), flags.settings()),
        Some(Sub::Migrate(migrate)) => migrate.run(&flags.place),
    };
    match done {
        Ok(code) => code.into(),
        Err(err) => {
            // The text of each error already includes the error's cause.
            tracing::error!("{err}");
            let damaged = matches!(err.downcast_ref(), Some(OpenError::Catalog(Error::Damaged(_))));
            if damaged { exit::CORRUPT } else { exit::FAILED }.into()
        }
    }
}

/// Prints to standard output.
fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|err| anyhow!("write to stdout: {err}"))
}

/// Shows the progress of long work. Each line of the progress text becomes a line of the log.
fn show_progress(told: Told) {
    match told {
        Told::Line(line) => tracing::info!(event = "progress", "{line}"),
        bar @ Told::Bar(_) => progress::show(bar),
    }
}

/// The description of the command line for clap.
fn described() -> clap::Command {
    let command = Flags::command().version(deploy_cli::version!());
    let command = LimitFlags::with_variables(command, "DEPLOY_REGISTRY", std::convert::identity);
    let hidden = |arg: clap::Arg| arg.hide_env_values(true);
    deploy_cli::full(command.mut_args(hidden).mut_subcommands(|sub| sub.mut_args(hidden)))
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Flags, clap::Error> {
    let arguments: Vec<OsString> = arguments.collect();
    let heading = |sub: &str, flag: &str| match (sub, flag) {
        (_, "dir") | ("init", "opauth" | "srvauth") | ("migrate", "catalogue") => Some("Registry"),
        _ => None,
    };
    let command = deploy_cli::focused(described(), &arguments, heading);
    let subs = command.get_subcommands().flat_map(clap::Command::get_arguments);
    let known: Vec<String> = command
        .get_arguments()
        .chain(subs)
        .filter_map(|argument| argument.get_long().map(str::to_owned))
        .chain(["help", "version"].map(str::to_owned))
        .collect();
    let words = flags::normalize(arguments, &known).into_iter().map(flags::name_in_full);
    let matches = command.try_get_matches_from(words)?;
    Flags::from_arg_matches(&matches)
}

fn serve_until_stopped(flags: &Flags) -> Result<()> {
    raise_file_limit();
    let runtime = runtime()?;
    let served = runtime.block_on(serve(flags));
    // The server has already waited for active work. Ending the remaining work is like a crash, and
    // a crash is safe at any time.
    runtime.shutdown_background();
    served
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|err| anyhow!("start threads: {err}"))
}

async fn serve(flags: &Flags) -> Result<()> {
    let http = flags.http.access()?;
    let keyring = Arc::new(Keyring::load(&flags.opauth, &flags.srvauth)?);
    let meter = Arc::default();
    let shown = Shown::with(&meter, Form::Lines, show_progress);
    let place = flags.place.place();
    let open = Registry::open_counted(&place, flags.settings(), &meter);
    let registry = Arc::new(open.await?);
    drop(shown);
    let host_key = match ssh::shared_host_key(&flags.place.dir, &registry.catalog).await {
        Ok(host_key) => host_key,
        Err(err) => {
            // The other registries notice at once that this one does not run.
            registry.catalog.close().await;
            return Err(err.into());
        }
    };
    let fingerprint = ssh::fingerprint(&host_key);
    tracing::info!("host key fingerprint: {fingerprint}");
    let listener = ssh::listen(&flags.addr).await?;
    let http = match http {
        Some((address, access)) => Some((ssh::listen(address).await?, access)),
        None => None,
    };
    let no_signals = |err| anyhow!("wait for signals: {err}");
    let stop = stop_signal().map_err(no_signals)?;
    let hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    tracing::info!("listening on {}", listener.local_addr()?);
    let (catalog, address) = (registry.catalog.clone(), listener.local_addr()?);
    let background = [
        tokio::spawn(janitor::run(Arc::clone(&registry))),
        tokio::spawn(janitor::sample_free_space(Arc::clone(&registry))),
        tokio::spawn(rollout_driver::run(Arc::clone(&registry))),
        tokio::spawn(background_tasks::verify(Arc::clone(&registry), flags.verify_rate)),
        tokio::spawn(background_tasks::reload_keys(hangup, Arc::clone(&keyring))),
        tokio::spawn(background_tasks::keep_watch(catalog.clone())),
        tokio::spawn(background_tasks::tell_events(Arc::clone(&registry), flags.on_event.clone())),
        tokio::spawn(background_tasks::describe(
            catalog.clone(),
            Arc::clone(&keyring),
            address,
            fingerprint,
        )),
    ];
    service::ready(&format!("listening on {}", listener.local_addr()?));
    let server = Arc::new(Server::new(registry, keyring, &host_key, flags.deadline));
    if let Some((listener, access)) = http {
        tracing::info!("http: listening on {}", listener.local_addr()?);
        tokio::spawn(http::serve_port(server.web(), listener, access));
    }
    ssh::serve(server, listener, stop).await;
    background.iter().for_each(tokio::task::JoinHandle::abort);
    // Closing the catalogue moves all data into one file. If this takes too long, part of the data
    // stays in the journal next to that file.
    let _ = tokio::time::timeout(CLOSING, catalog.close()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Returns a future that completes when a signal asks the process to stop.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("terminated"),
            _ = interrupt.recv() => tracing::info!("interrupt"),
        }
        service::stopping();
    })
}

/// Raises the limit on open files. Each connection and each open blob counts as one file.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // If this call fails, the registry can serve fewer connections.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
