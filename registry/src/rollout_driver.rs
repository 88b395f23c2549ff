//! Makes the automatic steps of rollouts, in a loop. The loop keeps no state in memory, so a kill
//! at any point loses nothing. Each step is one transaction, which fails if the rollout has changed
//! in the meantime. So even several registries on one catalogue do not write the same step twice.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::registry::Registry;

/// The shortest pause between two checks of the rollouts.
const PAUSE: Duration = Duration::from_millis(20);
/// The pause between two checks, as a multiple of the time that a check takes.
const PAUSE_FACTOR: u32 = 4;
/// The longest time between two checks of a running rollout. Regular checks are necessary because
/// the loop gets no signal when a host disconnects.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The longest time between two checks if no rollout is running.
const REST: Duration = Duration::from_secs(30);

/// Makes the automatic steps of all rollouts until the registry stops.
pub async fn run(registry: Arc<Registry>) {
    let mut rollouts = registry.catalog.changes.rollouts();
    let mut written = registry.fleet.written();
    let mut stopped = registry.fleet.stopped();
    loop {
        rollouts.borrow_and_update();
        written.borrow_and_update();
        let began = Instant::now();
        let wait = look(&registry).await;
        let pause = PAUSE.max(began.elapsed() * PAUSE_FACTOR);
        let is_active = wait.is_some();
        tokio::select! {
            _ = rollouts.changed() => {}
            _ = written.changed(), if is_active => {}
            () = sleep(wait.unwrap_or(REST)) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
        sleep(pause).await;
    }
}

/// Makes all steps that are due. Returns the longest time until the next check; `None` if no
/// rollout is active.
async fn look(registry: &Registry) -> Option<Duration> {
    let names = match registry.fleet.rolling().await {
        Ok(names) => names,
        Err(err) => {
            tracing::warn!(event = "rollout_error", "cannot read the rollouts: {err}");
            return Some(LOOK_EVERY);
        }
    };
    let mut wait: Option<Duration> = None;
    for name in &names {
        let due = match registry.step_rollout(name).await {
            // Only an operator, or a report, can change a rollout that is paused or halted.
            Ok(next) => next.map_or(REST, |next| until(next).min(LOOK_EVERY)),
            Err(err) => {
                let name = name.as_str();
                tracing::warn!(event = "rollout_error", name, "cannot advance the rollout: {err}");
                LOOK_EVERY
            }
        };
        wait = Some(wait.map_or(due, |wait| wait.min(due)));
    }
    wait
}

fn until(next: Timestamp) -> Duration {
    Duration::try_from(next.duration_since(Timestamp::now())).unwrap_or(Duration::ZERO)
}
