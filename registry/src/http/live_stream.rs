//! Serves `/live`, which sends the changed sections of a page to a browser, as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream::{self, Stream, StreamExt as _};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, broadcast};

use super::access::Viewer;
use super::live::{LivePage, PageKey, Update};
use super::problem::Problem;
use super::screens::Screen;
use super::shared_state::Handle;

/// How often a stream without changes sends a comment, so that both sides notice a lost connection.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// The query of `/live`.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    /// Path and query of the page.
    page: String,
    /// The digest of the sections that the browser shows.
    #[serde(default)]
    seen: String,
}

/// `GET /live`: sends the changed sections of a page, until the browser disconnects or the registry
/// stops.
pub(super) async fn stream(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Query(Wanted { page, seen }): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shared = handle.shared()?;
    let Ok(permit) = Arc::clone(&shared.live.room).try_acquire_owned() else {
        let text = "too many browsers show live pages; reload the page to see changes";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let (path, query) = page.split_once('?').unwrap_or((&page, ""));
    let key = PageKey { screen: Screen::parse(path, query)?, may_act: viewer.may_act() };
    let page = shared.live.find_or_start(&shared.registry, key).await?;
    // After a lost connection, a browser sends the digest of the last change that it got.
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let events = events(page, last.unwrap_or(&seen), permit);
    let mut stopped = shared.registry.fleet.stopped();
    let events = events.take_until(Box::pin(async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    }));
    let alive = KeepAlive::new().interval(HEARTBEAT);
    Ok(Sse::new(events).keep_alive(alive).into_response())
}

/// The events for one browser, which shows the sections with the digest `seen`.
fn events(
    page: Arc<LivePage>,
    seen: &str,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
    let updates = page.updates.subscribe();
    let now = Arc::clone(&page.latest());
    let first = (now.digest != seen).then(|| now.whole());
    let state = (page, updates, first, permit);
    let batches = stream::unfold(state, |(page, mut updates, first, permit)| async move {
        let update = match first {
            Some(first) => first,
            None => match updates.recv().await {
                Ok(update) => update,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    updates = page.updates.subscribe();
                    page.latest().whole()
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            },
        };
        Some((stream::iter(to_events(&update)), (page, updates, None, permit)))
    });
    batches.flatten()
}

/// The events of an update. Only the last event has the digest. So if a browser gets only some
/// of the events, it gets the whole page at its next connection.
fn to_events(update: &Update) -> Vec<Result<Event, Infallible>> {
    let (digest, sections) = match update {
        Update::Changed(digest, sections) => (digest, sections),
        Update::Reload => return vec![Ok(Event::default().event("reload").data("reload"))],
        Update::Gone => return vec![Ok(Event::default().event("gone").data("gone"))],
    };
    let sections = sections.iter().map(|data| Ok(Event::default().event("section").data(&**data)));
    let end = Event::default().event("end").id(&**digest).data("end");
    sections.chain([Ok(end)]).collect()
}
