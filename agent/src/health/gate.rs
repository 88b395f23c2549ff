//! Runs the health gate: probes every check until the deploy is healthy, or until the deadline.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use deploy_store::Digest;
use tokio::sync::{mpsc, watch};

use crate::flags::health_flags::{Check, OnFailure, pause};
use crate::health::probing;
use crate::health::subject::Subject;
use crate::health::verdict::{Decided, Goal, Tally, seconds};
use crate::log::millis;

/// Maximum duration of one probe.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// The settings of the gate.
#[derive(Debug, Clone)]
pub struct Gate {
    /// The checks, at least one.
    pub checks: Vec<Check>,
    /// The conditions under which a deploy counts as healthy.
    pub goal: Goal,
    /// What to do if a deploy is not healthy.
    pub on_failure: OnFailure,
}

/// How a gate ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every check succeeded.
    Healthy,
    /// The deploy is not healthy, for this reason.
    Failed(String),
    /// The gate ended without a decision, because the registry may have a newer configuration.
    Superseded,
}

/// Probes the checks for `subject`, whose script ended at `since`. A signal on `newer` ends the
/// gate early.
pub async fn run(
    gate: &Gate,
    subject: Subject,
    since: Instant,
    newer: &mut watch::Receiver<()>,
) -> Verdict {
    let id = subject.configuration.id();
    announce(gate, id);
    let goal = gate.goal;
    let mut tally = Tally::new(goal, gate.checks.iter().map(Check::label));
    let (sender, mut results) = mpsc::channel(gate.checks.len().max(1));
    // The probes are futures of this function, and not tasks of the runtime. When the agent ends,
    // it drops the probes, and this drop kills the programs that the probes run.
    let probes = gate.checks.iter().enumerate();
    let probes = probes
        .map(|(n, check)| Box::pin(repeat(n, check, &subject, since, goal.deadline, &sender)));
    let mut all = together(probes.collect());
    loop {
        let due = since + tally.due(since.elapsed());
        tokio::select! {
            biased;
            () = changed(newer) => return superseded(id),
            Some((n, result)) = results.recv() => {
                if let Err(reason) = &result {
                    let check = gate.checks[n].to_string();
                    tracing::debug!(event = "health_probe_failed", %id, check, "{reason}");
                }
                tally.count(n, result);
            }
            () = tokio::time::sleep_until(due.into()) => {}
            () = &mut all => unreachable!("probing never ends"),
        }
        match tally.decide(since.elapsed()) {
            None => {}
            Some(Decided::Healthy) => {
                let ms = millis(since);
                tracing::info!(event = "healthy", %id, ms, "{id} is healthy after {ms} ms");
                return Verdict::Healthy;
            }
            Some(Decided::Failed(reason)) => return Verdict::Failed(reason),
        }
    }
}

fn announce(gate: &Gate, id: Digest) {
    let checks = gate.checks.iter().map(Check::to_string).collect::<Vec<_>>().join(", ");
    let deadline_ms = u64::try_from(gate.goal.deadline.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(
        event = "health_started",
        %id,
        checks,
        deadline_ms,
        "checking whether {id} is healthy: {checks}"
    );
}

fn superseded(id: Digest) -> Verdict {
    tracing::info!(
        event = "health_interrupted",
        %id,
        "the registry may have a newer configuration: the health gate of {id} ends without a result"
    );
    Verdict::Superseded
}

/// Waits for the announcement of a newer configuration.
async fn changed(newer: &mut watch::Receiver<()>) {
    if newer.changed().await.is_err() {
        // The sender was dropped, so no newer configuration can be announced.
        std::future::pending::<()>().await;
    }
}

/// Runs futures that never end, all at the same time.
fn together<F: Future<Output = ()> + Unpin>(mut all: Vec<F>) -> impl Future<Output = ()> + Unpin {
    poll_fn(move |context| {
        for one in &mut all {
            let _ = Pin::new(one).poll(context);
        }
        Poll::Pending
    })
}

/// Probes one check again and again, and sends each result with the check's number.
async fn repeat(
    n: usize,
    check: &Check,
    subject: &Subject,
    since: Instant,
    deadline: Duration,
    results: &mpsc::Sender<(usize, Result<(), String>)>,
) {
    loop {
        let next = tokio::time::Instant::now() + pause(deadline);
        let limit = PROBE_LIMIT.min(deadline.saturating_sub(since.elapsed()));
        let probed = tokio::time::timeout(limit, probing::probe(check, subject)).await;
        let probed = probed.unwrap_or_else(|_| {
            Err(format!("{}: no answer within {}", check.label(), seconds(limit)))
        });
        // Sending cannot fail, because the receiver lives as long as this future.
        let _ = results.send((n, probed)).await;
        tokio::time::sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use deploy_store::{Configuration, Layer};

    use super::*;
    use crate::fetch::registry_session::Session;

    fn subject() -> Subject {
        let now = "2026-11-23T03:49:00Z".parse().unwrap();
        let layer = Layer {
            component: "code".parse().unwrap(),
            version: "v1".parse().unwrap(),
            digest: Digest::of(b"a"),
            created: now,
        };
        let configuration = Configuration::new("p".parse().unwrap(), vec![layer], now).unwrap();
        Subject { configuration, root: "/r".into(), env_file: None, session: Session::none() }
    }

    fn gate(check: &str, min: u64, deadline: u64) -> Gate {
        let [min, deadline] = [min, deadline].map(Duration::from_millis);
        Gate {
            checks: vec![Check::parse(check).unwrap()],
            goal: Goal { successes: 2, min, deadline },
            on_failure: OnFailure::Rollback,
        }
    }

    /// The address of a port on which nothing listens any more.
    fn closed() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("tcp://{}", listener.local_addr().unwrap())
    }

    #[tokio::test]
    async fn newer_configuration_ends_the_gate_without_a_result() {
        let (sender, mut newer) = watch::channel(());
        let gate = gate(&closed(), 0, 600_000);
        let announce = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            sender.send_replace(());
            std::future::pending::<Verdict>().await
        };
        let verdict = tokio::select! {
            verdict = run(&gate, subject(), Instant::now(), &mut newer) => verdict,
            verdict = announce => verdict,
        };
        assert_eq!(verdict, Verdict::Superseded);
        // A configuration that was announced before the gate began, while the script ran, also
        // counts.
        sender.send_replace(());
        let verdict = run(&gate, subject(), Instant::now(), &mut newer).await;
        assert_eq!(verdict, Verdict::Superseded);
    }

    #[tokio::test]
    async fn gate_decides_if_no_newer_configuration_can_be_announced() {
        let mut newer = watch::channel(()).1;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let open = format!("tcp://{}", listener.local_addr().unwrap());
        let began = Instant::now();
        let verdict = run(&gate(&open, 150, 60_000), subject(), began, &mut newer).await;
        assert_eq!(verdict, Verdict::Healthy);
        assert!(began.elapsed() >= Duration::from_millis(150));
        let closed = closed();
        let verdict = run(&gate(&closed, 0, 200), subject(), Instant::now(), &mut newer).await;
        let Verdict::Failed(reason) = verdict else { panic!("{verdict:?}") };
        let want = format!("health {closed}: connection refused, ");
        assert!(reason.starts_with(&want) && reason.contains("times in a row"), "{reason}");
    }
}
