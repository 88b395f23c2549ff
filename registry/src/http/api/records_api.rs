//! Answers requests about the audit trail, events and maintenance windows with the verbs `audit`,
//! `events` and `window list`.

use axum::extract::State;
use axum::response::Response;
use deploy_wire::command::{Command, Since, WindowAction};
use deploy_wire::flags;

use super::api_answers::{self, Paging};
use super::parameters::Parameters;
use crate::console;
use crate::http::problem::Problem;
use crate::http::shared_state::Handle;

/// `GET audit`
pub async fn audit(
    State(handle): State<Handle>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let command = Command::Audit {
        since: parameters.value("since", since)?,
        before: parameters.number("before")?,
        limit: Some(parameters.limit()?),
        json: true,
    };
    let paging = Paging { field: "before", list: "", value: "/number", backwards: false };
    api_answers::page(&handle, &parameters, &command, paging).await
}

fn since(text: &str) -> Result<Since, &'static str> {
    let time = text.parse().map(Since::At).ok();
    let since = time.or_else(|| flags::duration(text).map(Since::Ago).ok());
    since.ok_or("give a time such as 2026-01-02T15:04:05Z, or a duration such as 36h")
}

/// `GET events`. The document has the lines of the verb as one list. Without `after`, the document
/// has the newest events. With `after`, the document has the oldest events after that number, so a
/// program that follows the links misses no event.
pub async fn events(
    State(handle): State<Handle>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let (name, limit) = (parameters.parsed("name")?, parameters.limit()?);
    let shared = handle.shared().map_err(Problem::for_program)?;
    let catalog = &shared.registry.catalog;
    let events = match parameters.number("after")? {
        Some(after) => catalog.events_after(name.as_ref(), after, limit).await,
        None => catalog.newest_events(name.as_ref(), 0, limit).await,
    };
    let events = events.map_err(|err| Problem::from(err).for_program())?;
    let text = console::events(&events, true);
    let text = format!("[{}]\n", text.lines().collect::<Vec<_>>().join(",\n"));
    let next = events.last().map(|last| parameters.page("after", &last.number.to_string()));
    Ok(api_answers::with_next(api_answers::answer(text), next))
}

/// `GET windows`
pub async fn windows(State(handle): State<Handle>) -> Result<Response, Problem> {
    api_answers::document(&handle, &Command::Window(WindowAction::List { json: true })).await
}
