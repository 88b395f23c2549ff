//! Opens the store of the agent that the flags describe, and prepares the agent's connection.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use deploy_store::{ConfigurationName, Error, Limits, Options, Store};
use deploy_wire::client::{Connect, HostKey, Keys};
use tokio::sync::watch;

use crate::agent::{Agent, Spares};
use crate::fetch::registry_session::Session;
use crate::fetch::throttle::Throttle;
use crate::flags::{Flags, MAX_BLOB, owner_flag};
use crate::fleet::identity;
use crate::fleet::offers::Offers;
use crate::fleet::reporter::{About, Reports};
use crate::health::gate::Gate;
use crate::health::verdict::Goal;
use crate::records::agent_report::{Reporter, link_word};
use crate::records::report_file::ReportFile;
use crate::records::{running_script, state_owner};
use crate::sandbox::Confinement;
use crate::script::{KILL_AFTER, STOP_GRACE, Script};
use crate::settings::Settings;
use crate::stop::Stop;

/// The user name of agents at the registry.
const USER: &str = "deploy-agent";
/// Maximum time to connect to the registry and log in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Opens the agent that tracks a configuration, and records the agent's settings for subcommands.
pub(super) fn open(flags: &Flags, stop: Stop) -> Result<(Agent, ConfigurationName)> {
    let state = flags.state.clone().unwrap_or_else(|| state_owner::find(&flags.dir));
    state_owner::check(&flags.dir, &state)?;
    if let (Some(other), None) = (state_owner::passed_over(&flags.dir), &flags.state) {
        let (other, state) = (other.display(), state.display());
        tracing::info!(
            event = "state_passed_over",
            "{other} belongs to the agent of another directory, not to the agent of {}; this agent \
             uses {state}; to use the other file, give its path with -state",
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
        return Err(anyhow!("-owner: only root can set owners, and this agent is not root"));
    }
    store.set_owners(&owners).map_err(|err| anyhow!("-owner: {err}"))?;
    if let Err(err) = state_owner::take(&flags.dir, &settings.state) {
        // A debug line is enough, because each deploy fails with an error if the state file cannot
        // be written.
        tracing::debug!("cannot record the owner of the state file: {err}");
    }
    let link = link_word(store.link_mode());
    tracing::debug!(event = "store_open", dir = %flags.dir.display(), link, "files are placed by {link}");
    let agent = agent(flags, &settings, store, stop)?;
    let name = flags.name.parse().map_err(|err| anyhow!("-name: {err}"))?;
    let sandbox = agent.confinement.sandbox();
    agent.report.update(|report| {
        report.version = String::from(env!("CARGO_PKG_VERSION"));
        report.confinement = sandbox;
        report.link = Some(link.to_owned());
        report.link_flag = Some(link_word(flags.link.into()).to_owned());
        report.state = std::path::absolute(&settings.state).ok();
        report.keep_roots = Some(settings.keep_roots);
        report.count_taken_over = settings.count_taken_over;
        report.keep_blobs = settings.keep_blobs;
        report.min_free = flags.min_free;
        report.spare = None;
        report.health = report.health.take().filter(|_| agent.health.is_some());
    });
    Ok((agent, name))
}

pub(super) fn agent(flags: &Flags, settings: &Settings, store: Store, stop: Stop) -> Result<Agent> {
    let script = Script {
        program: flags.script.clone(),
        arguments: flags.script_arg.clone(),
        env_file: flags.script_env_file.clone(),
        timeout: Some(flags.script_timeout).filter(|timeout| !timeout.is_zero()),
        grace: STOP_GRACE,
        kill_after: KILL_AFTER,
    };
    let confinement = Confinement::to(&flags.dir, flags.confine)?;
    let about = About {
        configuration: flags.name.clone(),
        boot: running_script::boot(),
        version: String::from(env!("CARGO_PKG_VERSION")),
        link: link_word(store.link_mode()).to_owned(),
    };
    Ok(Agent {
        confinement,
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
        // With `-once` the agent makes no spare, because a spare exists only while the agent runs.
        spares: (!flags.no_spare && !flags.once).then(Spares::default),
        throttle: Throttle::new(flags.limit_download),
        health: health(flags),
        reports: Reports::new(about, ReportFile::read(&flags.dir)),
        offers: Offers::default(),
        superseded: watch::Sender::new(()),
        quiet: flags.q,
        stop,
    })
}

/// The health gate that the flags describe; `None` if the flags name no checks.
fn health(flags: &Flags) -> Option<Gate> {
    let flags = &flags.health;
    let goal = Goal {
        successes: flags.health_successes.get(),
        min: flags.health_min,
        deadline: flags.health_deadline,
    };
    let (checks, on_failure) = (flags.health.clone(), flags.on_failure);
    (!checks.is_empty()).then_some(Gate { checks, goal, on_failure })
}

pub(super) fn session(flags: &Flags) -> Session {
    Session::new(Connect {
        addr: flags.addr.clone(),
        user: USER.to_owned(),
        keys: Keys::File(flags.key.clone()),
        host: HostKey::Fingerprint(flags.fp.clone()),
        declared: (!flags.no_watch).then(|| identity::host(flags.host.as_ref())),
        timeout: CONNECT_TIMEOUT,
    })
}

pub(super) fn options(settings: &Settings, limits: Limits) -> Options {
    Options { limits, link: settings.link, max_blob: MAX_BLOB, keep_blobs: settings.keep_blobs }
}

fn not_opened(dir: &Path, err: Error) -> anyhow::Error {
    match err {
        Error::Busy { pid, .. } => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let dir = dir.to_string_lossy();
            anyhow!(
                "cannot acquire exclusive lock on {dir:?}: in use by another process{pid}; stop \
                 that process first"
            )
        }
        other => other.into(),
    }
}
