//! Defines the web server, and which function answers which path.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn;
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{any, get, post};
use axum::{Extension, middleware};
use tokio::sync::Semaphore;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use super::access::{Access, Viewer};
use super::problem::Problem;
use super::screens::Screen;
use super::shared_state::{Handle, SCREENS, Shared};
use super::{actions, api, assets, guard, live_stream, login, monitoring, response_headers};
use crate::registry::Registry;

/// Maximum length of a request's body, in bytes.
const MAX_BODY: usize = 64 << 10;
/// Maximum time for an answer, except for the stream of changed sections.
const ANSWER: Duration = Duration::from_secs(60);

/// The web server.
#[derive(Debug)]
pub struct Web {
    pub(super) shared: Arc<Shared>,
    router: Router,
}

impl Web {
    /// The web server of `registry`.
    pub fn new(registry: Arc<Registry>) -> Arc<Self> {
        let shared =
            Arc::new(Shared { registry, live: Arc::default(), screens: Semaphore::new(SCREENS) });
        let router = routes(&Handle::of(&shared));
        Arc::new(Self { shared, router })
    }

    /// The service that answers the requests that come through `access`.
    pub(super) fn service(&self, access: &Access) -> Router {
        self.router
            .clone()
            .layer(middleware::from_fn_with_state(access.clone(), guard::check))
            .layer(from_fn(response_headers::add))
    }
}

fn routes(state: &Handle) -> Router {
    let timed = Router::new()
        .route("/login", get(login::log_in))
        .route("/assets/{name}", get(assets::get))
        .route("/metrics", get(monitoring::metrics))
        .route("/healthz", get(monitoring::healthz))
        .route("/readyz", get(monitoring::readyz))
        .route("/run", post(actions::run))
        .fallback(any(screen));
    Router::new()
        .route("/live", get(live_stream::stream))
        .merge(limited(timed))
        .merge(api::with_problems(limited(api::routes())))
        .with_state(state.clone())
}

/// Adds limits to the routes: on the length of a request's body, and on the time for the answer.
fn limited(router: Router<Handle>) -> Router<Handle> {
    router
        .layer(RequestBodyLimitLayer::new(MAX_BODY))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, ANSWER))
}

/// Answers a request for a screen.
async fn screen(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    method: Method,
    uri: Uri,
) -> Result<Response, Problem> {
    if !matches!(method, Method::GET | Method::HEAD) {
        let text = "this address allows only GET and HEAD";
        return Err(Problem::new(StatusCode::METHOD_NOT_ALLOWED, text).of(&uri));
    }
    let shared = handle.shared()?;
    let screen = Screen::parse(uri.path(), uri.query().unwrap_or_default())?;
    let turn = shared.screens.acquire().await;
    let page = screen.page(&shared.registry, viewer.may_act()).await?;
    drop(turn);
    Ok(Html(page.to_html(&viewer, Some(&uri)).into_string()).into_response())
}
