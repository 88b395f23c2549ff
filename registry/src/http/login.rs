//! Serves `/login`, which exchanges the token in the opened address for a cookie.

use axum::Extension;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::access::Access;
use super::guard::set_cookie;
use super::problem::Problem;

/// The query of the address.
#[derive(Debug, Deserialize)]
pub struct Token {
    #[serde(default)]
    token: String,
}

/// Logs in the browser, and redirects it to the first screen, so that the browser's address no
/// longer contains the token.
pub async fn log_in(
    Extension(access): Extension<Access>,
    Query(Token { token }): Query<Token>,
) -> Response {
    let logged_out = || Problem::new(StatusCode::UNAUTHORIZED, "").logged_out();
    let Access::Ssh { sessions, .. } = access else {
        return Problem::not_found().into_response();
    };
    let Some(cookie) = sessions.log_in(&token) else { return logged_out().into_response() };
    let cookie = set_cookie(sessions.cookie_name(), &cookie);
    (StatusCode::SEE_OTHER, [(SET_COOKIE, cookie), (LOCATION, "/".to_owned())]).into_response()
}
