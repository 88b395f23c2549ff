//! Tests the rule of `wait` with random schedules of changes, reports and commands of operators.
//! The rule: `wait` never succeeds while a host that counts has not deployed the state.
//!
//! `DEPLOY_TEST_STEPS` sets the number of schedules, and `DEPLOY_TEST_SEED` sets the first seed.

#![allow(clippy::print_stdout, reason = "the test prints the seed")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use deploy_registry::catalog::fleet::{Applied, Sent};
use deploy_registry::registry::Settings;
use deploy_registry::verbs::wait_for::Ending;
use deploy_store::{Digest, Meter};
use deploy_wire::command::{Share, Wait};
use deploy_wire::fleet::{HostName, Phase, Report};
use jiff::Timestamp;

use crate::bench::{Bench, change};

/// Number of steps of one schedule.
const STEPS: usize = 60;
const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];
const HOSTS: [&str; 4] = ["a", "b", "c", "d"];

/// A generator of random numbers (xorshift64*).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap() % sides
    }
}

/// An agent: its true state, and its reports that are on their way to the registry.
#[derive(Default)]
struct Agent {
    seq: u64,
    attempt: u64,
    /// The last offer that has reached the agent.
    offer: Option<(u64, Digest)>,
    /// The offer that the agent deploys at this moment.
    busy: Option<(u64, Digest)>,
    runs: Option<Digest>,
    /// The last offer that the agent has deployed successfully. `None` if a later deploy has begun.
    healthy: Option<(u64, Digest)>,
    /// Reports that the registry has not acknowledged. The network may repeat these reports.
    waiting: VecDeque<Report>,
    /// Whether the registry has a report of the agent. The host counts only after its first report.
    is_known: bool,
    is_held: bool,
}

impl Agent {
    fn report(&mut self, phase: Phase, (revision, id): (u64, Digest)) {
        self.seq += 1;
        let (seq, attempt, runs) = (self.seq, self.attempt, self.runs);
        let wants = Some(id);
        let report = Report { seq, revision, attempt, phase, runs, wants, ..Report::default() };
        self.waiting.push_back(report);
    }

    /// Does the next step of the agent's work.
    fn work(&mut self, fails: bool) {
        match (self.busy, self.offer) {
            (Some(offer), _) => {
                self.busy = None;
                if fails {
                    self.healthy = None;
                    self.report(Phase::Failed, offer);
                } else {
                    self.runs = Some(offer.1);
                    self.healthy = Some(offer);
                    self.report(Phase::Healthy, offer);
                }
            }
            (None, Some(offer)) if self.runs == Some(offer.1) && self.healthy.is_some() => {
                // If the offered state already runs, the agent only confirms the new revision.
                if self.healthy != Some(offer) {
                    self.healthy = Some(offer);
                    self.report(Phase::Healthy, offer);
                }
            }
            (None, Some(offer)) => {
                self.attempt += 1;
                self.busy = Some(offer);
                self.healthy = None;
                self.report(Phase::Script, offer);
            }
            (None, None) => {}
        }
    }

    /// Whether the agent has deployed the state of this revision, and has begun no other deploy
    /// since.
    fn has_deployed(&self, revision: u64, id: Digest) -> bool {
        self.busy.is_none()
            && self.runs == Some(id)
            && self.healthy.is_some_and(|(when, what)| when >= revision && what == id)
    }
}

struct World {
    bench: Bench,
    agents: BTreeMap<&'static str, Agent>,
    dice: Dice,
    /// How often `wait` has succeeded while at least one host counted.
    converged: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let bench = Bench::new(Settings::default()).await;
        for version in VERSIONS {
            bench.put("code", version, version).await;
        }
        bench.configure("web", &[("code", "v1")]).await.unwrap();
        // Small seeds differ in few bits, so the multiplication spreads these bits.
        let dice = Dice(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self { bench, agents: BTreeMap::new(), dice, converged: 0 }
    }

    async fn step(&mut self) {
        let host = HOSTS[self.dice.throw(HOSTS.len())];
        match self.dice.throw(48) {
            0 => {
                let version = VERSIONS[self.dice.throw(VERSIONS.len())];
                self.bench.configure("web", &[("code", version)]).await.unwrap();
            }
            1 => self.bench.reopen().await,
            2 => self.hold(host).await,
            3 => self.retire(host).await,
            4..=14 => {
                let current = self.current().await;
                self.agents.entry(host).or_default().offer = Some(current);
            }
            15..=28 => {
                let fails = self.dice.throw(5) == 0;
                if let Some(agent) = self.agents.get_mut(host) {
                    agent.work(fails);
                }
            }
            29 => self.repeat_an_old_report(host).await,
            _ => self.deliver(host).await,
        }
    }

    async fn current(&self) -> (u64, Digest) {
        let name = "web".parse().unwrap();
        let (_, revision, id) =
            self.bench.registry().catalog.current_state(&name).await.unwrap().unwrap();
        (revision, id)
    }

    async fn apply(&self, host: &str, report: Report) -> Applied {
        let sent = Sent {
            key: "SHA256:abc".to_owned(),
            host: host.parse().unwrap(),
            name: "web".parse().unwrap(),
            instance: host.to_owned(),
            report,
        };
        let applied = self.bench.registry().catalog.apply_reports(&[sent], Timestamp::now()).await;
        applied.unwrap().remove(0)
    }

    /// Delivers the agent's oldest report. The acknowledgement may get lost.
    async fn deliver(&mut self, host: &str) {
        let Some(agent) = self.agents.get(host) else { return };
        let Some(report) = agent.waiting.front().cloned() else { return };
        self.apply(host, report).await;
        let is_acknowledged = self.dice.throw(4) > 0;
        let agent = self.agents.get_mut(host).unwrap();
        agent.is_known = true;
        if is_acknowledged {
            agent.waiting.pop_front();
        }
    }

    async fn repeat_an_old_report(&mut self, host: &str) {
        let Some(agent) = self.agents.get(host).filter(|agent| agent.is_known) else { return };
        let seq = agent.waiting.front().map_or(agent.seq, |first| first.seq - 1);
        let Some((revision, id)) = agent.offer.filter(|_| seq > 0) else { return };
        let (phase, runs, wants) = (Phase::Healthy, Some(id), Some(id));
        let old = Report { seq, revision, phase, runs, wants, ..Report::default() };
        assert_eq!(
            self.apply(host, old).await,
            Applied::Old,
            "an old report changes the state of a host"
        );
    }

    async fn hold(&mut self, host: &str) {
        let Some(agent) = self.agents.get_mut(host).filter(|agent| agent.is_known) else { return };
        agent.is_held = !agent.is_held;
        let (name, is_held): (HostName, bool) = (host.parse().unwrap(), agent.is_held);
        let catalog = &self.bench.registry().catalog;
        if is_held {
            catalog.hold_host(&name, "new disk", &change()).await.unwrap();
        } else {
            catalog.release_host(&name, &change()).await.unwrap();
        }
    }

    async fn retire(&mut self, host: &'static str) {
        if !self.agents.get(host).is_some_and(|agent| agent.is_known) || self.dice.throw(3) > 0 {
            return;
        }
        let catalog = &self.bench.registry().catalog;
        catalog.retire_host(&host.parse().unwrap(), &change()).await.unwrap();
        // The next report makes a new host of the same name.
        let agent = self.agents.get_mut(host).unwrap();
        (agent.is_known, agent.is_held) = (false, false);
    }

    async fn check(&mut self) {
        let wait = Wait {
            name: "web".parse().unwrap(),
            state: None,
            id: None,
            timeout: Duration::ZERO,
            min: Share::ALL,
            group: None,
            json: false,
            quiet: false,
        };
        let waited = self.bench.registry().wait_for(&wait, &Meter::default()).await.unwrap();
        let counted: Vec<_> =
            self.agents.iter().filter(|(_, agent)| agent.is_known && !agent.is_held).collect();
        assert_eq!(waited.tally.hosts, counted.len() as u64);
        if waited.ending != Ending::Converged {
            return;
        }
        self.converged += u64::from(!counted.is_empty());
        for (host, agent) in counted {
            assert!(
                agent.has_deployed(waited.revision, waited.id),
                "wait wrongly says that host {host} has deployed revision {}",
                waited.revision
            );
        }
    }
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test]
async fn wait_succeeds_only_if_every_host_that_counts_has_confirmed() {
    let schedules = environment("DEPLOY_TEST_STEPS").unwrap_or(40);
    let first = environment("DEPLOY_TEST_SEED")
        .unwrap_or_else(|| u64::try_from(Timestamp::now().as_millisecond()).unwrap());
    println!("DEPLOY_TEST_SEED={first}, {schedules} schedules of {STEPS} steps");
    let mut converged = 0;
    for seed in first..first + schedules {
        println!("seed {seed}");
        let mut world = World::new(seed).await;
        for _ in 0..STEPS {
            world.step().await;
            world.check().await;
        }
        converged += world.converged;
    }
    println!("wait succeeded {converged} times while at least one host counted");
    assert!(converged > schedules / 4, "wait succeeds too rarely for this test");
}
