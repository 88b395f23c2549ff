//! Sends changed sections of a page to browsers, as server-sent events.
//!
//! All browsers that show the same page share one task, which renders the page when something has
//! changed, and sends the sections that differ. However many pages are open and however often
//! something changes, these tasks use at most about a tenth of a core.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use deploy_store::Digest;
use futures_util::stream::{self, Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::sleep;

use super::access::Viewer;
use super::problem::Problem;
use super::screens::Screen;
use super::screens::layout::Page;
use super::web::{Handle, Web};
use crate::registry::Registry;

/// Maximum number of open streams.
const MAX_STREAMS: usize = 1000;
/// How often the task of a page looks for changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A page is rendered after this time even if no change is known, because some contents depend on
/// the time.
const AT_LEAST: Duration = Duration::from_secs(15);
/// After a page was rendered, no page is rendered for this many times as long.
const PAUSE: u32 = 9;
/// How often a stream without changes sends a comment, so that both sides notice a lost connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How many changes a slow browser may lag behind. After that, it gets the whole page.
const LAG: usize = 16;

/// The pages that browsers show now.
#[derive(Debug)]
pub struct Live {
    pages: Mutex<HashMap<PageKey, Weak<LivePage>>>,
    /// The task that renders a page holds this lock, and keeps it during its pause.
    rendering: tokio::sync::Mutex<()>,
    room: Arc<Semaphore>,
}

impl Default for Live {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(MAX_STREAMS));
        Self { pages: Mutex::default(), rendering: tokio::sync::Mutex::default(), room }
    }
}

/// A page, and whether its viewers may change things.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PageKey {
    screen: Screen,
    may_act: bool,
}

/// A page that at least one browser shows.
#[derive(Debug)]
struct LivePage {
    /// The sections as of the last rendering.
    latest: Mutex<Arc<Rendered>>,
    updates: broadcast::Sender<Update>,
}

/// The sections of a page.
#[derive(Debug, Default)]
struct Rendered {
    digest: String,
    sections: Vec<RenderedSection>,
}

#[derive(Debug, Clone)]
struct RenderedSection {
    id: String,
    digest: Digest,
    /// The data of its event.
    data: Arc<str>,
}

/// What a stream sends.
#[derive(Debug, Clone)]
enum Update {
    /// These sections have changed, and the page has this digest now.
    Changed(Arc<str>, Vec<Arc<str>>),
    /// The page's object no longer exists.
    Gone,
}

/// The data of the event `section`.
#[derive(Debug, Serialize)]
struct SectionData<'a> {
    id: &'a str,
    html: &'a str,
}

/// The query of `/live`.
#[derive(Debug, Deserialize)]
pub struct Wanted {
    /// Path and query of the page.
    page: String,
    /// The digest of the sections that the browser shows.
    #[serde(default)]
    seen: String,
}

/// A digest of the sections of a page.
pub fn digest_of(page: &Page) -> String {
    Rendered::of(page).digest
}

impl Rendered {
    fn of(page: &Page) -> Self {
        let sections: Vec<RenderedSection> = page
            .sections()
            .map(|section| {
                let (id, html) = (section.id, &*section.html.0);
                let data = serde_json::to_string(&SectionData { id, html }).unwrap_or_default();
                let digest = Digest::of(html.as_bytes());
                RenderedSection { id: id.to_owned(), digest, data: data.into() }
            })
            .collect();
        let all: Vec<String> = sections.iter().map(|one| one.digest.to_string()).collect();
        let all = all.join(" ");
        let digest = Digest::of(all.as_bytes()).to_string()[..16].to_owned();
        Self { digest, sections }
    }

    /// The sections that the browser has to replace, if it shows `old`.
    fn since(&self, old: &Self) -> Vec<Arc<str>> {
        let is_new = |section: &&RenderedSection| {
            let before = old.sections.iter().find(|before| before.id == section.id);
            before.is_none_or(|before| before.digest != section.digest)
        };
        self.sections.iter().filter(is_new).map(|section| Arc::clone(&section.data)).collect()
    }

    fn whole(&self) -> Update {
        let all = self.sections.iter().map(|section| Arc::clone(&section.data)).collect();
        Update::Changed(self.digest.as_str().into(), all)
    }
}

impl LivePage {
    fn latest(&self) -> MutexGuard<'_, Arc<Rendered>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    fn pages(&self) -> MutexGuard<'_, HashMap<PageKey, Weak<LivePage>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `/live`: the changed sections of a page, until the browser leaves or the registry stops.
pub(super) async fn stream(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Query(Wanted { page, seen }): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let web = handle.web()?;
    let Ok(permit) = Arc::clone(&web.live.room).try_acquire_owned() else {
        let text = "too many browsers show live pages";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let (path, query) = page.split_once('?').unwrap_or((&page, ""));
    let key = PageKey { screen: Screen::parse(path, query)?, may_act: viewer.may_act() };
    let page = find_or_start(&web, key).await?;
    // After a lost connection, a browser sends the digest of the last change that it got.
    let last = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let events = events(page, last.unwrap_or(&seen), permit);
    let mut stopped = web.registry.fleet.stopped();
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

/// The events of an update. Only the last event has the digest, so that a browser that got a part
/// of them gets the whole page when it returns.
fn to_events(update: &Update) -> Vec<Result<Event, Infallible>> {
    let Update::Changed(digest, sections) = update else {
        return vec![Ok(Event::default().event("gone").data("gone"))];
    };
    let sections = sections.iter().map(|data| Ok(Event::default().event("section").data(&**data)));
    let end = Event::default().event("end").id(&**digest).data("end");
    sections.chain([Ok(end)]).collect()
}

/// The page with this key. The first browser that shows the page starts its task.
async fn find_or_start(web: &Arc<Web>, key: PageKey) -> Result<Arc<LivePage>, Problem> {
    if let Some(page) = web.live.pages().get(&key).and_then(Weak::upgrade) {
        return Ok(page);
    }
    let generation = Generation::now(&web.registry);
    let first = key.screen.page(&web.registry, key.may_act).await?;
    if !first.is_live() {
        return Err(Problem::not_found());
    }
    let first = Rendered::of(&first);
    let (updates, _) = broadcast::channel(LAG);
    let page = Arc::new(LivePage { latest: Mutex::new(Arc::new(first)), updates });
    let mut pages = web.live.pages();
    pages.retain(|_, page| page.strong_count() > 0);
    // Another browser may have been faster.
    if let Some(other) = pages.get(&key).and_then(Weak::upgrade) {
        return Ok(other);
    }
    pages.insert(key.clone(), Arc::downgrade(&page));
    drop(pages);
    tokio::spawn(render(Arc::downgrade(web), Arc::downgrade(&page), key, generation));
    Ok(page)
}

/// What counts the changes of the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Generation {
    commits: u64,
    connections: u64,
}

impl Generation {
    fn now(registry: &Registry) -> Self {
        Self {
            commits: registry.catalog.changes.commits(),
            connections: registry.fleet.presence.moves(),
        }
    }
}

/// Renders the page after changes, until no browser shows it.
async fn render(web: Weak<Web>, page: Weak<LivePage>, key: PageKey, mut seen: Generation) {
    let mut last = Instant::now();
    loop {
        sleep(LOOK_EVERY).await;
        let (Some(web), Some(page)) = (web.upgrade(), page.upgrade()) else { return };
        let now = Generation::now(&web.registry);
        if now == seen && last.elapsed() < AT_LEAST {
            continue;
        }
        let rendering = web.live.rendering.lock().await;
        (seen, last) = (Generation::now(&web.registry), Instant::now());
        match key.screen.page(&web.registry, key.may_act).await {
            Ok(rendered) => publish(&page, Rendered::of(&rendered)),
            Err(problem) if problem.is_not_found() => {
                let _ = page.updates.send(Update::Gone);
                return;
            }
            // The catalogue may answer the next time.
            Err(_) => {}
        }
        let pause = last.elapsed() * PAUSE;
        drop(page);
        sleep(pause).await;
        drop(rendering);
    }
}

fn publish(page: &LivePage, new: Rendered) {
    let new = Arc::new(new);
    let mut latest = page.latest();
    let changed = new.since(&latest);
    if changed.is_empty() {
        return;
    }
    *latest = Arc::clone(&new);
    // The lock is held while the update is sent, so no browser gets an update before the page that
    // it changes. Sending fails only without browsers.
    let _ = page.updates.send(Update::Changed(new.digest.as_str().into(), changed));
}
