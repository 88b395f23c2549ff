//! Serves `/metrics`, `/healthz` and `/readyz` for monitoring systems.

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};

use super::problem::Problem;
use super::shared_state::Handle;

/// The metrics in the text format of Prometheus.
pub async fn metrics(State(handle): State<Handle>) -> Result<Response, Problem> {
    let text = handle.shared()?.registry.metrics().await.map_err(Problem::from);
    let text = text.map_err(Problem::for_program)?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// Says that the process answers.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Says whether the registry can serve: the catalogue and the bucket answer, and the registry is not
/// stopping.
pub async fn readyz(State(handle): State<Handle>) -> Result<&'static str, Problem> {
    let shared = handle.shared()?;
    if *shared.registry.fleet.stopped().borrow() {
        let text = "the registry is stopping";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).for_program());
    }
    let registry = &shared.registry;
    registry.catalog.is_new().await.map_err(|err| Problem::from(err).for_program())?;
    if let Some(bucket) = registry.blobs().bucket() {
        bucket.require_answer().await.map_err(|err| Problem::from(err).for_program())?;
    }
    Ok("ready\n")
}
