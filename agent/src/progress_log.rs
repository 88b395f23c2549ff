//! Shows the progress of a cycle, of `unpack` and of `verify`, as a bar on a terminal or as log
//! lines.

use std::time::{Duration, Instant};

use deploy_cli::progress::{Display, Form, Told, show};

use crate::agent::Agent;

/// Time between two updates. Most cycles end before the first update.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Shows progress on stderr, as a bar or as a log line.
pub fn tell(told: Told) {
    match told {
        Told::Line(line) => tracing::info!(event = "progress", "{line}"),
        bar @ Told::Bar(_) => show(bar),
    }
}

/// Logs the progress of a cycle that begins now. The function never returns.
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
