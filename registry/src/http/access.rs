//! Describes where a request comes from, and what the sender of the request may do.

use std::net::IpAddr;
use std::sync::Arc;

use axum::http::HeaderName;

use super::secret::Secret;
use super::sessions::Sessions;
use crate::caller::{Caller, Client};

/// How requests reach the registry.
#[derive(Debug, Clone)]
pub enum Access {
    /// Through an ssh connection of an operator.
    Ssh {
        /// The operator.
        caller: Caller,
        /// The logins of the connection.
        sessions: Arc<Sessions>,
    },
    /// Through the port of `-http`.
    Port {
        /// The settings of the port.
        port: Arc<PortAccess>,
        /// The address of the client.
        peer: IpAddr,
    },
}

/// The settings of the port of `-http`.
#[derive(Debug)]
pub struct PortAccess {
    /// The header in which a proxy names the user who acts. `None` makes the page read-only.
    pub user_header: Option<HeaderName>,
    /// The addresses of the proxies that the registry trusts to name users.
    pub proxies: Vec<IpAddr>,
    /// The host names under which browsers may open the page, in addition to IP addresses and
    /// `localhost`.
    pub hosts: Vec<String>,
    pub(super) secret: Secret,
}

impl PortAccess {
    /// Makes the settings of a port, with a new random secret. Fails if the system gives no random
    /// bytes.
    pub fn new(
        user_header: Option<HeaderName>,
        proxies: Vec<IpAddr>,
        hosts: Vec<String>,
    ) -> std::io::Result<Self> {
        Ok(Self { user_header, proxies, hosts, secret: Secret::new()? })
    }
}

/// The caller that a proxy at `peer` names.
pub(super) fn caller_of_proxy(user: &str, peer: IpAddr) -> Caller {
    let key = format!("http proxy {user}");
    Caller { user: user.to_owned(), key, address: peer.to_string(), client: Client::Web }
}

/// The sender of a request that passed the guard.
#[derive(Debug, Clone)]
pub struct Viewer {
    /// The user who may change things. With `None`, the viewer may only read.
    pub actor: Option<Arc<Actor>>,
}

/// A user who may change things.
#[derive(Debug)]
pub struct Actor {
    /// The user.
    pub caller: Caller,
    /// The token that each change of the user must contain, in a form or in a header.
    pub form_token: String,
    /// Whether the request has a bearer token instead of a cookie. No page of another origin can
    /// send a bearer token, so such a request needs no form token.
    pub has_bearer: bool,
}

impl Viewer {
    /// Whether the viewer may change things.
    pub fn may_act(&self) -> bool {
        self.actor.is_some()
    }

    /// The name of the viewer, the key, and the kind of access, for the head of the page.
    pub fn who(&self) -> (String, String, &'static str) {
        let Some(actor) = &self.actor else {
            return ("read-only".to_owned(), String::new(), "through -http");
        };
        let Caller { user, key, .. } = &actor.caller;
        match key.split_once(' ') {
            Some((fingerprint, comment)) if fingerprint.len() > 15 => {
                let (start, end) = (&fingerprint[..11], &fingerprint[fingerprint.len() - 4..]);
                (format!("{user} ({comment})"), format!("{start}…{end}"), "through ssh")
            }
            _ => (user.clone(), String::new(), "through a proxy"),
        }
    }
}
