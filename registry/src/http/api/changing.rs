//! Checks and runs a change.

use std::sync::Arc;

use axum::body::Bytes;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use deploy_store::Digest;
use deploy_wire::command::Command;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::caller::{Caller, Client};
use crate::console;
use crate::http::access::{Actor, Viewer};
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The header with the form token of a browser.
const CSRF: &str = "x-csrf-token";

/// The answer to a change.
#[derive(Debug, Serialize)]
pub struct Changed<T> {
    /// The text that the verb prints; empty if the verb prints nothing.
    pub message: String,
    /// The configuration, rollout or host after the change.
    #[serde(flatten)]
    pub thing: T,
}

/// The body of a change whose only field is the reason.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reason {
    /// Why the operator makes the change.
    #[serde(default)]
    pub message: String,
}

/// The body of a change that has no fields.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// The user who sends the change. If the user is logged in with a cookie, the header `x-csrf-token`
/// must hold the form token of this login.
pub fn actor(viewer: &Viewer, headers: &HeaderMap) -> Result<Arc<Actor>, Problem> {
    let denied = |text: &str| Problem::new(StatusCode::FORBIDDEN, text).for_program();
    let read_only =
        "the API is read-only here; use deployctl web, or a proxy with -http-user-header";
    let actor = viewer.actor.clone().ok_or_else(|| denied(read_only))?;
    let token = headers.get(CSRF).map(axum::http::HeaderValue::as_bytes).unwrap_or_default();
    let has_token = Digest::of(token) == Digest::of(actor.form_token.as_bytes());
    if actor.has_bearer || has_token {
        return Ok(actor);
    }
    Err(denied("a login with a cookie needs the header x-csrf-token with the token of a form"))
}

/// The body of a change. Without a body, all fields have their defaults.
pub fn body<T: DeserializeOwned + Default>(
    headers: &HeaderMap,
    bytes: &Bytes,
) -> Result<T, Problem> {
    let kind = headers.get(CONTENT_TYPE).map(|kind| kind.to_str().unwrap_or_default());
    if bytes.is_empty() && kind.is_none() {
        return Ok(T::default());
    }
    let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let text = "the body of a change must be JSON, with the header Content-Type: \
                    application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).for_program());
    }
    // This step refuses lists. Without it, serde would accept a list of the field values in order.
    let object: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|err| malformed(&err))?;
    T::deserialize(Value::Object(object)).map_err(|err| malformed(&err))
}

fn malformed(err: &serde_json::Error) -> Problem {
    bad(format!("the body is malformed: {err}"))
}

/// The problem of a change whose body has a malformed value.
pub fn bad(text: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, text).for_program()
}

/// Runs the command, and returns its text. The command runs to its end even if the client
/// disconnects.
pub async fn run(
    registry: &Arc<Registry>,
    actor: &Actor,
    command: Command,
) -> Result<String, Problem> {
    let caller = Caller { client: Client::Web, ..actor.caller.clone() };
    let registry = Arc::clone(registry);
    let running = tokio::spawn(async move { console::perform(&registry, &caller, &command).await });
    let done = running.await.map_err(|err| {
        tracing::error!("internal error while running a command: {err}");
        let text = "internal error; see the registry's log";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, text).for_program()
    })?;
    done.map_err(|refusal| Problem::from(refusal).for_program())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(kind: Option<&'static str>, text: &'static str) -> Option<StatusCode> {
        let mut headers = HeaderMap::new();
        if let Some(kind) = kind {
            headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        }
        body::<Reason>(&headers, &Bytes::from_static(text.as_bytes())).err().map(|err| err.status())
    }

    #[test]
    fn body_is_a_json_object_with_known_fields_only() {
        assert_eq!(status_of(None, ""), None);
        assert_eq!(status_of(Some("application/json"), "{}"), None);
        assert_eq!(status_of(Some("Application/JSON; charset=utf-8"), "{\"message\":\"x\"}"), None);
        for text in ["", "{", "[]", "null", "{\"message\":1}", "{\"other\":\"\"}"] {
            let status = status_of(Some("application/json"), text);
            assert_eq!(status, Some(StatusCode::BAD_REQUEST), "{text}");
        }
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
            assert_eq!(status_of(kind, "{}"), Some(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{kind:?}");
        }
    }
}
