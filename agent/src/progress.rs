//! Progress of a cycle, of `unpack` and of `verify`: a bar on a terminal, or lines of the log.

use std::time::Instant;

use deploy_cli::progress::{Display, Form, SHOW_AFTER, Told, show};

use crate::cycle::Agent;

/// Shows progress on stderr; a line of it is a line of the log.
pub fn tell(told: Told) {
    match told {
        Told::Line(line) => tracing::info!(event = "progress", "{line}"),
        bar @ Told::Bar(_) => show(bar),
    }
}

/// Logs the progress of a cycle that begins now, and never ends. A cycle is over before the first
/// look, most of the time, and then this costs nothing.
pub(crate) async fn log(agent: &Agent) {
    if agent.quiet {
        return std::future::pending().await;
    }
    let mut display = Display::new(Form::Lines, Instant::now());
    loop {
        tokio::time::sleep(SHOW_AFTER).await;
        if let Some(told) = display.look(agent.store.meter().reading(), Instant::now()) {
            tell(told);
        }
    }
}
