//! Runs one simulated agent. The agent watches a configuration, records when an offer arrives, and
//! reports the offer as deployed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use deploy_benches::measured_registry::Registry;
use deploy_wire::client::{Client, ClientError};
use deploy_wire::command::ServiceCommand;
use deploy_wire::fleet::lines::{from_line, to_line};
use deploy_wire::fleet::{Offer, Phase, Report, ToAgent, ToRegistry};
use tokio::sync::Semaphore;

/// The duration of the simulated deploy. A real agent also waits this long before it reports a
/// step.
const DEPLOY: Duration = Duration::from_millis(100);
/// The pause after a refused connection.
const PAUSE: Duration = Duration::from_millis(500);

/// The name of an agent's host.
pub fn name(number: usize) -> String {
    format!("web-{number:05}")
}

/// The measurements of all agents.
#[derive(Debug, Default)]
pub struct Fleet {
    connected: AtomicUsize,
    acknowledged: AtomicUsize,
    /// The start of the change under measurement, and the times until the change's offer reached
    /// each agent.
    expected: Mutex<(Option<Instant>, Vec<Duration>)>,
}

impl Fleet {
    /// Starts to measure a change that begins at `now`.
    pub fn expect(&self, now: Instant) {
        *self.expected.lock().unwrap() = (Some(now), Vec::new());
        self.acknowledged.store(0, Ordering::SeqCst);
    }

    /// The number of agents that have received the offer.
    pub fn arrived(&self) -> usize {
        self.expected.lock().unwrap().1.len()
    }

    /// Ends the measurement. Returns the times until the offer reached each agent.
    pub fn take_times(&self) -> Vec<Duration> {
        let mut expected = self.expected.lock().unwrap();
        expected.0 = None;
        std::mem::take(&mut expected.1)
    }

    /// The number of reports that the registry has acknowledged since the change began.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// The number of connected agents.
    pub fn connected(&self) -> usize {
        self.connected.load(Ordering::SeqCst)
    }

    fn offered(&self) {
        let now = Instant::now();
        let mut expected = self.expected.lock().unwrap();
        if let Some(began) = expected.0 {
            expected.1.push(now.duration_since(began));
        }
    }
}

/// Counts an agent as connected until this value is dropped.
struct Connected(Arc<Fleet>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connected.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Runs agent number `number` until the program ends.
pub async fn run(registry: Registry, number: usize, fleet: Arc<Fleet>, logins: Arc<Semaphore>) {
    let (mut seq, mut within) = (0, None);
    loop {
        // The loop ignores the result, because it begins the next watch in every case.
        let _ = watch(&registry, number, &fleet, &logins, (&mut seq, &mut within)).await;
        let fraction = f64::from(u32::try_from(number % 1000).unwrap_or(0)) / 1000.0;
        let wait = within.map_or(PAUSE, |within| within.mul_f64(fraction));
        tokio::time::sleep(wait).await;
    }
}

async fn watch(
    registry: &Registry,
    number: usize,
    fleet: &Arc<Fleet>,
    logins: &Semaphore,
    (seq, within): (&mut u64, &mut Option<Duration>),
) -> Result<(), ClientError> {
    let client = connect(registry, logins).await;
    let command = ServiceCommand::Watch {
        name: "fleet".parse().expect("a name"),
        host: name(number).parse().expect("a name"),
        instance: format!("{number:032x}"),
    };
    let mut channel = client.watch(&command.to_line()).await?;
    fleet.connected.fetch_add(1, Ordering::SeqCst);
    let _connected = Connected(Arc::clone(fleet));
    let mut deploying: Option<(Instant, Offer)> = None;
    loop {
        let due = deploying.as_ref().map(|(due, _)| *due);
        let line = tokio::select! {
            line = channel.next_line() => line?,
            () = wait_until(due) => {
                if let Some((_, offer)) = deploying.take() {
                    *seq += 1;
                    let report = Some(healthy(&offer, *seq));
                    channel.send(to_line(&ToRegistry { report })).await?;
                }
                continue;
            }
        };
        let Ok(message) = from_line::<ToAgent>(&line) else { return Ok(()) };
        if let Some(last) = message.last_seq {
            *seq = (*seq).max(last);
        }
        *within = message.reconnect_within_ms.map(Duration::from_millis).or(*within);
        if message.ack.is_some() {
            fleet.acknowledged.fetch_add(1, Ordering::SeqCst);
        }
        let Some(offer) = message.offer else {
            if message.ack.is_none() {
                channel.send(b"\n".to_vec()).await?;
            }
            continue;
        };
        fleet.offered();
        // `start_after_ms` is the delay by which the registry spreads the deploys of a large fleet.
        let wait = Duration::from_millis(offer.start_after_ms) + DEPLOY;
        deploying = Some((Instant::now() + wait, offer));
    }
}

/// Waits until `due`, or forever if `due` is `None`.
async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

async fn connect(registry: &Registry, logins: &Semaphore) -> Client {
    loop {
        let permit = logins.acquire().await.expect("the semaphore stays open");
        if let Ok(client) = registry.connect("deploy-agent").await {
            return client;
        }
        drop(permit);
        tokio::time::sleep(PAUSE).await;
    }
}

fn healthy(offer: &Offer, seq: u64) -> Report {
    Report {
        seq,
        revision: offer.revision,
        attempt: seq,
        phase: Phase::Healthy,
        runs: offer.id,
        wants: offer.id,
        ..Report::default()
    }
}
