use axum::http::header::{AUTHORIZATION, COOKIE};

use super::*;
use crate::caller::Client;

const PROXY: [u8; 4] = [127, 0, 0, 1];

fn caller() -> Caller {
    let key = "SHA256:abcdefghijklmnopqrstuvwxyz anna@laptop".to_owned();
    Caller { user: "anna".to_owned(), key, address: "10.0.0.1:4".to_owned(), client: Client::Ssh }
}

/// Access through ssh, the cookie of a logged-in browser, and the bearer token of the connection.
fn through_ssh() -> (Access, String, String) {
    let sessions = Arc::new(Sessions::new().unwrap());
    let login = sessions.issue(8080).unwrap();
    let token = login.address.split_once("token=").unwrap().1;
    let cookie = format!("{}={}", sessions.cookie_name(), sessions.log_in(token).unwrap());
    (Access::Ssh { caller: caller(), sessions }, cookie, login.bearer)
}

fn through_port(peer: [u8; 4]) -> Access {
    let header = Some("x-forwarded-user".parse().unwrap());
    let hosts = vec!["deploy.example".to_owned()];
    let port = PortAccess::new(header, vec![PROXY.into()], hosts).unwrap();
    Access::Port { port: Arc::new(port), peer: peer.into() }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: axum::http::HeaderName = name.parse().unwrap();
        headers.append(name, value.parse().unwrap());
    }
    headers
}

/// Whether the request passes, and whether its sender may act.
fn decided(
    access: &Access,
    method: &Method,
    path: &str,
    pairs: &[(&str, &str)],
) -> Result<bool, Denied> {
    decide(access, method, &path.parse().unwrap(), &headers(pairs))
        .map(|(viewer, _)| viewer.may_act())
}

#[test]
fn requests_through_ssh_need_a_cookie_or_a_bearer_token() {
    let (access, cookie, bearer) = through_ssh();
    let (_, other, _) = through_ssh();
    let get = |pairs: &[(&str, &str)]| decided(&access, &Method::GET, "/", pairs);
    let host = ("host", "localhost:8080");
    assert_eq!(get(&[host, (COOKIE.as_str(), &cookie)]), Ok(true));
    assert_eq!(get(&[host, (COOKIE.as_str(), &format!("a=b; {cookie}"))]), Ok(true));
    assert_eq!(get(&[host]), Err(Denied::LoggedOut));
    assert_eq!(get(&[host, (COOKIE.as_str(), &other)]), Err(Denied::LoggedOut));
    assert_eq!(get(&[host, (AUTHORIZATION.as_str(), &format!("Bearer {bearer}"))]), Ok(true));
    assert_eq!(get(&[host, (AUTHORIZATION.as_str(), "Bearer x")]), Err(Denied::LoggedOut));
    for open in ["/login?token=x", "/assets/x.css"] {
        assert_eq!(decided(&access, &Method::GET, open, &[host]), Ok(false), "{open}");
    }
}

#[test]
fn foreign_host_names_are_refused_against_dns_rebinding() {
    let (access, cookie, _) = through_ssh();
    for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "10.0.0.1", ""] {
        let pairs = [("host", host), (COOKIE.as_str(), &cookie)];
        assert_eq!(decided(&access, &Method::GET, "/", &pairs), Err(Denied::Host), "{host}");
    }
    for host in ["localhost", "127.0.0.1:9", "[::1]:9"] {
        let pairs = [("host", host), (COOKIE.as_str(), &cookie)];
        assert_eq!(decided(&access, &Method::GET, "/", &pairs), Ok(true), "{host}");
    }
    let port = through_port([10, 0, 0, 9]);
    for (host, want) in [
        ("deploy.example:8022", Ok(false)),
        ("DEPLOY.example", Ok(false)),
        ("10.1.2.3:8022", Ok(false)),
        ("[fe80::1]:8022", Ok(false)),
        ("evil.example", Err(Denied::Host)),
    ] {
        assert_eq!(decided(&port, &Method::GET, "/", &[("host", host)]), want, "{host}");
    }
    // Monitoring systems may use any name for the registry.
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(decided(&port, &Method::GET, path, &[("host", "evil.example")]), Ok(false));
        assert_eq!(
            decided(&access, &Method::GET, path, &[("host", "evil.example")]),
            Err(Denied::Host)
        );
    }
    let twice = [("host", "localhost"), ("host", "localhost"), (COOKIE.as_str(), &cookie)];
    assert_eq!(decided(&access, &Method::GET, "/", &twice), Err(Denied::Host));
}

#[test]
fn changes_need_the_origin_of_the_page() {
    let (access, cookie, bearer) = through_ssh();
    let host = ("host", "localhost:8080");
    let cookie = (COOKIE.as_str(), &*cookie);
    let post = |pairs: &[(&str, &str)]| decided(&access, &Method::POST, "/run", pairs);
    assert_eq!(post(&[host, cookie, ("origin", "http://localhost:8080")]), Ok(true));
    for origin in ["http://localhost:8081", "http://evil.example", "null", "localhost:8080"] {
        assert_eq!(post(&[host, cookie, ("origin", origin)]), Err(Denied::Origin), "{origin}");
    }
    assert_eq!(post(&[host, cookie]), Err(Denied::Origin));
    let site = |site| [host, cookie, ("origin", "http://localhost:8080"), ("sec-fetch-site", site)];
    assert_eq!(post(&site("same-origin")), Ok(true));
    assert_eq!(post(&site("same-site")), Err(Denied::Origin));
    // A program sends no origin, and no page of another origin can send the program's token.
    let bearer = format!("Bearer {bearer}");
    assert_eq!(post(&[host, (AUTHORIZATION.as_str(), &bearer)]), Ok(true));
    for method in [Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS] {
        assert_eq!(decided(&access, &method, "/run", &[host, cookie]), Err(Denied::Origin));
    }
}

#[test]
fn only_a_known_proxy_names_the_user_who_acts() {
    let host = ("host", "deploy.example");
    let user = ("x-forwarded-user", "anna");
    let origin = ("origin", "https://deploy.example");
    let post =
        |access: &Access, pairs: &[(&str, &str)]| decided(access, &Method::POST, "/run", pairs);
    let (proxy, other) = (through_port(PROXY), through_port([10, 0, 0, 9]));
    assert_eq!(post(&proxy, &[host, user, origin]), Ok(true));
    assert_eq!(post(&other, &[host, user, origin]), Err(Denied::ReadOnly));
    assert_eq!(post(&proxy, &[host, origin]), Err(Denied::ReadOnly));
    assert_eq!(post(&proxy, &[host, user]), Err(Denied::Origin));
    assert_eq!(post(&proxy, &[host, user, user, origin]), Err(Denied::ReadOnly));
    assert_eq!(post(&proxy, &[host, ("x-forwarded-user", ""), origin]), Err(Denied::ReadOnly));
    // The port accepts no bearer tokens.
    let bearer = (AUTHORIZATION.as_str(), "Bearer x");
    assert_eq!(post(&proxy, &[host, bearer]), Err(Denied::ReadOnly));
}

#[test]
fn form_token_belongs_to_the_user_and_the_browser() {
    let access = through_port(PROXY);
    let token = |pairs: &[(&str, &str)]| {
        let all = [&[("host", "deploy.example")], pairs].concat();
        let uri = "/".parse().unwrap();
        let (viewer, cookie) = decide(&access, &Method::GET, &uri, &headers(&all)).unwrap();
        (viewer.actor.unwrap().form_token.clone(), cookie)
    };
    let (anna, ben) = (("x-forwarded-user", "anna"), ("x-forwarded-user", "ben"));
    let cookie = ("cookie", "deploy_page=1");
    let (first, new) = token(&[anna]);
    assert!(new.unwrap().ends_with("; Path=/; HttpOnly; SameSite=Strict"));
    assert_ne!(first, token(&[anna]).0);
    assert_eq!(token(&[anna, cookie]), (token(&[anna, cookie]).0, None));
    assert_ne!(token(&[anna, cookie]).0, token(&[ben, cookie]).0);
}
