//! Finishes a deploy after the switch: sweeps old roots, makes room, and begins to make the next
//! spare root.

use deploy_store::Configuration;

use crate::agent::Agent;
use crate::space::{background_sweep, make_room, spare_builder};

/// The configuration that the switch replaced.
#[derive(Debug, Clone, Copy)]
pub(super) enum Left<'a> {
    /// The configuration that was deployed before, if any.
    Behind(Option<&'a Configuration>),
    /// The switch replaced nothing. The deployed configuration was deployed again, so no root
    /// became old.
    Nothing,
}

/// Finishes the switch to `new`. A failure in this function does not fail the deploy.
pub(super) async fn finish(agent: &Agent, left: Left<'_>, new: &Configuration) {
    if let Left::Behind(old) = left {
        background_sweep::roots(agent, old, new).await;
        make_room::tidy(agent).await;
    }
    spare_builder::prepare(agent, new);
}
