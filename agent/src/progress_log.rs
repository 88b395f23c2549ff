//! Progress of a cycle, of `unpack` and of `verify`: a bar on a terminal, or lines of the log.

use std::time::{Duration, Instant};

use deploy_cli::progress::{Display, Form, Told, show};

use crate::agent::Agent;

/// Time between two looks: most cycles are over before the first.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shows progress on stderr; a line of it is a line of the log.
pub fn tell(told: Told) {
    match told {
        Told::Line(line) => tracing::info!(event = "progress", "{line}"),
        bar @ Told::Bar(_) => show(bar),
    }
}

/// Logs the progress of a cycle that begins now, and never ends.
pub(crate) async fn log(agent: &Agent) {
    if agent.quiet {
        return std::future::pending().await;
    }
    let mut display = Display::new(Form::Lines, Instant::now());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(told) = display.look(agent.store.meter().reading(), Instant::now()) {
            tell(told);
        }
    }
}
