//! Holds the parts of the fleet that all watches of a registry share.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use deploy_rollout::{Member, shows_target};
use deploy_store::ConfigurationName;
use deploy_wire::fleet::{HostName, Offer};
use jiff::Timestamp;
use tokio::sync::watch;

use super::contact_exchange;
use super::maintenance::Maintenance;
use super::metrics::Metrics;
use super::offer_cache::{OfferCache, Prepared};
use super::open_rollouts::{Changed, OpenRollout, OpenRollouts};
use super::polls::Polls;
use super::presence::{AgentId, Presence};
use super::recent_deploys::RecentDeploys;
use super::report_queue::ReportQueue;
use crate::catalog::Catalog;
use crate::catalog::fleet::{Applied, Sent};
use crate::catalog::rollouts::{RolloutRow, RolloutView};
use crate::error::{Error, Result};

/// The fleet of a registry.
#[derive(Debug)]
pub struct Fleet {
    pub(super) catalog: Catalog,
    pub(super) offers: OfferCache,
    pub(super) reports: ReportQueue,
    /// The connected agents.
    pub presence: Arc<Presence>,
    /// Agents that only poll, and the states that the registry offers to them while their hosts are
    /// held.
    pub polls: Arc<Polls>,
    /// The active rollouts, and the hosts to which the registry offers their targets.
    pub rollouts: OpenRollouts,
    /// A task holds this lock while it reads a rollout and offers the rollout's target to the
    /// members.
    pub showing: tokio::sync::Mutex<()>,
    /// The maintenance windows of groups.
    pub maintenance: Maintenance,
    /// The counters and histograms of the registry.
    pub metrics: Arc<Metrics>,
    /// The last deploys that have ended since this registry started.
    pub deploys: Arc<RecentDeploys>,
    /// When this registry started. The fields `presence` and `polls` have no record of contacts
    /// before this time.
    pub started: Timestamp,
    /// The number of the last change of the fleet that this registry has in memory, see
    /// [`crate::catalog::Position::shown`].
    pub shown: AtomicU64,
    /// A task holds this lock while it reads holds and rollouts that other registries have changed.
    pub catching_up: tokio::sync::Mutex<()>,
    /// Where the next exchange of contacts with other registries begins.
    pub(super) mark: i64,
    written: watch::Sender<u64>,
    stopped: watch::Sender<bool>,
}

impl Fleet {
    /// Opens the fleet of `catalog`. The caller must run inside a tokio runtime, because this
    /// function starts a task.
    pub async fn open(catalog: &Catalog) -> Result<Self> {
        let (written, _) = watch::channel(0);
        let metrics = Arc::new(Metrics::default());
        let deploys = Arc::new(RecentDeploys::default());
        let counted = (Arc::clone(&metrics), Arc::clone(&deploys));
        let reports = ReportQueue::new(catalog.clone(), counted, written.clone());
        // This number comes before the reading of the holds and of the rollouts.
        let shown = AtomicU64::new(catalog.shown_number().await?);
        let (presence, polls) = (Arc::<Presence>::default(), Arc::<Polls>::default());
        let mark = contact_exchange::read_all(catalog, &presence, &polls).await?;
        let fleet = Self {
            catalog: catalog.clone(),
            offers: OfferCache::default(),
            reports,
            presence,
            polls,
            rollouts: OpenRollouts::default(),
            showing: tokio::sync::Mutex::default(),
            maintenance: Maintenance::default(),
            metrics,
            deploys,
            started: Timestamp::now(),
            shown,
            catching_up: tokio::sync::Mutex::default(),
            mark,
            written,
            stopped: watch::Sender::new(false),
        };
        fleet.reload_holds().await?;
        fleet.reload_windows().await?;
        Ok(fleet)
    }

    /// Queues the report that a script sent, and waits until the report is on the disk.
    pub async fn report(&self, sent: Sent) -> Result<()> {
        match self.reports.send(sent).await.await {
            Ok(Applied::New { .. } | Applied::Old) => Ok(()),
            Ok(Applied::Refused(why)) => Err(Error::Conflict(why)),
            Err(_) => Err(Error::Failed("the report was not written; send it again".to_owned())),
        }
    }

    /// The number of reports in the queue. The batch that the queue is writing does not count.
    pub fn reports_waiting(&self) -> usize {
        self.reports.waiting()
    }

    /// A receiver whose value changes whenever a batch of reports was written to the disk, and
    /// whenever an operator changes a host.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// A receiver whose value changes to `true` when the registry stops.
    pub fn stopped(&self) -> watch::Receiver<bool> {
        self.stopped.subscribe()
    }

    /// Tells the tasks of the fleet, such as running `wait` verbs, that the registry stops.
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Offers the target of a rollout to its members. Wakes the watches of the hosts that joined or
    /// left the rollout, because the registry may now offer these hosts another state. If `view`
    /// has no active rollout, the registry offers the current state to all hosts that are not held.
    /// The caller subscribes to `changes` before it reads `view`, so that the caller misses no
    /// change of the configuration in between.
    pub async fn show_rollout(
        &self,
        name: &ConfigurationName,
        view: Option<&RolloutView>,
        changes: Changed,
    ) -> Result<()> {
        let open = match view.filter(|view| !view.row.rollout.status.is_final()) {
            Some(view) => Some(self.open_rollout(view, changes).await?),
            None => None,
        };
        for host in self.rollouts.set(name, open) {
            self.agent_changed(&host, name.as_str());
        }
        Ok(())
    }

    async fn open_rollout(&self, view: &RolloutView, changes: Changed) -> Result<OpenRollout> {
        let RolloutRow { number, target, target_id, revision, .. } = view.row;
        let before = self.rollouts.get(&view.row.configuration);
        let offer = match before.filter(|before| before.number == number) {
            Some(before) => Arc::clone(&before.offer),
            None => {
                let state = self.catalog.state(&view.row.configuration, target).await?;
                let json = state.to_json();
                Arc::new(Prepared::of(Offer::of(revision, target_id, &json)))
            }
        };
        let shown = |(host, member): (&i64, &Member)| {
            let host = view.fleet.hosts.get(host)?;
            let is_shown = shows_target(&view.row.rollout, Some(member));
            is_shown.then(|| (host.name.clone(), host.key.clone()))
        };
        let members = view.members.iter().filter_map(shown).collect();
        Ok(OpenRollout { number, target, offer, members, changes })
    }

    /// Wakes the watches of a host's agents, because an operator changed the host.
    pub async fn host_changed(&self, host: &HostName, names: &[String]) -> Result<()> {
        self.reload_holds().await?;
        for name in names {
            self.agent_changed(host.as_str(), name);
        }
        self.count_written();
        Ok(())
    }

    /// Wakes the tasks that wait for reports and for changes of hosts.
    pub(super) fn count_written(&self) {
        self.written.send_modify(|count| *count += 1);
    }

    /// Wakes the watches of an agent, because an operator changed the agent or its host.
    pub fn agent_changed(&self, host: &str, name: &str) {
        let (Ok(host), Ok(name)) = (host.parse(), name.parse::<ConfigurationName>()) else {
            return;
        };
        self.presence.signal(&AgentId { host, name });
    }

    /// Reads the maintenance windows, at the start and after each change by an operator.
    pub async fn reload_windows(&self) -> Result<()> {
        self.maintenance.set(self.catalog.windows_by_group().await?);
        self.presence.signal_windows();
        Ok(())
    }

    /// Reads the holds, at the start and after each change.
    pub async fn reload_holds(&self) -> Result<()> {
        self.polls.set_held(self.catalog.held_by_key().await?);
        Ok(())
    }
}
