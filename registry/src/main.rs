//! `deploy-registry`: the registry's program. See ARCHITECTURE.md for the walk of data.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches, Parser};
use deploy_registry::registry::Registry;
use deploy_registry::{janitor, server};
use deploy_wire::{exit, flags};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How often the key files are looked at.
const KEYS_EVERY: Duration = Duration::from_secs(3);

/// Server of components and configurations, over ssh and sftp.
#[derive(Debug, Parser)]
#[command(name = "deploy-registry", version)]
struct Flags {
    /// Address to listen on
    #[arg(long, default_value = "localhost:2022", env = "DEPLOY_REGISTRY_ADDR")]
    addr: String,
    /// Data directory
    #[arg(long, default_value = "/var/lib/deploy-registry", env = "DEPLOY_REGISTRY_DIR")]
    dir: PathBuf,
    /// `authorized_keys` for operators
    #[arg(
        long,
        default_value = "/etc/deploy-registry/operator.keys",
        env = "DEPLOY_REGISTRY_OPAUTH"
    )]
    opauth: PathBuf,
    /// `authorized_keys` for services
    #[arg(
        long,
        default_value = "/etc/deploy-registry/service.keys",
        env = "DEPLOY_REGISTRY_SRVAUTH"
    )]
    srvauth: PathBuf,
    /// Versions of a component to keep, 0 for all; those in use are always kept
    #[arg(long, default_value_t = 10, env = "DEPLOY_REGISTRY_MAXVER")]
    maxver: usize,
    /// Longest life of a connection on which nothing moves, 0 for no end
    #[arg(long, default_value = "30m", value_parser = flags::duration, env = "DEPLOY_REGISTRY_DEADLINE")]
    deadline: Duration,
    /// Largest upload
    #[arg(long, default_value = "64G", value_parser = flags::size, env = "DEPLOY_REGISTRY_MAX_UPLOAD")]
    max_upload: u64,
    /// Form of the log
    #[arg(long, default_value = "human", env = "DEPLOY_REGISTRY_LOG_FORMAT")]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

fn main() -> std::process::ExitCode {
    let command = Flags::command();
    let known: Vec<String> =
        command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
    let arguments = flags::normalize(std::env::args_os(), &known);
    let parsed = command.try_get_matches_from(arguments);
    let flags = match parsed.and_then(|matches| Flags::from_arg_matches(&matches)) {
        Ok(flags) => flags,
        Err(err) => {
            let code = if err.use_stderr() { exit::USAGE } else { exit::OK };
            // A closed stdout or stderr leaves nobody to tell.
            let _ = err.print();
            return code.into();
        }
    };
    log_to_stderr(flags.log_format);
    let runtime = tokio::runtime::Runtime::new().context("start runtime");
    match runtime.and_then(|runtime| runtime.block_on(run(flags))) {
        Ok(()) => exit::OK.into(),
        Err(err) => {
            tracing::error!("{err:#}");
            let corrupt = err.chain().any(|cause| {
                matches!(cause.downcast_ref(), Some(deploy_registry::catalog::Error::Open { .. }))
            });
            if corrupt { exit::CORRUPT.into() } else { exit::FAILED.into() }
        }
    }
}

fn log_to_stderr(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,russh=warn,russh_sftp=error,sqlx=warn".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => log.with_target(false).with_ansi(false).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}

async fn run(flags: Flags) -> Result<()> {
    let registry = Arc::new(Registry::open(&flags.dir, flags.max_upload).await?);
    let key = server::host_key(&flags.dir)?;
    let shared = server::Shared::new(Arc::clone(&registry), &flags.opauth, &flags.srvauth)?;
    let shared = Arc::new(shared);
    let listener = server::listen(&flags.addr).await?;
    tracing::info!("host key fingerprint: {}", server::fingerprint(&key));
    tracing::info!("listening on {}", listener.local_addr().context("local address")?);

    let stop = Arc::new(Notify::new());
    let janitor = tokio::spawn(janitor::run(Arc::clone(&registry), flags.maxver));
    let keys = tokio::spawn(watch_keys(Arc::clone(&shared)));
    let accepting = tokio::spawn({
        let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
        let config = Arc::new(server::config(key));
        async move { server::accept(listener, shared, config, flags.deadline, &stop).await }
    });

    let mut terminate = signal(SignalKind::terminate()).context("watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("terminated"),
        _ = interrupt.recv() => tracing::info!("interrupt"),
    }
    stop.notify_one();
    accepting.await.context("stop accepting")?;
    janitor.abort();
    keys.abort();
    shared.settle().await;
    registry.catalog.close().await;
    Ok(())
}

/// Reads the key files again on SIGHUP, and when they change.
async fn watch_keys(shared: Arc<server::Shared>) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    loop {
        let always = tokio::select! {
            _ = hangup.recv() => true,
            () = tokio::time::sleep(KEYS_EVERY) => false,
        };
        shared.reload_keys(always);
    }
}
