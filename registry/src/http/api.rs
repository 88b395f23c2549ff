//! Serves `/api/v1`, the API for programs.
//!
//! The answer to a `GET` is the document that a verb of the console prints with `-json`. There are
//! two exceptions: no verb prints `openapi.json`, and the answer to `events` is one list instead of
//! lines. Each change is a command of the console. [`openapi`] describes all addresses.
//!
//! ```text
//! parameters           reads paths and queries
//! api_answers          runs verbs that only show data
//! changing             checks and runs changes
//! openapi              describes the API
//! configurations_api, rollouts_api, hosts_api, store_api, records_api
//!                      answer the requests
//! ```

mod api_answers;
mod changing;
mod configurations_api;
mod hosts_api;
mod openapi;
mod parameters;
mod records_api;
mod rollouts_api;
mod store_api;

use axum::Router;
use axum::http::Uri;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, any, get, patch, post};

use super::problem::{PROBLEM_JSON, Problem};
use super::shared_state::Handle;

/// The path of each address begins with this text.
const TOP: &str = "/api/v1";

/// Each address, written as in `openapi.json`, with the functions that answer its methods.
fn table() -> Vec<(&'static str, MethodRouter<Handle>)> {
    vec![
        ("/openapi.json", get(openapi::get)),
        ("/fleet", get(hosts_api::fleet)),
        ("/hosts", get(hosts_api::list)),
        ("/hosts/{host}", get(hosts_api::why)),
        ("/hosts/{host}/hold", post(hosts_api::hold)),
        ("/hosts/{host}/release", post(hosts_api::release)),
        ("/hosts/{host}/retry", post(hosts_api::retry)),
        ("/configurations", get(configurations_api::list)),
        (
            "/configurations/{name}",
            get(configurations_api::show).merge(patch(configurations_api::change)),
        ),
        ("/configurations/{name}/history", get(configurations_api::history)),
        ("/configurations/{name}/rollback", post(configurations_api::roll_back)),
        ("/rollouts", get(rollouts_api::list)),
        ("/rollouts/{name}", get(rollouts_api::last)),
        ("/rollouts/{name}/{number}", get(rollouts_api::one)),
        ("/rollouts/{name}/pause", post(rollouts_api::pause)),
        ("/rollouts/{name}/resume", post(rollouts_api::resume)),
        ("/rollouts/{name}/abort", post(rollouts_api::abort)),
        ("/rollouts/{name}/skip-soak", post(rollouts_api::skip_soak)),
        ("/components", get(store_api::components)),
        ("/components/{name}", get(store_api::versions)),
        ("/refs/{hash}", get(store_api::references)),
        ("/stat", get(store_api::stat)),
        ("/audit", get(records_api::audit)),
        ("/events", get(records_api::events)),
        ("/windows", get(records_api::windows)),
    ]
}

pub(super) fn routes() -> Router<Handle> {
    let router = Router::new().route("/api/{*rest}", any(nothing));
    table()
        .into_iter()
        .fold(router, |router, (path, methods)| router.route(&format!("{TOP}{path}"), methods))
}

/// Turns each answer with an error status into a problem for programs, for example if a request was
/// too large or took too long. The answer keeps headers such as `Allow`.
pub(super) fn with_problems(router: Router<Handle>) -> Router<Handle> {
    router.layer(map_response(as_problem))
}

async fn as_problem(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let has_problem = response.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON);
    if !is_error || has_problem {
        return response;
    }
    let detail = match status.as_u16() {
        405 => "the address does not support this method; see the header Allow",
        413 => "the body of the request is too large",
        503 => "the registry did not answer in time; try again later",
        _ => "the request is malformed",
    };
    let mut problem = Problem::new(status, detail).for_program().into_response();
    for (name, value) in response.headers() {
        if name != CONTENT_TYPE && name != CONTENT_LENGTH {
            problem.headers_mut().insert(name.clone(), value.clone());
        }
    }
    problem
}

async fn nothing(uri: Uri) -> Problem {
    Problem::not_found().of(&uri)
}

#[cfg(test)]
mod tests;
