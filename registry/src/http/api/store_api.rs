//! Answers requests about components and files with the verbs `components`, `showcomp`, `refs` and
//! `stat`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use deploy_wire::command::Command;

use super::api_answers::{self, Paging};
use super::parameters::{Parameters, name};
use crate::http::problem::Problem;
use crate::http::shared_state::Handle;

/// `GET components`
pub async fn components(
    State(handle): State<Handle>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let (after, limit) = (parameters.parsed("after")?, Some(parameters.limit()?));
    let command = Command::Components { after, limit, json: true };
    let paging = Paging { field: "after", list: "", value: "", backwards: false };
    api_answers::page(&handle, &parameters, &command, paging).await
}

/// `GET components/{name}`. The document has the newest versions, and lists the oldest of these
/// versions first.
pub async fn versions(
    State(handle): State<Handle>,
    Path(of): Path<String>,
    parameters: Parameters,
) -> Result<Response, Problem> {
    let (before, limit) = (parameters.parsed("before")?, Some(parameters.limit()?));
    let command = Command::ShowComponent { name: name(&of)?, before, limit, json: true };
    let paging = Paging { field: "before", list: "/versions", value: "/version", backwards: true };
    api_answers::page(&handle, &parameters, &command, paging).await
}

/// `GET refs/{hash}`
pub async fn references(
    State(handle): State<Handle>,
    Path(hash): Path<String>,
) -> Result<Response, Problem> {
    let none = |()| {
        let text = "a hash has 8 to 64 digits, 0 to 9 and a to f";
        Problem::new(StatusCode::NOT_FOUND, text).for_program()
    };
    let digest = hash.parse().map_err(none)?;
    api_answers::document(&handle, &Command::References { digest, json: true }).await
}

/// `GET stat`
pub async fn stat(State(handle): State<Handle>) -> Result<Response, Problem> {
    api_answers::document(&handle, &Command::Stat { registries: false, json: true }).await
}
