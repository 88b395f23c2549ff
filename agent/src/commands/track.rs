//! Tracks a configuration, which is the work of `deploy-agent` without a subcommand.

use anyhow::{Result, anyhow};
use deploy_cli::progress::{Form, Shown};
use deploy_cli::service;
use deploy_store::ConfigurationName;
use deploy_wire::exit;

use crate::agent::Agent;
use crate::commands::fleet_link::FleetLink;
use crate::commands::open_agent::{open, session};
use crate::control::control_socket::Control;
use crate::control::exit_codes;
use crate::cycle::Outcome;
use crate::error::Error;
use crate::flags::Flags;
use crate::poll::{self, Stopped};
use crate::progress_log;
use crate::sandbox::Sandbox;
use crate::stop::Stop;

/// Tracks a configuration until a signal arrives, or for one cycle with `-once`.
pub(super) fn track(flags: &Flags) -> Result<u8> {
    flags.check()?;
    let runtime = tokio::runtime::Runtime::new().map_err(|err| anyhow!("start threads: {err}"))?;
    let opened = {
        let _entered = runtime.enter();
        let stop = Stop::on_signals().map_err(|err| anyhow!("watch for signals: {err}"))?;
        open(flags, stop).map(|(agent, name)| {
            // With `-once` there is no socket, because no polling loop runs that could serve
            // requests.
            let control = (!flags.once).then(|| Control::open(&flags.dir));
            (agent, name, control)
        })
    };
    let done = opened.and_then(|(agent, name, control)| {
        runtime.block_on(async {
            match control {
                Some(control) => run(flags, &agent, name, control).await,
                None => run_once(flags, &agent, name).await,
            }
        })
    });
    // Work on the disk may still be under way. An interruption of that work does no harm.
    runtime.shutdown_background();
    done
}

async fn run(
    flags: &Flags,
    agent: &Agent,
    name: ConfigurationName,
    mut control: Control,
) -> Result<u8> {
    log_sandbox(agent.confinement.sandbox().as_ref());
    let addr = &flags.addr;
    tracing::info!(event = "started", %name, %addr, "tracking \"{name}\" of {addr}");
    service::ready(&format!("tracking {name} of {addr}"));
    let watched = tokio::spawn(keep_watch());
    let mut session = session(flags).tracking(name.clone());
    let keeper = FleetLink::new(flags, agent, &name, &session)?.start();
    let signal = poll::run(agent, &mut session, flags.poll, &mut control).await?;
    service::stopping();
    keeper.finish().await;
    watched.abort();
    tracing::info!(event = "stopped", "{signal}");
    Ok(exit::OK)
}

async fn run_once(flags: &Flags, agent: &Agent, name: ConfigurationName) -> Result<u8> {
    let mut session = session(flags).tracking(name.clone());
    let link = FleetLink::new(flags, agent, &name, &session)?;
    let shown = Shown::with(agent.store.meter(), Form::here(flags.q), progress_log::tell);
    let done = poll::once(agent, &mut session).await;
    drop(shown);
    link.deliver(can_deliver(&done)).await;
    match done {
        Ok(Outcome::UpToDate | Outcome::Switched) => Ok(exit::OK),
        Ok(_) => Ok(exit::FAILED),
        Err(Stopped::Error(err)) => Err(anyhow::Error::new(*err)),
        Err(Stopped::Signal(signal)) => {
            tracing::info!(event = "stopped", "{signal}");
            Ok(exit_codes::of_signal(signal))
        }
    }
}

/// Whether the agent can deliver its reports after the cycle. A signal that ends the agent prevents
/// the delivery. An error of the registry, for example an unreachable registry, also prevents the
/// delivery.
fn can_deliver(done: &Result<Outcome, Stopped>) -> bool {
    match done {
        Err(Stopped::Signal(_)) => false,
        Err(Stopped::Error(err)) => !matches!(**err, Error::Registry(_)),
        Ok(_) => true,
    }
}

/// Sends watchdog messages to a service manager that asks for them.
async fn keep_watch() {
    let Some(every) = service::watchdog() else { return };
    loop {
        service::alive();
        tokio::time::sleep(every).await;
    }
}

/// Logs the sandbox. If the kernel has no Landlock, the log line is a warning.
fn log_sandbox(sandbox: Option<&Sandbox>) {
    let told = sandbox.map_or_else(|| "-confine off".to_owned(), Sandbox::to_string);
    let has_landlock = sandbox.is_some_and(|sandbox| sandbox.landlock != "none");
    if sandbox.is_none() || has_landlock {
        tracing::info!(event = "confined", walls = told, "confinement: {told}");
    } else {
        tracing::warn!(
            event = "confined",
            walls = told,
            "confinement: {told}; landlock is missing or off in this kernel"
        );
    }
}
