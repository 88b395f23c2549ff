//! Answers requests about rollouts with `rollout list`, `rollout status`, and the actions that
//! steer a rollout.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use deploy_store::ConfigurationName;
use deploy_wire::command::{Command, RolloutAction};
use serde::Serialize;

use super::api_answers;
use super::changing::{self, Changed, Nothing, Reason};
use super::parameters::{Parameters, name, path_number};
use crate::http::access::Viewer;
use crate::http::problem::Problem;
use crate::http::shared_state::Handle;
use crate::verbs::rollout_status::RolloutStatus;

/// `GET rollouts`
pub async fn list(
    State(handle): State<Handle>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let (name, limit) = (parameters.parsed("name")?, Some(parameters.limit()?));
    let command = Command::Rollout(RolloutAction::List { name, limit, json: true });
    api_answers::document(&handle, &command).await
}

/// `GET rollouts/{name}`
pub async fn last(
    State(handle): State<Handle>,
    Path(of): Path<String>,
) -> Result<Response, Problem> {
    status(&handle, name(&of)?, None).await
}

/// `GET rollouts/{name}/{number}`
pub async fn one(
    State(handle): State<Handle>,
    Path((of, number)): Path<(String, String)>,
) -> Result<Response, Problem> {
    status(&handle, name(&of)?, Some(path_number(&number)?)).await
}

async fn status(
    handle: &Handle,
    name: ConfigurationName,
    number: Option<u64>,
) -> Result<Response, Problem> {
    let action = RolloutAction::Status { name, number, json: true };
    api_answers::document(handle, &Command::Rollout(action)).await
}

/// `POST rollouts/{name}/pause`
pub async fn pause(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let reason = |Reason { message }: Reason, name| RolloutAction::Pause(name, message);
    steer(&handle, &viewer, &of, &headers, &bytes, reason).await
}

/// `POST rollouts/{name}/resume`
pub async fn resume(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let action =
        |Nothing {}, name| RolloutAction::Resume { name, max_failed: None, max_absent: None };
    steer(&handle, &viewer, &of, &headers, &bytes, action).await
}

/// `POST rollouts/{name}/abort`
pub async fn abort(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let reason = |Reason { message }: Reason, name| RolloutAction::Abort(name, message);
    steer(&handle, &viewer, &of, &headers, &bytes, reason).await
}

/// `POST rollouts/{name}/skip-soak`
pub async fn skip_soak(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let action = |Nothing {}, name| RolloutAction::SkipSoak(name);
    steer(&handle, &viewer, &of, &headers, &bytes, action).await
}

/// The rollout after a change.
#[derive(Debug, Serialize)]
struct Steered {
    rollout: RolloutStatus,
}

async fn steer<T: serde::de::DeserializeOwned + Default>(
    handle: &Handle,
    viewer: &Viewer,
    of: &str,
    headers: &HeaderMap,
    bytes: &Bytes,
    action: impl FnOnce(T, ConfigurationName) -> RolloutAction,
) -> Result<Response, Problem> {
    let actor = changing::actor(viewer, headers)?;
    let body: T = changing::body(headers, bytes)?;
    let shared = handle.shared().map_err(Problem::for_program)?;
    let name: ConfigurationName = name(of)?;
    let command = Command::Rollout(action(body, name.clone()));
    let message = changing::run(&shared.registry, &actor, command).await?;
    let rollout = shared.registry.rollout_status(&name, None).await;
    let rollout = rollout.map_err(|err| Problem::from(err).for_program())?;
    Ok(axum::Json(Changed { message, thing: Steered { rollout } }).into_response())
}
