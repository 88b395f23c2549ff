//! Renders changed pages while browsers show them. [`super::live_stream`] sends the changes.
//!
//! All browsers that show the same page with the same rights share one task. When something has
//! changed, the task renders the page, and publishes the sections that differ. Together, the tasks
//! of all pages use at most about a tenth of a core, even if many pages are open and the registry
//! changes often.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use deploy_store::Digest;
use serde::Serialize;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::sleep;

use super::problem::Problem;
use super::screens::Screen;
use super::screens::layout::{Page, digest_of};
use crate::registry::Registry;

/// Maximum number of open streams.
const MAX_STREAMS: usize = 1000;
/// How often the task of a page looks for changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// After this time, the task renders a page even without a known change, because some contents
/// depend on the time.
const AT_LEAST: Duration = Duration::from_secs(15);
/// The pause after each rendering, as a multiple of the duration of the rendering.
const PAUSE: u32 = 9;
/// How many changes a slow browser may lag behind. A browser that lags further behind gets the
/// whole page.
const LAG: usize = 16;

/// The pages that browsers show now.
#[derive(Debug)]
pub struct Live {
    pages: Mutex<HashMap<PageKey, Weak<LivePage>>>,
    /// The task that renders a page holds this lock, and releases the lock after its pause.
    rendering: tokio::sync::Mutex<()>,
    /// The request that renders a page for the first time holds this lock. If many browsers open a
    /// page at the same time, the first request renders the page, and the other requests wait.
    starting: tokio::sync::Mutex<()>,
    /// One permit for each stream that may still be opened.
    pub room: Arc<Semaphore>,
}

impl Default for Live {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(MAX_STREAMS));
        Self {
            pages: Mutex::default(),
            rendering: tokio::sync::Mutex::default(),
            starting: tokio::sync::Mutex::default(),
            room,
        }
    }
}

/// A page, and whether its viewers may change things.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PageKey {
    /// The screen.
    pub screen: Screen,
    /// Whether the viewers may change things.
    pub may_act: bool,
}

/// A page that at least one browser shows.
#[derive(Debug)]
pub struct LivePage {
    /// The sections as of the last rendering.
    latest: Mutex<Arc<Rendered>>,
    /// Sends the updates of the page to its streams.
    pub updates: broadcast::Sender<Update>,
}

/// The sections of a page.
#[derive(Debug, Default)]
pub struct Rendered {
    /// The digest of all sections.
    pub digest: String,
    sections: Vec<RenderedSection>,
}

#[derive(Debug, Clone)]
struct RenderedSection {
    id: String,
    digest: Digest,
    /// The data of the event that replaces the section.
    data: Arc<str>,
}

/// The update of a page that a stream sends to its browser.
#[derive(Debug, Clone)]
pub enum Update {
    /// The new digest of the page, and the data of each changed section.
    Changed(Arc<str>, Vec<Arc<str>>),
    /// The page has other sections now, so browsers must load the page again.
    Reload,
    /// The object that the page shows no longer exists.
    Gone,
}

/// The data of the event `section`.
#[derive(Debug, Serialize)]
struct SectionData<'a> {
    id: &'a str,
    html: &'a str,
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
        Self { digest: digest_of(page), sections }
    }

    /// The update for a browser that shows `old`; `None` if nothing has changed.
    fn since(&self, old: &Self) -> Option<Update> {
        let ids = |of: &Self| of.sections.iter().map(|one| one.id.clone()).collect::<Vec<_>>();
        if ids(self) != ids(old) {
            return Some(Update::Reload);
        }
        let is_new = |section: &&RenderedSection| {
            let before = old.sections.iter().find(|before| before.id == section.id);
            before.is_none_or(|before| before.digest != section.digest)
        };
        let new = self.sections.iter().filter(is_new);
        let new: Vec<Arc<str>> = new.map(|section| Arc::clone(&section.data)).collect();
        (!new.is_empty()).then(|| Update::Changed(self.digest.as_str().into(), new))
    }

    /// All sections, for a browser that shows older sections.
    pub fn whole(&self) -> Update {
        let all = self.sections.iter().map(|section| Arc::clone(&section.data)).collect();
        Update::Changed(self.digest.as_str().into(), all)
    }
}

impl LivePage {
    /// The sections as of the last rendering.
    pub fn latest(&self) -> MutexGuard<'_, Arc<Rendered>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Live {
    /// The page with this key. The first browser that shows the page starts the page's task.
    pub async fn find_or_start(
        self: &Arc<Self>,
        registry: &Arc<Registry>,
        key: PageKey,
    ) -> Result<Arc<LivePage>, Problem> {
        if let Some(page) = self.pages().get(&key).and_then(Weak::upgrade) {
            return Ok(page);
        }
        let _starting = self.starting.lock().await;
        if let Some(page) = self.pages().get(&key).and_then(Weak::upgrade) {
            return Ok(page);
        }
        let generation = Generation::now(registry);
        let first = key.screen.page(registry, key.may_act).await?;
        if !first.is_live() {
            return Err(Problem::not_found());
        }
        let first = Rendered::of(&first);
        let (updates, _) = broadcast::channel(LAG);
        let page = Arc::new(LivePage { latest: Mutex::new(Arc::new(first)), updates });
        let mut pages = self.pages();
        pages.retain(|_, page| page.strong_count() > 0);
        pages.insert(key.clone(), Arc::downgrade(&page));
        drop(pages);
        let (live, registry) = (Arc::downgrade(self), Arc::downgrade(registry));
        tokio::spawn(render(live, registry, Arc::downgrade(&page), key, generation));
        Ok(page)
    }

    fn pages(&self) -> MutexGuard<'_, HashMap<PageKey, Weak<LivePage>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counters that grow when the registry changes.
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

/// Renders the page after changes. Ends when no browser shows the page, or when the object that the
/// page shows no longer exists.
async fn render(
    live: Weak<Live>,
    registry: Weak<Registry>,
    page: Weak<LivePage>,
    key: PageKey,
    mut seen: Generation,
) {
    let mut last = Instant::now();
    loop {
        sleep(LOOK_EVERY).await;
        let (Some(live), Some(registry), Some(page)) =
            (live.upgrade(), registry.upgrade(), page.upgrade())
        else {
            return;
        };
        let now = Generation::now(&registry);
        if now == seen && last.elapsed() < AT_LEAST {
            continue;
        }
        let rendering = live.rendering.lock().await;
        (seen, last) = (Generation::now(&registry), Instant::now());
        match key.screen.page(&registry, key.may_act).await {
            Ok(rendered) => publish(&page, Rendered::of(&rendered)),
            Err(problem) if problem.is_not_found() => {
                let _ = page.updates.send(Update::Gone);
                return;
            }
            // Browsers keep the current sections. The next rendering may succeed.
            Err(_) => {}
        }
        let pause = last.elapsed() * PAUSE;
        drop((page, registry));
        sleep(pause).await;
        drop(rendering);
    }
}

fn publish(page: &LivePage, new: Rendered) {
    let new = Arc::new(new);
    let mut latest = page.latest();
    let Some(update) = new.since(&latest) else { return };
    *latest = new;
    // The task holds the lock of `latest` while it sends the update. So a browser that subscribes
    // and then reads `latest` misses no update. Sending fails only if no browser shows the page.
    let _ = page.updates.send(update);
}
