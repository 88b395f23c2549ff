//! Answers requests about hosts with the verbs `fleet`, `host`, `why` and `retry`.

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use deploy_wire::command::{Command, HostAction};
use deploy_wire::fleet::{HostName, Phase};
use serde::{Deserialize, Serialize};

use super::api_answers::{self, Paging};
use super::changing::{self, Changed, Nothing};
use super::parameters::{Parameters, name};
use crate::http::access::Viewer;
use crate::http::problem::Problem;
use crate::http::shared_state::Handle;

/// `GET fleet`
pub async fn fleet(
    State(handle): State<Handle>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let phase = |text: &str| {
        Phase::of(text)
            .ok_or_else(|| format!("give one of {}", Phase::ALL.map(Phase::word).join(", ")))
    };
    let command = Command::Fleet {
        name: parameters.parsed("name")?,
        group: parameters.parsed("group")?,
        phase: parameters.value("phase", phase)?,
        behind: parameters.is_set("behind")?,
        after: parameters.parsed("after")?,
        limit: Some(parameters.limit()?),
        json: true,
    };
    let paging = Paging { field: "after", list: "/hosts", value: "/host", backwards: false };
    api_answers::page(&handle, &parameters, &command, paging).await
}

/// `GET hosts`
pub async fn list(
    State(handle): State<Handle>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let command = Command::Host(HostAction::List {
        after: parameters.parsed("after")?,
        limit: Some(parameters.limit()?),
        retired: parameters.is_set("retired")?,
        json: true,
    });
    let paging = Paging { field: "after", list: "/hosts", value: "/host", backwards: false };
    api_answers::page(&handle, &parameters, &command, paging).await
}

/// `GET hosts/{host}`
pub async fn why(
    State(handle): State<Handle>,
    Path(of): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let command = Command::Why { host: name(&of)?, name: parameters.parsed("name")?, json: true };
    api_answers::document(&handle, &command).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Hold {
    message: String,
}

/// `POST hosts/{host}/hold`
pub async fn hold(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let command = |Hold { message }: Hold, host| {
        if message.is_empty() {
            let text = "the field \"message\" is empty: give the reason for the hold";
            return Err(changing::bad(text));
        }
        Ok(Command::Host(HostAction::Hold(host, message)))
    };
    act(&handle, &viewer, &of, &headers, &bytes, command).await
}

/// `POST hosts/{host}/release`
pub async fn release(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let command = |Nothing {}, host| Ok(Command::Host(HostAction::Release(host)));
    act(&handle, &viewer, &of, &headers, &bytes, command).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Retry {
    /// The configuration to retry. `None` stands for all configurations of the host.
    configuration: Option<String>,
}

/// `POST hosts/{host}/retry`
pub async fn retry(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Path(of): Path<String>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Problem> {
    let command = |Retry { configuration }: Retry, host| {
        let name = configuration.map(|name| name.parse()).transpose();
        let name = name.map_err(|err: deploy_store::Error| changing::bad(err.to_string()))?;
        Ok(Command::Retry { name, host: Some(host) })
    };
    act(&handle, &viewer, &of, &headers, &bytes, command).await
}

/// The part of an answer that names the changed host.
#[derive(Debug, Serialize)]
struct OfHost {
    host: HostName,
}

async fn act<T: serde::de::DeserializeOwned + Default>(
    handle: &Handle,
    viewer: &Viewer,
    of: &str,
    headers: &HeaderMap,
    bytes: &Bytes,
    command: impl FnOnce(T, HostName) -> Result<Command, Problem>,
) -> Result<Response, Problem> {
    let actor = changing::actor(viewer, headers)?;
    let body: T = changing::body(headers, bytes)?;
    let shared = handle.shared().map_err(Problem::for_program)?;
    let host: HostName = name(of)?;
    let command = command(body, host.clone())?;
    let message = changing::run(&shared.registry, &actor, command).await?;
    Ok(axum::Json(Changed { message, thing: OfHost { host } }).into_response())
}
