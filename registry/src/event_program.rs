//! Runs an operator's program for each event. The program may, for example, call a webhook or send
//! a chat message.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::catalog::fleet::Event;
use crate::console;
use crate::error::Result;
use crate::registry::Registry;

/// The name of the note in the catalogue. The note has the number of the last event for which the
/// program ran.
const NOTE: &str = "event_program";
/// Maximum number of events that one query reads.
const PAGE: u64 = 100;
/// The longest wait for new events before the next check. A written batch of reports ends the wait
/// early.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The duty of running the program, if several registries share the catalogue.
const DUTY: &str = "event_program";
/// How long the program may run for one event. After this time, the registry kills the program.
const LONGEST: Duration = Duration::from_secs(60);
/// Maximum number of times that the registry runs the program for one event. If the program fails
/// each time, the registry skips the event.
const TRIES: u32 = 3;

/// Runs `program` for each event, one after the other, until this future is dropped. If no program
/// has run before, the registry begins with the next new event. After a restart, the registry
/// begins with the first event for which the program has not run. The program gets the event as a
/// line of JSON on its standard input. The environment variables `EVENT_…` have the same values, but
/// no variable has the time. If several registries share the catalogue, only one of them runs its
/// program, until that registry ends or is away.
pub async fn run(registry: Arc<Registry>, program: PathBuf) {
    let mut written = registry.fleet.written();
    let mut after = None;
    loop {
        written.borrow_and_update();
        match next(&registry, after).await {
            // The other registry records the last event.
            Ok(None) => {
                after = None;
                let _ = timeout(LOOK_EVERY, written.changed()).await;
            }
            Ok(Some((from, events))) if events.is_empty() => {
                after = Some(from);
                let _ = timeout(LOOK_EVERY, written.changed()).await;
            }
            Ok(Some((_, events))) => {
                for event in events {
                    if !registry.catalog.takes_duty(DUTY).await.unwrap_or(false) {
                        after = None;
                        break;
                    }
                    tell(&program, &event).await;
                    after = Some(event.number);
                    // If the registry is killed before it has written this note, the program runs
                    // for the event again.
                    if let Err(err) = registry.catalog.set_note(NOTE, &event.number).await {
                        tracing::warn!(
                            event = "event_program",
                            "cannot record the last event: {err}"
                        );
                    }
                }
            }
            Err(err) => {
                tracing::warn!(event = "event_program", "cannot read events: {err}");
                sleep(LOOK_EVERY).await;
            }
        }
    }
}

/// The events after the number `after`, and this number. Without `after`, they begin with the first
/// event for which no registry has run its program; if the program never ran, with the next new
/// event. `None`: another registry has the duty.
async fn next(registry: &Registry, after: Option<u64>) -> Result<Option<(u64, Vec<Event>)>> {
    let catalog = &registry.catalog;
    if !catalog.takes_duty(DUTY).await? {
        return Ok(None);
    }
    let after = match after {
        Some(after) => after,
        None => match catalog.note(NOTE).await? {
            Some(last) => last,
            // Without this note, a registry that stops before the program has run would begin with
            // a later event at its next start, and so would the registry that takes its duty.
            None => catalog.claim_note(NOTE, catalog.last_event().await?).await?,
        },
    };
    Ok(Some((after, catalog.events_after(None, after, PAGE).await?)))
}

async fn tell(program: &PathBuf, event: &Event) {
    for attempt in 1..=TRIES {
        let told = timeout(LONGEST, run_once(program, event)).await;
        let why = match told {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => format!("it ran for more than {LONGEST:?} and was killed"),
        };
        tracing::warn!(
            event = "event_program",
            number = event.number,
            attempt,
            "{} failed for event {}: {why}",
            program.display(),
            event.number
        );
        sleep(Duration::from_secs(1)).await;
    }
}

async fn run_once(program: &PathBuf, event: &Event) -> std::result::Result<(), String> {
    let kind = event.kind.map_or("unknown", crate::catalog::fleet::Kind::word);
    let mut child = Command::new(program)
        .env("EVENT_NUMBER", event.number.to_string())
        .env("EVENT_KIND", kind)
        .env("EVENT_CONFIGURATION", &event.configuration)
        .env("EVENT_HOST", &event.host)
        .env("EVENT_MESSAGE", &event.message)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|err| format!("cannot start it: {err}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        let line = console::events(std::slice::from_ref(event), true);
        // Writing fails if the program does not read its input. The program may still succeed.
        let _ = stdin.write_all(line.as_bytes()).await;
    }
    let status = child.wait().await.map_err(|err| format!("cannot wait for it: {err}"))?;
    if status.success() { Ok(()) } else { Err(status.to_string()) }
}
