//! Checks the host, the origin and the login of each request before anything else happens.
//!
//! A page of another origin in the same browser can send requests to the registry's page. The guard
//! recognises such requests. A page of another site sends no cookie (`SameSite=Strict`). A change
//! from a page of another origin has a foreign `Origin`. After DNS rebinding, each request has a
//! foreign `Host`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::access::{Access, Actor, PortAccess, Viewer, caller_of_proxy};
use super::problem::Problem;
use super::secret::Secret;
use super::sessions::Sessions;
use crate::caller::Caller;

/// The header in which browsers say whether a request comes from a page of the same origin.
const FETCH_SITE: &str = "sec-fetch-site";
/// The name of the cookie that the port of `-http` sets. The form token depends on this cookie.
const PROXY_COOKIE: &str = "deploy_page";

/// Why the guard refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// The request is for an unknown host name.
    Host,
    /// The request does not come from a page of this host.
    Origin,
    /// The sender is not logged in.
    LoggedOut,
    /// The sender may read, but may not change things.
    ReadOnly,
}

/// Lets a request pass with its [`Viewer`], or answers the request with a refusal.
pub async fn check(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let checked = decide(&access, request.method(), request.uri(), request.headers());
    match checked {
        Ok((viewer, cookie)) => {
            request.extensions_mut().insert(viewer);
            request.extensions_mut().insert(access);
            let mut response = next.run(request).await;
            if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
                response.headers_mut().append(SET_COOKIE, cookie);
            }
            response
        }
        Err(denied) => refusal(denied, &access, &request).into_response(),
    }
}

fn refusal(denied: Denied, access: &Access, request: &Request) -> Problem {
    let (status, what) = match denied {
        Denied::Host => (
            StatusCode::MISDIRECTED_REQUEST,
            match access {
                Access::Ssh { .. } => {
                    "the address names another host; open the page as http://localhost:PORT"
                }
                Access::Port { .. } => {
                    "the address names another host; open the page by its IP address, or start \
                     the registry with -http-host NAME"
                }
            },
        ),
        Denied::Origin => (
            StatusCode::FORBIDDEN,
            "the request does not come from the registry's own page; open that page, and make the \
             change there",
        ),
        Denied::LoggedOut => (StatusCode::UNAUTHORIZED, ""),
        Denied::ReadOnly => (
            StatusCode::FORBIDDEN,
            "the page is read-only here; use deployctl web, or a proxy with -http-user-header",
        ),
    };
    let problem = Problem::new(status, what).of(request.uri());
    if denied == Denied::LoggedOut { problem.logged_out() } else { problem }
}

/// The sender of a request and a cookie to set, or why the guard refuses the request.
pub fn decide(
    access: &Access,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(Viewer, Option<String>), Denied> {
    let path = uri.path();
    let is_open = is_open(access, path);
    let host = header(headers, HOST.as_str()).unwrap_or_default();
    if !(is_open || is_known_host(access, host)) {
        return Err(Denied::Host);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let bearer = bearer(headers);
    if !reads && bearer.is_none() && !is_same_origin(headers, host) {
        return Err(Denied::Origin);
    }
    if is_open {
        return Ok((Viewer { actor: None }, None));
    }
    let (viewer, cookie) = match access {
        Access::Ssh { caller, sessions } => {
            let actor = through_ssh(caller, sessions, headers, bearer).ok_or(Denied::LoggedOut)?;
            (Viewer { actor: Some(Arc::new(actor)) }, None)
        }
        Access::Port { port, peer } => through_port(port, *peer, headers),
    };
    if !reads && !viewer.may_act() {
        return Err(Denied::ReadOnly);
    }
    Ok((viewer, cookie))
}

/// Whether anybody may read the path without a login, and under any host name.
fn is_open(access: &Access, path: &str) -> bool {
    match access {
        Access::Ssh { .. } => path == "/login" || path.starts_with("/assets/"),
        Access::Port { .. } => matches!(path, "/metrics" | "/healthz" | "/readyz"),
    }
}

fn is_known_host(access: &Access, host: &str) -> bool {
    let name = name_of(host);
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    match access {
        Access::Ssh { .. } => matches!(name, "localhost" | "127.0.0.1" | "[::1]"),
        // DNS rebinding needs a name, so an IP address is safe.
        Access::Port { port, .. } => {
            is_address
                || name == "localhost"
                || port.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
        }
    }
}

/// The host without its port.
fn name_of(host: &str) -> &str {
    match host.rfind(']') {
        Some(end) => &host[..=end],
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// Whether the request comes from a page of this host. A browser always sends `Origin` with a
/// change.
fn is_same_origin(headers: &HeaderMap, host: &str) -> bool {
    let origin = header(headers, ORIGIN.as_str()).unwrap_or_default();
    let of = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let site = header(headers, FETCH_SITE);
    of.is_some_and(|of| of.eq_ignore_ascii_case(host))
        && site.is_none_or(|site| site == "same-origin")
}

fn through_ssh(
    caller: &Caller,
    sessions: &Sessions,
    headers: &HeaderMap,
    bearer: Option<&str>,
) -> Option<Actor> {
    if let Some(bearer) = bearer {
        let caller = caller.clone();
        let actor = Actor { caller, form_token: String::new(), has_bearer: true };
        return sessions.is_bearer(bearer).then_some(actor);
    }
    let cookie = cookie(headers, sessions.cookie_name())?;
    let form_token = sessions.form_token(cookie);
    let actor = Actor { caller: caller.clone(), form_token, has_bearer: false };
    sessions.has_cookie(cookie).then_some(actor)
}

/// The viewer who sends a request to the port. If a proxy names the user and the browser has no
/// cookie, also returns a new cookie.
fn through_port(port: &PortAccess, peer: IpAddr, headers: &HeaderMap) -> (Viewer, Option<String>) {
    let user = port.user_header.as_ref().and_then(|name| header(headers, name.as_str()));
    let user = user.filter(|user| is_user(user) && port.proxies.contains(&peer.to_canonical()));
    let Some(user) = user else { return (Viewer { actor: None }, None) };
    let known = cookie(headers, PROXY_COOKIE).map(str::to_owned);
    let (value, new) = match known.or_else(|| Some(Secret::new().ok()?.text().to_owned())) {
        Some(value) => {
            let new = cookie(headers, PROXY_COOKIE).is_none();
            (value.clone(), new.then(|| set_cookie(PROXY_COOKIE, &value)))
        }
        None => return (Viewer { actor: None }, None),
    };
    let form_token = port.secret.derived(&format!("{user} {value}"));
    let actor = Actor { caller: caller_of_proxy(user, peer), form_token, has_bearer: false };
    (Viewer { actor: Some(Arc::new(actor)) }, new)
}

/// Whether the text that a proxy sends can be the name of a user.
fn is_user(user: &str) -> bool {
    (1..=256).contains(&user.len()) && !user.contains(char::is_control)
}

/// The value of `Set-Cookie`. Browsers do not send the cookie with requests that pages of other
/// sites make, and scripts cannot read the cookie.
pub fn set_cookie(name: &str, value: &str) -> String {
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict")
}

/// The value of a header that occurs exactly once.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let one = all.next()?;
    if all.next().is_some() { None } else { one.to_str().ok() }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    header(headers, AUTHORIZATION.as_str())?.strip_prefix("Bearer ")
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let all = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = all.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests;
