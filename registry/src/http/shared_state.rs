//! Defines the state that all requests share.

use std::sync::{Arc, Weak};

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use super::live::Live;
use super::problem::Problem;
use crate::registry::Registry;

/// The state that all requests share.
#[derive(Debug)]
pub struct Shared {
    /// The registry.
    pub registry: Arc<Registry>,
    /// The pages that browsers show.
    pub live: Arc<Live>,
    /// The permits to render screens. A request without a permit waits.
    pub screens: Semaphore,
}

/// The registry renders screens for at most this many requests at the same time. The limit keeps
/// many browsers from using all memory.
pub const SCREENS: usize = 2;

/// A weak reference to the shared state, for the functions that answer requests.
#[derive(Debug, Clone, Default)]
pub struct Handle(Weak<Shared>);

impl Handle {
    /// A weak reference to `shared`.
    pub fn of(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }

    /// The shared state. While the process stops, there is no shared state, and the function returns
    /// a problem.
    pub fn shared(&self) -> Result<Arc<Shared>, Problem> {
        let gone = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the registry is stopping");
        self.0.upgrade().ok_or_else(gone)
    }
}
