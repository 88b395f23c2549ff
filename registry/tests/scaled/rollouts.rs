//! Plays an operator who starts one rollout after the other, and waits for the end of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deploy_wire::exit;
use serde_json::Value;
use tokio::time::sleep;

use crate::ledger::Outcome;
use crate::operator::{Operator, Settled, current, is_in_history};
use crate::{LIMIT, ROLLED};

/// The number of waves of each rollout.
pub const WAVES: usize = 2;

/// Starts rollouts of the configuration [`ROLLED`] until `stop` is set. Returns the number of
/// rollouts.
pub async fn run(mut operator: Operator, stop: Arc<AtomicBool>) -> usize {
    let mut done = 0;
    while !stop.load(Ordering::SeqCst) {
        start(&mut operator).await;
        end(&mut operator).await;
        operator.ledger.count("rollouts");
        done += 1;
    }
    done
}

async fn start(operator: &mut Operator) {
    let version = operator.add().await;
    operator.ledger.open().set(ROLLED, &version, Outcome::Unknown);
    let hash = current(&operator.access, &operator.ledger, &mut operator.dice, ROLLED).await;
    let line = format!(
        "rollout start -name {ROLLED} -layer {}:{version} -waves 1,100% -soak 200ms \
         -max-absent 100% -max-failed 100% -if-hash {hash}",
        operator.component
    );
    match operator.insist(&line).await {
        Settled::Done(_) => {}
        Settled::Refused { code: exit::CONFLICT, why, may_be_done } => {
            let Operator { access, ledger, dice, .. } = operator;
            assert!(may_be_done, "{line}: {why}, but no attempt had succeeded");
            let is_there = is_in_history(access, ledger, dice, ROLLED, &version).await;
            assert!(is_there, "{line}: {why}, but the history lacks it");
            ledger.count("rollouts after a lost answer");
        }
        Settled::Refused { code, why, .. } => panic!("{line}: {code} {why}"),
    }
    operator.ledger.open().set(ROLLED, &version, Outcome::Done);
}

/// Waits until the rollout has succeeded. Resumes a rollout that has halted because its hosts were
/// not connected.
async fn end(operator: &mut Operator) {
    let began = Instant::now();
    let line = format!("rollout status -name {ROLLED} -json");
    loop {
        let Settled::Done(said) = operator.insist(&line).await else { panic!("{line} is refused") };
        let shown: Value = serde_json::from_str(&said).unwrap();
        match shown["status"].as_str().unwrap() {
            "succeeded" => return,
            "running" => {}
            "halted" | "paused" => {
                operator.insist(&format!("rollout resume -name {ROLLED}")).await;
            }
            other => panic!("the rollout is {other}: {said}"),
        }
        assert!(began.elapsed() < LIMIT * 2, "the rollout does not end: {said}");
        sleep(Duration::from_millis(300)).await;
    }
}
