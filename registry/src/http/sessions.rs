//! Keeps the logins to the page through one ssh connection. The logins end when the connection
//! ends.
//!
//! The verb `web` makes an address with a token. The browser that opens the address gets a cookie
//! in exchange for the token. A token works once. Other programs send the bearer token of the
//! connection instead of a cookie.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use deploy_store::Digest;
use jiff::Timestamp;
use serde::Serialize;

use super::secret::Secret;

/// Maximum number of unused tokens of a connection. A newer token replaces the oldest.
const MAX_TOKENS: usize = 16;
/// Maximum number of browsers logged in over a connection. A newer login replaces the oldest.
const MAX_BROWSERS: usize = 16;

/// How to open the page. The verb `web` prints this value as a JSON document.
#[derive(Debug, Clone, Serialize)]
pub struct Login {
    /// The address to open in a browser.
    pub address: String,
    /// The token for programs, which send it in the header `Authorization: Bearer`.
    pub bearer: String,
}

/// The logins of one ssh connection.
#[derive(Debug)]
pub struct Sessions {
    /// The name of the cookie. A browser sends the same cookies to all ports of a host, so the
    /// cookies of two connections have different names.
    cookie: String,
    secret: Secret,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The digests of unused tokens, oldest first.
    tokens: VecDeque<Digest>,
    /// The digests of the logged-in browsers' cookies, with the times of the logins.
    browsers: HashMap<Digest, Timestamp>,
}

impl Sessions {
    /// The empty set of logins of a new connection.
    pub fn new() -> std::io::Result<Self> {
        let secret = Secret::new()?;
        let cookie = format!("deploy_{}", &secret.derived("cookie")[..8]);
        Ok(Self { cookie, secret, inner: Mutex::default() })
    }

    /// The name of the cookie.
    pub fn cookie_name(&self) -> &str {
        &self.cookie
    }

    /// Makes a login for a browser on the user's host. The browser reaches the page through `port`.
    pub fn issue(&self, port: u16) -> std::io::Result<Login> {
        let token = Secret::new()?;
        let mut inner = self.inner();
        if inner.tokens.len() >= MAX_TOKENS {
            inner.tokens.pop_front();
        }
        inner.tokens.push_back(token.digest());
        let address = format!("http://localhost:{port}/login?token={}", token.text());
        Ok(Login { address, bearer: self.secret.derived("bearer") })
    }

    /// Logs in a browser that presents `token`. Returns the browser's cookie.
    pub fn log_in(&self, token: &str) -> Option<String> {
        let token = Digest::of(token.as_bytes());
        let cookie = Secret::new().ok()?;
        let mut inner = self.inner();
        let found = inner.tokens.iter().position(|known| *known == token)?;
        inner.tokens.remove(found);
        if inner.browsers.len() >= MAX_BROWSERS {
            let oldest = inner.browsers.iter().min_by_key(|(_, time)| **time);
            if let Some(oldest) = oldest.map(|(digest, _)| *digest) {
                inner.browsers.remove(&oldest);
            }
        }
        inner.browsers.insert(cookie.digest(), Timestamp::now());
        Some(cookie.text().to_owned())
    }

    /// Whether a browser with this cookie is logged in.
    pub fn has_cookie(&self, cookie: &str) -> bool {
        self.inner().browsers.contains_key(&Digest::of(cookie.as_bytes()))
    }

    /// Whether this is the bearer token of the connection.
    pub fn is_bearer(&self, token: &str) -> bool {
        let known = self.secret.derived("bearer");
        Digest::of(known.as_bytes()) == Digest::of(token.as_bytes())
    }

    /// The token that each change of a browser with this cookie must contain.
    pub fn form_token(&self, cookie: &str) -> String {
        self.secret.derived(&format!("form {cookie}"))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(sessions: &Sessions) -> String {
        let login = sessions.issue(8080).unwrap();
        login.address.split_once("token=").unwrap().1.to_owned()
    }

    #[test]
    fn token_logs_in_once() {
        let sessions = Sessions::new().unwrap();
        let token = token(&sessions);
        let cookie = sessions.log_in(&token).unwrap();
        assert!(sessions.has_cookie(&cookie) && !sessions.has_cookie(&token));
        assert_eq!(sessions.log_in(&token), None);
        assert_eq!(sessions.log_in(""), None);
    }

    #[test]
    fn logins_of_one_connection_are_invalid_on_another() {
        let (one, other) = (Sessions::new().unwrap(), Sessions::new().unwrap());
        let cookie = one.log_in(&token(&one)).unwrap();
        assert!(!other.has_cookie(&cookie));
        assert_eq!(other.log_in(&token(&one)), None);
        let bearer = one.issue(8080).unwrap().bearer;
        assert!(one.is_bearer(&bearer) && !other.is_bearer(&bearer));
        assert_ne!(one.form_token(&cookie), other.form_token(&cookie));
        assert_ne!(one.cookie_name(), other.cookie_name());
    }

    #[test]
    fn new_tokens_and_browsers_replace_the_oldest() {
        let sessions = Sessions::new().unwrap();
        let tokens: Vec<String> = (0..=MAX_TOKENS).map(|_| token(&sessions)).collect();
        assert_eq!(sessions.log_in(&tokens[0]), None);
        let cookies: Vec<String> =
            tokens[1..].iter().map(|token| sessions.log_in(token).unwrap()).collect();
        let more = sessions.log_in(&token(&sessions)).unwrap();
        assert!(sessions.has_cookie(&more));
        let left = cookies.iter().filter(|cookie| sessions.has_cookie(cookie)).count();
        assert_eq!(left, MAX_BROWSERS - 1);
    }
}
