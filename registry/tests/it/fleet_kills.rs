//! Kills the registry and agents while they exchange reports. No result is lost, no result counts
//! twice, and `wait` never says that a state is deployed before every host has confirmed it.
//!
//! `DEPLOY_TEST_STEPS` sets the number of changes. After every second change, the test kills the
//! registry. `DEPLOY_TEST_SEED` sets the seed.

use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use deploy_store::Digest;
use deploy_wire::client::{Client, ClientError, Connect, HostKey, Keys};
use deploy_wire::command::ServiceCommand;
use deploy_wire::fleet::lines::{from_line, to_line};
use deploy_wire::fleet::{Offer, Phase, Reason, Report, ToAgent, ToRegistry};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::rig::{Rig, wait_until};

const AGENTS: usize = 6;
/// Number of deploys that the registry keeps for each agent.
const KEPT: usize = 20;

/// A generator of random numbers (xorshift64*).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// The data that an agent has on its disk, and a record of its deploys for the test. The value
/// survives kills of the agent.
#[derive(Default)]
struct Disk {
    seq: u64,
    attempt: u64,
    waiting: VecDeque<Report>,
    /// The messages of all finished deploys, in order.
    results: Vec<String>,
    /// The last revision and id that were confirmed as healthy.
    confirmed: Option<(u64, Digest)>,
    last: Option<(u64, Digest)>,
}

impl Disk {
    fn add(&mut self, report: Report) {
        self.seq += 1;
        self.waiting.push_back(Report { seq: self.seq, attempt: self.attempt, ..report });
    }

    /// Deploys an offer. The deploy fails if `fails` is set.
    fn deploy(&mut self, host: usize, offer: &Offer, fails: bool) {
        let Some(id) = offer.id.filter(|id| self.last != Some((offer.revision, *id))) else {
            return;
        };
        self.last = Some((offer.revision, id));
        self.attempt += 1;
        let base = Report { revision: offer.revision, wants: Some(id), ..Report::default() };
        self.add(Report { phase: Phase::Script, ..base.clone() });
        let message = format!("host {host}, deploy {}", self.attempt);
        self.results.push(message.clone());
        let end = if fails {
            Report { phase: Phase::Failed, reason: Some(Reason::Script), message, ..base }
        } else {
            self.confirmed = Some((offer.revision, id));
            Report { phase: Phase::Healthy, runs: Some(id), message, ..base }
        };
        self.add(end);
    }
}

struct Fleet {
    port: u16,
    key: PathBuf,
    fingerprint: String,
    disks: Vec<Mutex<Disk>>,
}

impl Fleet {
    /// One life of an agent, which ends when the agent or the registry is killed.
    async fn live(&self, number: usize, dice: &mut Dice) -> Result<(), ClientError> {
        let connect = Connect {
            addr: format!("127.0.0.1:{}", self.port),
            user: "deploy-agent".to_owned(),
            keys: Keys::File(self.key.clone()),
            host: HostKey::Fingerprint(self.fingerprint.clone()),
            declared: None,
            timeout: Duration::from_secs(10),
        };
        let client = Client::connect(&connect).await?;
        let command = ServiceCommand::Watch {
            name: "web".parse().unwrap(),
            host: format!("web-{number}").parse().unwrap(),
            instance: format!("a{number}"),
        };
        let mut channel = client.watch(&command.to_line()).await?;
        loop {
            let line = channel.next_line().await?;
            let message: ToAgent = from_line(&line).unwrap();
            let reports = self.taken(number, &message, dice.throw(4) == 0);
            for report in reports {
                channel.send(to_line(&ToRegistry { report: Some(report) })).await?;
                // Sometimes, the agent is killed before it has received an answer.
                if dice.throw(15) == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// Handles a line from the registry. Returns the reports to send.
    fn taken(&self, number: usize, message: &ToAgent, fails: bool) -> Vec<Report> {
        let mut disk = self.disks[number].lock().unwrap();
        if let Some(last) = message.last_seq {
            assert!(last <= disk.seq, "the registry has a report that was never sent");
            disk.waiting.retain(|report| report.seq > last);
        }
        if let Some(ack) = message.ack {
            assert_eq!(message.refused, None);
            disk.waiting.retain(|report| report.seq > ack);
        }
        let first = disk.seq;
        if let Some(offer) = &message.offer {
            disk.deploy(number, offer, fails);
        }
        let is_new = |report: &&Report| message.last_seq.is_some() || report.seq > first;
        disk.waiting.iter().filter(is_new).cloned().collect()
    }

    fn is_settled(&self) -> bool {
        self.disks.iter().all(|disk| disk.lock().unwrap().waiting.is_empty())
    }

    /// Whether every agent has confirmed `id` at the revision `revision` or at a later revision.
    fn has_confirmed(&self, revision: u64, id: Digest) -> bool {
        self.disks.iter().all(|disk| {
            let confirmed = disk.lock().unwrap().confirmed;
            confirmed.is_some_and(|(when, what)| when >= revision && what == id)
        })
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Fails if `wait` says that the state is deployed although a host has not confirmed the state.
fn check_wait(rig: &Rig, fleet: &Fleet) {
    let output = rig.ssh("op", "me", &["wait -name web -timeout 300ms -json"]);
    if output.status.code() != Some(0) {
        return;
    }
    let waited: Value = serde_json::from_slice(&output.stdout).unwrap();
    let id = waited["hash"].as_str().unwrap().parse().unwrap();
    let revision = waited["revision"].as_u64().unwrap();
    // The registry does not know an agent before the agent's first report.
    if waited["hosts"] == AGENTS as u64 {
        assert!(
            fleet.has_confirmed(revision, id),
            "wait says {waited}, but a host has not confirmed this state"
        );
    }
}

#[test]
fn no_result_is_lost_or_counted_twice() {
    let kills = environment("DEPLOY_TEST_STEPS").unwrap_or(25);
    let seed = environment("DEPLOY_TEST_SEED").unwrap_or(20_261_129);
    let mut rig = Rig::idle();
    let port = free_port();
    rig.flags = vec!["-addr".to_owned(), format!("127.0.0.1:{port}")];
    rig.run();
    for version in ["v1", "v2", "v3"] {
        let digest = rig.archive(version, version.as_bytes());
        rig.put(version);
        rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
    }
    rig.ok("addconf -name web -layer code:v1");
    let log = rig.log();
    let fingerprint = log.iter().find_map(|line| line.split("fingerprint: ").nth(1)).unwrap();
    let fleet = Arc::new(Fleet {
        port,
        key: rig.path("srv"),
        fingerprint: fingerprint.trim().to_owned(),
        disks: (0..AGENTS).map(|_| Mutex::default()).collect(),
    });
    let threads = tokio::runtime::Runtime::new().unwrap();
    for number in 0..AGENTS {
        let (fleet, mut dice) = (Arc::clone(&fleet), Dice(seed + 1 + number as u64));
        threads.spawn(async move {
            loop {
                let life = Duration::from_millis(200 + dice.throw(2000));
                // An error means that the registry was killed. After the time `life`, the timeout
                // kills the agent.
                let _ = timeout(life, fleet.live(number, &mut dice.clone())).await;
                dice.throw(2);
                sleep(Duration::from_millis(dice.throw(50))).await;
            }
        });
    }
    let mut dice = Dice(seed);
    for kill in 0..kills {
        let version = ["v1", "v2", "v3"][usize::try_from(dice.throw(3)).unwrap()];
        rig.ok(&format!("changeconf -name web -component code -version {version}"));
        std::thread::sleep(Duration::from_millis(dice.throw(300)));
        check_wait(&rig, &fleet);
        if kill % 2 == 0 {
            rig.stop("-KILL");
            rig.run();
        }
    }
    wait_until("every report is acknowledged", || fleet.is_settled());
    std::thread::sleep(Duration::from_millis(300));
    for number in 0..AGENTS {
        compare(&rig, &fleet, number);
    }
}

/// Compares the results that the registry has for an agent with the agent's own record.
fn compare(rig: &Rig, fleet: &Fleet, number: usize) {
    wait_until("the agent has no report under way", || {
        fleet.disks[number].lock().unwrap().waiting.is_empty()
    });
    let why: Value =
        serde_json::from_str(&rig.ok(&format!("why -host web-{number} -json"))).unwrap();
    let attempts = why["configurations"][0]["attempts"].as_array().unwrap();
    let kept: Vec<String> =
        attempts.iter().rev().map(|one| one["message"].as_str().unwrap().to_owned()).collect();
    let results = fleet.disks[number].lock().unwrap().results.clone();
    let last = results.len().saturating_sub(KEPT);
    assert_eq!(kept, results[last..], "agent {number}");
    let highest = attempts.iter().filter_map(|one| one["number"].as_u64()).max().unwrap_or(0);
    assert_eq!(
        highest,
        results.len() as u64,
        "agent {number}: the registry counts too few or too many deploys"
    );
}
