//! Probes a check once. If the probe fails, the error names the check and gives the reason.

use std::process::Stdio;

use tokio::process::Command;

use crate::flags::health_flags::Check;
use crate::health::subject::Subject;
use crate::health::wording::{last_line, reason};
use crate::health::{command_probe, http_probe, tcp_probe};

/// Probes a check once. The future may be dropped at any time.
pub async fn probe(check: &Check, subject: &Subject) -> Result<(), String> {
    let probed = match check {
        Check::Http(address) => http_probe::probe(address).await,
        Check::Tcp(address) => tcp_probe::connect(address).await.map(drop),
        Check::Unit(name) => return unit(name).await,
        Check::Command(program) => command_probe::probe(program, subject).await,
        Check::Registry => registry(subject).await,
    };
    probed.map_err(|reason| format!("{}: {reason}", check.label()))
}

/// Reads the configuration over a new connection, because the agent's connection may be older than
/// the deploy.
async fn registry(subject: &Subject) -> Result<(), String> {
    let read = subject.session.fresh().configuration().await;
    read.map(drop).map_err(|err| err.to_string())
}

/// Asks systemd for the state of a unit.
async fn unit(name: &str) -> Result<(), String> {
    let asked = Command::new("systemctl")
        .args(["is-active", "--", name])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let asked = asked.map_err(|err| format!("unit {name}: systemctl: {}", reason(&err)))?;
    let [state, problem] = [&asked.stdout, &asked.stderr].map(|text| last_line(text));
    match (&*state, asked.status.success()) {
        (_, true) => Ok(()),
        ("", false) => Err(format!("unit {name}: systemctl: {problem}")),
        (state, false) => Err(format!("unit {name} is {state}")),
    }
}
