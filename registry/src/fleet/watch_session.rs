//! The watch of one agent: sends offers to the agent, and receives the agent's reports.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use deploy_store::ConfigurationName;
use deploy_wire::fleet::lines::{from_line, to_line};
use deploy_wire::fleet::{HostName, Offer, ToAgent, ToRegistry};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use tokio::sync::watch;

use super::host_view::{HostView, view};
use super::hub::Fleet;
use super::offer_cache::{self, Prepared};
use super::presence::{AgentId, DOUBT, Present};
use super::watch_signals::WatchSignal;
use crate::catalog::fleet::{Applied, Sent};
use crate::catalog::{Announced, Position};
use crate::error::Result;

/// Maximum number of reports of one agent that are not on the disk yet. One more report ends the
/// watch.
const MAX_PENDING: usize = 32;
/// Maximum size of a fleet whose agents all start a deploy without a wait. In a larger fleet, each
/// agent waits for a random time.
const AT_ONCE: u64 = 1000;
/// Agents start deploys, and connect again, at random times within a period. Each further agent
/// lengthens the period by this time.
const SPREAD: Duration = Duration::from_millis(3);
/// The period in which the agents of a small fleet connect again.
const SHORTEST_RECONNECT: Duration = Duration::from_secs(1);
/// The longest time that an agent waits before it starts a deploy or connects again.
const LONGEST_SPREAD: Duration = Duration::from_secs(30);

/// The agent that watches, and the configuration that it watches.
#[derive(Debug, Clone)]
pub struct Watcher {
    /// The fingerprint of the key.
    pub key: String,
    /// The host.
    pub host: HostName,
    /// The configuration.
    pub name: ConfigurationName,
    /// The random id of the agent's directory.
    pub instance: String,
}

/// A line to send to the agent.
#[derive(Debug)]
pub struct Outgoing {
    /// The line.
    pub line: Bytes,
    /// If the line announces a change: when the change was written to the disk.
    pub changed: Option<Instant>,
}

/// The catalogue's data about the host and its agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Host {
    /// The group, or an empty text.
    group: String,
    held: Option<String>,
    retries: u64,
    last_seq: u64,
    /// Why the registry refuses the agent's reports, if it does.
    refused: Option<String>,
}

/// A reason to send a line.
enum Signal {
    /// The watch should end.
    Ended,
    /// The configuration has changed. The value says when the change was written to the disk.
    Changed(Option<Instant>),
    /// An operator changed the host or the agent.
    HostChanged,
    /// A maintenance window may have opened or closed.
    Clock,
    /// The registry has handled the report with this number.
    Answered(u64, Option<Applied>),
}

/// The number of a queued report, and the result of the report; `None` if the registry could not
/// write the report.
type Pending = BoxFuture<'static, (u64, Option<Applied>)>;

/// One agent's watch.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct WatchSession {
    fleet: Arc<Fleet>,
    watcher: Watcher,
    present: Option<Present>,
    changes: watch::Receiver<Announced>,
    host: Host,
    pending: FuturesUnordered<Pending>,
    /// Whether the first line has yet to be sent.
    is_new: bool,
    /// Whether an operator changed the host, so that the session has to read the host from the
    /// catalogue again.
    is_host_due: bool,
    /// Whether an offer has to be sent.
    is_offer_due: bool,
    /// If the next offer announces a change: when the change was written to the disk.
    changed: Option<Instant>,
    /// Whether the windows of the host's group were closed at the last offer.
    was_closed: bool,
    /// The position of the configuration when the watch began. The first offer is not older. `None`
    /// after the first line, or if no other registry can change the catalogue.
    position: Option<Position>,
}

impl std::fmt::Debug for WatchSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchSession").field("watcher", &self.watcher).finish_non_exhaustive()
    }
}

impl WatchSession {
    /// Begins the watch of an agent that has connected from `address`.
    pub async fn begin(fleet: Arc<Fleet>, watcher: Watcher, address: IpAddr) -> Result<Self> {
        let position = fleet.catch_up(&watcher.name).await?;
        let changes = fleet.catalog.changes.subscribe(&watcher.name);
        let commits = fleet.catalog.changes.commits();
        let mut host = look_up(&fleet, &watcher).await?;
        let agent = AgentId { host: watcher.host.clone(), name: watcher.name.clone() };
        let is_own = host.refused.is_none();
        let present =
            is_own.then(|| fleet.presence.enter(agent, &watcher.instance, address.to_canonical()));
        // A change between the look-up and the entry does not wake this watch. So after such a
        // change, the function looks the host up again.
        if fleet.catalog.changes.commits() != commits {
            host = look_up(&fleet, &watcher).await?;
        }
        let present = present.filter(|_| host.refused.is_none());
        if let Some(present) = present.as_ref().filter(|present| present.is_duplicate) {
            let wait = if present.is_same_instance { DOUBT } else { Duration::ZERO };
            tokio::spawn(report_duplicate(Arc::clone(&fleet), watcher.clone(), address, wait));
        }
        let pending = FuturesUnordered::new();
        Ok(Self {
            fleet,
            watcher,
            present,
            changes,
            host,
            pending,
            is_new: true,
            is_host_due: false,
            is_offer_due: false,
            changed: None,
            was_closed: false,
            position,
        })
    }

    /// Waits for the next line to the agent; `None` if the watch should end. The future may be
    /// dropped at any time.
    pub async fn next(&mut self) -> Result<Option<Outgoing>> {
        loop {
            // The session records each signal before it awaits anything. If a future is dropped
            // while the catalogue answers, no change is lost: the next future finds the record.
            if self.is_new {
                let line = self.first().await?;
                (self.is_new, self.position) = (false, None);
                return Ok(Some(Outgoing { line, changed: None }));
            }
            if self.is_host_due {
                self.host = look_up(&self.fleet, &self.watcher).await?;
                (self.is_host_due, self.is_offer_due) = (false, true);
            }
            if self.is_offer_due {
                let line = self.offer().await?;
                self.is_offer_due = false;
                return Ok(Some(Outgoing { line, changed: self.changed.take() }));
            }
            match self.signal().await {
                Signal::Ended => return Ok(None),
                Signal::Changed(at) => (self.is_offer_due, self.changed) = (true, at),
                Signal::HostChanged => self.is_host_due = true,
                Signal::Clock => self.is_offer_due = self.is_closed() != self.was_closed,
                Signal::Answered(seq, applied) => {
                    let Some(line) = answer(seq, applied) else { return Ok(None) };
                    return Ok(Some(Outgoing { line, changed: None }));
                }
            }
        }
    }

    /// Waits for the next reason to send a line.
    async fn signal(&mut self) -> Signal {
        let sent = async {
            match &self.present {
                Some(present) => present.signals.next().await,
                None => std::future::pending().await,
            }
        };
        let until = self.fleet.maintenance.until_change(&self.host.group, Timestamp::now());
        let clock = async {
            match until {
                Some(until) => tokio::time::sleep(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            sent = sent => match sent {
                WatchSignal::Replaced => Signal::Ended,
                WatchSignal::AgentChanged => Signal::HostChanged,
                WatchSignal::WindowsChanged => Signal::Clock,
            },
            changed = self.changes.changed() => match changed {
                Ok(()) => Signal::Changed(self.changes.borrow().at),
                Err(_) => Signal::Ended,
            },
            () = clock => Signal::Clock,
            Some((seq, applied)) = self.pending.next(), if !self.pending.is_empty() => {
                Signal::Answered(seq, applied)
            }
        }
    }

    /// Handles a line from the agent. `Err` says why the watch should end.
    pub async fn take(&mut self, line: &[u8]) -> Result<(), String> {
        let line: ToRegistry = from_line(line).map_err(|err| err.to_string())?;
        let Some(report) = line.report else { return Ok(()) };
        if self.pending.len() >= MAX_PENDING {
            return Err("too many reports without an answer".to_owned());
        }
        let seq = report.seq;
        if let Some(why) = self.host.refused.clone() {
            self.fleet.metrics.reported(&report, &Applied::Refused(why.clone()));
            self.pending.push(Box::pin(async move { (seq, Some(Applied::Refused(why))) }));
            return Ok(());
        }
        let Watcher { key, host, name, instance } = self.watcher.clone();
        let sent = Sent { key, host, name, instance, report: report.within_limits() };
        let result = self.fleet.reports.send(sent).await;
        self.pending.push(Box::pin(async move { (seq, result.await.ok()) }));
        Ok(())
    }

    /// Records the time from a change until its line was written to the agent.
    pub fn sent(&self, outgoing: &Outgoing) {
        if let Some(changed) = outgoing.changed {
            self.fleet.metrics.push_latency.observe(changed.elapsed().as_secs_f64());
        }
    }

    async fn first(&mut self) -> Result<Bytes> {
        let offer = self.offer_alone().await?;
        let line = ToAgent {
            last_seq: Some(self.host.last_seq),
            offer: Some(offer),
            refused: self.host.refused.clone(),
            reconnect_within_ms: Some(reconnect_within(self.fleet.presence.count())),
            ack: None,
        };
        Ok(to_line(&line).into())
    }

    async fn offer(&mut self) -> Result<Bytes> {
        let prepared = self.prepared().await?;
        let is_usual = self.host.held.is_none() && self.host.retries == 0 && !self.is_closed();
        if is_usual {
            self.was_closed = false;
            return Ok(prepared.line(self.start_after_ms()));
        }
        let offer = self.shown(&prepared.offer);
        Ok(to_line(&ToAgent { offer: Some(offer), ..ToAgent::default() }).into())
    }

    async fn offer_alone(&mut self) -> Result<Offer> {
        let prepared = self.prepared().await?;
        Ok(self.shown(&prepared.offer))
    }

    /// What the registry offers to the host: the target of a rollout, or the current state.
    async fn prepared(&mut self) -> Result<Arc<Prepared>> {
        let count = self.changes.borrow_and_update().count;
        let Watcher { key, host, name, .. } = &self.watcher;
        self.fleet.settle_rollout(name).await?;
        let rollout = self.fleet.rollouts.shown_to(name, host.as_str(), key);
        match (view(self.host.held.is_some(), rollout.is_some()), rollout) {
            (HostView::Target, Some(rollout)) => Ok(Arc::clone(&rollout.offer)),
            // The offer to a held host has no document.
            _ => {
                let kept = self.fleet.offers.get(&self.fleet.catalog, name, count).await?;
                let revision = kept.offer.revision;
                let is_current =
                    |position: Position| position.revision.unwrap_or_default() == revision;
                if self.position.is_none_or(is_current) {
                    return Ok(kept);
                }
                // The notice of another registry is still on its way.
                let read = offer_cache::read(&self.fleet.catalog, name);
                Ok(Arc::new(Box::pin(read).await?))
            }
        }
    }

    /// `offer` as this agent gets it: without a document if the host is held, and with the hold,
    /// the retries, the closed windows and the waiting time of this agent.
    fn shown(&mut self, offer: &Offer) -> Offer {
        self.was_closed = self.is_closed();
        Offer {
            document: offer.document.clone().filter(|_| self.host.held.is_none()),
            held: self.host.held.clone(),
            retries: self.host.retries,
            staged_only: self.was_closed,
            start_after_ms: self.start_after_ms(),
            ..offer.clone()
        }
    }

    /// How long this agent has to wait before it starts, in milliseconds.
    fn start_after_ms(&self) -> u64 {
        let agents = u64::try_from(self.fleet.presence.count()).unwrap_or(u64::MAX);
        start_after(agents, random_fraction())
    }

    /// Whether the maintenance windows of the host's group are closed.
    fn is_closed(&self) -> bool {
        self.fleet.maintenance.is_closed(&self.host.group, Timestamp::now())
    }
}

/// The line that acknowledges or refuses a report. `None` if the registry could not write the
/// report: then the watch ends, so that the agent sends the report again.
fn answer(seq: u64, applied: Option<Applied>) -> Option<Bytes> {
    let refused = match applied? {
        Applied::New { .. } | Applied::Old => None,
        Applied::Refused(why) => Some(why),
    };
    Some(to_line(&ToAgent { ack: Some(seq), refused, ..ToAgent::default() }).into())
}

/// Waits for the time `wait`. If several agents are still connected under one name after this time,
/// logs and records the duplicate.
async fn report_duplicate(fleet: Arc<Fleet>, watcher: Watcher, address: IpAddr, wait: Duration) {
    tokio::time::sleep(wait).await;
    let agent = AgentId { host: watcher.host.clone(), name: watcher.name.clone() };
    if !fleet.presence.is_duplicate(&agent) {
        return;
    }
    let (host, name) = (watcher.host.as_str(), watcher.name.as_str());
    tracing::warn!(event = "host_duplicate", host, name, %address, "two agents report as {host}");
    if let Err(err) = fleet.catalog.add_duplicate(host, name, &address.to_string()).await {
        tracing::warn!(event = "host_duplicate", host, "cannot record the event: {err}");
    }
}

async fn look_up(fleet: &Fleet, watcher: &Watcher) -> Result<Host> {
    let Watcher { key, host, name, .. } = watcher;
    Ok(match fleet.catalog.known_agent(key, host, name).await? {
        Err(why) => Host { refused: Some(why), ..Host::default() },
        Ok(None) => Host::default(),
        Ok(Some((host, agent))) => Host {
            group: host.group().to_owned(),
            held: host.hold.map(|hold| hold.message),
            retries: agent.as_ref().map_or(0, |agent| agent.retries),
            last_seq: agent.as_ref().map_or(0, |agent| agent.report.seq),
            refused: None,
        },
    })
}

/// How long an agent in a fleet of `agents` agents waits before it starts a deploy, in
/// milliseconds.
fn start_after(agents: u64, fraction: f64) -> u64 {
    let spread =
        SPREAD.saturating_mul(u32::try_from(agents.saturating_sub(AT_ONCE)).unwrap_or(u32::MAX));
    let wait = spread.min(LONGEST_SPREAD).mul_f64(fraction);
    u64::try_from(wait.as_millis()).unwrap_or(0)
}

/// The period, in milliseconds, in which a fleet of `agents` agents connects again after the
/// connections are lost. The period gives a restarted registry the time to authenticate all agents.
fn reconnect_within(agents: usize) -> u64 {
    let spread = SPREAD.saturating_mul(u32::try_from(agents).unwrap_or(u32::MAX));
    let within = spread.clamp(SHORTEST_RECONNECT, LONGEST_SPREAD);
    u64::try_from(within.as_millis()).unwrap_or(0)
}

/// A random number from 0 to 1. The standard library's hash keys are random enough to spread load.
fn random_fraction() -> f64 {
    use std::hash::{BuildHasher as _, Hasher as _, RandomState};
    let bits = RandomState::new().build_hasher().finish();
    f64::from(u32::try_from(bits >> 32).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_large_fleets_are_spread() {
        assert_eq!(start_after(1000, 1.0), 0);
        assert_eq!(start_after(2000, 1.0), 3000);
        assert_eq!(start_after(2000, 0.0), 0);
        assert_eq!(start_after(u64::MAX, 1.0), 30_000);
        assert_eq!((reconnect_within(1), reconnect_within(5000)), (1000, 15_000));
        assert_eq!(reconnect_within(usize::MAX), 30_000);
    }
}
