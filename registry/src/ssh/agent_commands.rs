//! Serves the commands of agents: `watch` and `report`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use deploy_wire::command::{Refusal, ServiceCommand};
use deploy_wire::fleet::{HEARTBEAT, HostName, MAX_LINE, Phase, Reason, Report, SILENCE};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::channel_io::{Gone, Incoming};
use super::context::Context;
use crate::catalog::fleet::Sent;
use crate::console;
use crate::error::Error;
use crate::fleet::polls::host_name;
use crate::fleet::presence::AgentId;
use crate::fleet::watch_session::{WatchSession, Watcher};

/// If a watch cannot begin, the registry pauses for this time before it ends the watch. So the
/// agent does not retry immediately.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves the command in `line`.
pub async fn run(mut client: Incoming, context: &Context, line: &str) {
    let served = match ServiceCommand::parse(line) {
        Ok(ServiceCommand::Watch { name, host, instance }) => {
            let _ = context.declared.set(host.clone());
            let watcher = Watcher { key: context.caller.fingerprint(), host, name, instance };
            watch(&mut client, context, watcher).await
        }
        Ok(command) => {
            let done = report(context, command).await.map_err(console::refusal);
            answer(&mut client, context, line, done).await
        }
        Err(refusal) => answer(&mut client, context, line, Err(refusal)).await,
    };
    match served {
        Ok(code) => client.finish(code).await,
        Err(Gone) => client.close().await,
    }
}

/// Sends and logs the reason if the command was refused. Returns the exit code.
async fn answer(
    client: &mut Incoming,
    context: &Context,
    line: &str,
    done: Result<(), Refusal>,
) -> Result<u8, Gone> {
    let (address, Err(Refusal { text, code })) = (&context.caller.address, done) else {
        return Ok(console::session_code(true));
    };
    tracing::info!(address, line, code, why = text, "command fail");
    client.send_error(format!("{text}\n")).await?;
    Ok(code)
}

/// Records the result that a script reports.
async fn report(context: &Context, command: ServiceCommand) -> Result<(), Error> {
    let ServiceCommand::Report { name, host, id, code, phase, message } = command else {
        return Ok(());
    };
    let usual = if code == 0 { Phase::Healthy } else { Phase::Failed };
    let phase = phase.unwrap_or(usual);
    let is_good = phase == Phase::Healthy;
    let report = Report {
        phase,
        runs: is_good.then_some(id),
        wants: Some(id),
        reason: phase.is_failure().then_some(Reason::Script),
        message,
        exit_code: Some(code),
        ..Report::default()
    };
    let host = match host {
        Some(host) => host,
        None => named_by_address(context.address)?,
    };
    let (key, instance) = (context.caller.fingerprint(), String::new());
    let agent = AgentId { host: host.clone(), name: name.clone() };
    context.registry.fleet.presence.note(agent, context.address.to_canonical());
    let report = report.within_limits();
    context.registry.fleet.report(Sent { key, host, name, instance, report }).await
}

/// The name of a host whose command gives no name, made from the host's address.
fn named_by_address(address: IpAddr) -> Result<HostName, Error> {
    let name = host_name(address);
    name.map_err(|err| Error::Invalid(format!("{err}; give a name with -host")))
}

/// Serves a watch until the agent disconnects, or the registry ends the watch and sends the reason.
async fn watch(client: &mut Incoming, context: &Context, watcher: Watcher) -> Result<u8, Gone> {
    let fleet = Arc::clone(&context.registry.fleet);
    let mut session = match WatchSession::begin(fleet, watcher, context.address).await {
        Ok(session) => session,
        Err(err) => {
            tokio::time::sleep(PAUSE).await;
            client.send_error(format!("{err}\n")).await?;
            return Ok(console::session_code(false));
        }
    };
    let ended = serve(client, &mut session).await?;
    let address = &context.caller.address;
    tracing::debug!(address, "watch ended: {ended}");
    client.send_error(format!("{ended}\n")).await?;
    Ok(console::session_code(false))
}

/// Passes lines between the agent and the session in both directions. Returns why the watch ends.
async fn serve(client: &mut Incoming, session: &mut WatchSession) -> Result<String, Gone> {
    // Other lines do not delay the next heartbeat. If they did, a line sent to all agents would
    // make all later heartbeats due at the same time.
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let silence = sleep(SILENCE);
    tokio::pin!(silence);
    loop {
        while let Some(end) = client.bytes.iter().position(|byte| *byte == b'\n') {
            let line = client.bytes.split_to(end + 1);
            if let Err(why) = session.take(&line).await {
                return Ok(why);
            }
        }
        if client.bytes.len() > MAX_LINE {
            return Ok(format!("the line is longer than {MAX_LINE} bytes"));
        }
        if client.ended {
            return Ok("the agent has disconnected".to_owned());
        }
        tokio::select! {
            biased;
            next = session.next() => match next {
                Ok(Some(outgoing)) => {
                    client.send(outgoing.line.clone()).await?;
                    session.sent(&outgoing);
                }
                Ok(None) => return Ok("a newer watch began, or writing a report failed".to_owned()),
                Err(err) => return Ok(err.to_string()),
            },
            more = client.more() => {
                more?;
                silence.as_mut().reset(Instant::now() + SILENCE);
            }
            _ = heartbeat.tick() => client.send("\n").await?,
            () = &mut silence => return Ok("the agent sent nothing for too long".to_owned()),
        }
    }
}
