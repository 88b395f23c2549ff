//! Makes the background load while verbs are measured: polls, `gc` in a loop, and one change each
//! second.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deploy_benches::measured_registry::Registry;
use deploy_wire::client::Client;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::interval;

use crate::Seen;
use crate::verb_steps::{CONFIGURATIONS, DELETED, Verb, configuration};

const AGENTS: usize = 20;
const POLLS_A_SECOND: u32 = 200;
const LARGEST: usize = 1 << 20;
/// The maximum number of unanswered polls on one connection. The registry allows up to 64 open
/// files on a connection.
const UNDER_WAY: usize = 32;

/// Agents that stay connected.
pub struct Agents(Vec<Arc<Agent>>);

struct Agent {
    registry: Registry,
    client: Mutex<Arc<Client>>,
    under_way: Semaphore,
}

impl Agent {
    /// The connection of the agent. If the connection is lost, the method connects again.
    async fn client(&self) -> Result<Arc<Client>, String> {
        let mut client = self.client.lock().await;
        if !client.is_alive() {
            let connected = self.registry.connect("deploy-agent").await;
            *client = Arc::new(connected.map_err(|err| err.to_string())?);
        }
        Ok(Arc::clone(&client))
    }

    async fn poll(&self, path: &str) -> Result<(), String> {
        let _place = self.under_way.acquire().await.expect("the semaphore stays open");
        match self.client().await?.read_small(path, LARGEST).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(format!("{path}: no configuration")),
            // The error text already includes the path.
            Err(err) => Err(err.to_string()),
        }
    }
}

impl Agents {
    /// Connects all agents.
    pub async fn connect(registry: &Registry) -> Self {
        let mut agents = Vec::new();
        for _ in 0..AGENTS {
            let client =
                registry.connect("deploy-agent").await.expect("the registry accepts agents");
            let (registry, client) = (registry.clone(), Mutex::new(Arc::new(client)));
            let under_way = Semaphore::new(UNDER_WAY);
            agents.push(Arc::new(Agent { registry, client, under_way }));
        }
        Self(agents)
    }

    /// Polls random configurations until `stop` returns `true`. Each poll uses the next connection
    /// in turn.
    pub async fn poll(&self, seen: &Arc<Seen>, stop: impl Fn() -> bool) {
        let mut timer = interval(Duration::from_secs(1) / POLLS_A_SECOND);
        let (mut asking, random) = (JoinSet::new(), RandomState::new());
        for (count, agent) in self.0.iter().cycle().enumerate() {
            let due = timer.tick().await;
            if stop() {
                break;
            }
            let polled = u64::from(CONFIGURATIONS - DELETED.end);
            let number = u32::try_from(random.hash_one(count) % polled).expect("a small number");
            let path = format!("configs/{}.json", configuration(DELETED.end + number));
            let (agent, seen) = (Arc::clone(agent), Arc::clone(seen));
            asking.spawn(async move {
                let result = agent.poll(&path).await;
                // The measured time begins when the poll was due, so that a late start counts, too.
                seen.note(due.elapsed(), result);
            });
            while asking.try_join_next().is_some() {}
        }
        asking.join_all().await;
    }
}

/// Background work that continues until it is stopped.
pub struct Background {
    stopping: Arc<AtomicBool>,
    tasks: Vec<(&'static str, Arc<Seen>, JoinHandle<()>)>,
}

impl Background {
    /// Starts the background work.
    pub async fn start(registry: &Registry, agents: Agents) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        let (seen, stop) = (Arc::new(Seen::default()), Arc::clone(&stopping));
        let polls = Arc::clone(&seen);
        let polling = async move { agents.poll(&polls, || stop.load(Ordering::Relaxed)).await };
        tasks.push(("polls", seen, tokio::spawn(polling)));
        for (name, verb, every) in [
            ("gc, in a loop", Verb::CollectMeanwhile, Duration::from_millis(1)),
            ("changeconf, one a second", Verb::ChangeMeanwhile, Duration::from_secs(1)),
        ] {
            let client =
                registry.connect("operator").await.expect("the registry accepts operators");
            let seen = Arc::new(Seen::default());
            let repeating = repeat(client, verb, every, Arc::clone(&seen), Arc::clone(&stopping));
            tasks.push((name, seen, tokio::spawn(repeating)));
        }
        Self { stopping, tasks }
    }

    /// Stops the background work, and prints the measured times.
    pub async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for (name, seen, task) in self.tasks {
            task.await.expect("the task does not panic");
            seen.print("beside", name);
        }
    }
}

async fn repeat(
    client: Client,
    verb: Verb,
    every: Duration,
    seen: Arc<Seen>,
    stopping: Arc<AtomicBool>,
) {
    let mut timer = interval(every);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0.. {
        timer.tick().await;
        if stopping.load(Ordering::Relaxed) {
            break;
        }
        seen.measure(&client, verb, number).await;
    }
}
