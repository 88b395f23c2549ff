//! Serves `events -follow`, which shows new events until the client disconnects.

use std::time::Duration;

use deploy_store::ConfigurationName;
use deploy_wire::command::{self, Command};
use tokio::time::timeout;

use super::channel_io::{Gone, Incoming};
use super::context::Context;
use super::shell;
use crate::console;
use crate::error::Result;

/// Maximum number of events that the registry reads and sends in one step.
const PAGE: u64 = 500;
/// How often the registry looks for new events while no report is written.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The events to follow, and how to show them.
#[derive(Debug)]
pub struct Follow {
    name: Option<ConfigurationName>,
    since: Option<u64>,
    json: bool,
}

/// The events that the command in `line` follows; `None` for any other command.
pub fn wanted(line: &str) -> Option<Follow> {
    match command::parse(&command::split(line).ok()?).ok()? {
        Command::Events { name, since, limit: _, follow: true, json } => {
            Some(Follow { name, since, json })
        }
        _ => None,
    }
}

/// Sends events until the client disconnects or the registry cannot continue.
pub async fn run(mut client: Incoming, context: &Context, follow: &Follow, to_terminal: bool) {
    match events(&mut client, context, follow, to_terminal).await {
        Ok(why) => {
            let told = client.send_error(why + "\n").await;
            if told.is_ok() {
                client.finish(console::session_code(false)).await;
            }
        }
        Err(Gone) => client.close().await,
    }
}

/// Sends events. Returns the reason why the registry sends no more events.
async fn events(
    client: &mut Incoming,
    context: &Context,
    follow: &Follow,
    to_terminal: bool,
) -> Result<String, Gone> {
    let registry = &context.registry;
    let mut written = registry.fleet.written();
    let mut after = match follow.since {
        Some(since) => since,
        None => match registry.catalog.last_event().await {
            Ok(last) => last,
            Err(err) => return Ok(err.to_string()),
        },
    };
    loop {
        written.borrow_and_update();
        let events = registry.catalog.events_after(follow.name.as_ref(), after, PAGE).await;
        let events = match events {
            Ok(events) => events,
            Err(err) => return Ok(err.to_string()),
        };
        if let Some(last) = events.last() {
            after = last.number;
            let text = console::events(&events, follow.json).into_bytes();
            client.send(if to_terminal { shell::for_terminal(&text) } else { text }).await?;
            continue;
        }
        tokio::select! {
            _ = timeout(LOOK_EVERY, written.changed()) => {}
            more = client.more(), if !client.ended => more?,
        }
    }
}
