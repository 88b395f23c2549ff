//! Connects an agent to the fleet of a registry while the agent tracks a configuration: prepares
//! the watch and the reports, and makes the first report after the agent's start.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Result;
use deploy_store::disk::Dir;
use deploy_store::{Configuration, ConfigurationName};
use deploy_wire::fleet::MAX_OUTPUT;

use crate::agent::Agent;
use crate::cycle::switch::SCRIPT_LOG;
use crate::fetch::registry_session::Session;
use crate::flags::Flags;
use crate::fleet::derived_state::{Records, derived};
use crate::fleet::identity::Identity;
use crate::fleet::report_keeper::Keeper;
use crate::fleet::watch_task::{self, Watch};
use crate::records::rollback_hold::RollbackHold;
use crate::records::unproven::Unproven;
use crate::records::{state_file, unsettled};

/// Maximum time for which an agent with `-once` tries to deliver its reports.
const DELIVERY: Duration = Duration::from_secs(5);

/// The agent's connection to the fleet: the watch, and the keeper of the reports.
#[derive(Debug)]
pub(super) struct FleetLink {
    /// The watch; `None` with `-no-watch`.
    watch: Option<Watch>,
    keeper: Keeper,
}

impl FleetLink {
    /// Prepares the connection, and reports the state that follows from the agent's records.
    pub(super) fn new(
        flags: &Flags,
        agent: &Agent,
        name: &ConfigurationName,
        session: &Session,
    ) -> Result<Self> {
        let identity = Identity::of(flags.host.as_ref(), &agent.dir)?;
        agent.reports.resume(derived(&records(agent)));
        agent.report.update(|report| {
            report.host = Some(identity.host.to_string());
            (report.watching, report.reports_refused) = (false, None);
        });
        let watch = Watch {
            session: session.clone(),
            line: identity.watch_line(name),
            offers: agent.offers.clone(),
            reports: agent.reports.clone(),
            superseded: agent.superseded.clone(),
            status: agent.report.clone(),
        };
        let keeper = Keeper {
            dir: agent.dir.clone(),
            state: agent.state.clone(),
            metrics_file: flags.metrics_file.clone(),
            status: agent.report.clone(),
            reports: agent.reports.clone(),
            offers: agent.offers.clone(),
        };
        let watch = (!flags.no_watch).then_some(watch);
        Ok(Self { watch, keeper })
    }

    /// Starts the watch, and the task that writes the reports to the disk. The watch and the task
    /// run until the agent ends.
    pub(super) fn start(self) -> Keeper {
        let Self { watch, keeper } = self;
        match watch {
            Some(watch) => drop(tokio::spawn(watch.run())),
            None => keeper.offers.clear(),
        }
        tokio::spawn(keeper.clone().run());
        keeper
    }

    /// Delivers the reports of an agent that ran one cycle, if the registry is `reachable`.
    /// Undelivered reports stay on the disk, and a later agent delivers them.
    pub(super) async fn deliver(self, reachable: bool) {
        if let Some(mut watch) = self.watch.filter(|_| reachable) {
            let done = tokio::time::timeout(DELIVERY, watch_task::deliver(&mut watch)).await;
            let why = match done {
                Ok(Ok(())) => None,
                Ok(Err(err)) => Some(err.to_string()),
                Err(_) => Some(format!("no acknowledgement for {} seconds", DELIVERY.as_secs())),
            };
            if let Some(why) = why {
                tracing::debug!("the reports are not delivered: {why}");
            }
        }
        self.keeper.finish().await;
    }
}

/// Reads the agent's records. A state file or a hold that cannot be read counts as missing here,
/// and the cycle reports the error.
fn records(agent: &Agent) -> Records {
    Records {
        deployed: state_file::peek(&agent.state).ok().flatten().as_ref().map(Configuration::id),
        left: unsettled::read(&agent.dir),
        hold: RollbackHold::read(&agent.dir).ok().flatten(),
        unproven: Unproven::read(&agent.dir).filter(|_| agent.health.is_some()),
        output: script_log(agent).unwrap_or_default(),
    }
}

fn script_log(agent: &Agent) -> Option<String> {
    let file = Dir::open(&agent.dir).ok()?.open_file(SCRIPT_LOG).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
