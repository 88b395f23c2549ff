//! Serving the requests of subcommands, between two cycles.

use deploy_store::{Configuration, Digest};
use deploy_wire::exit;

use crate::agent::Agent;
use crate::blocking;
use crate::cache_repair;
use crate::control::control_socket::Asked;
use crate::control::exit_codes;
use crate::control::protocol::{Answer, Request};
use crate::cycle::deploy_previous::{self, Released};
use crate::error::Error;
use crate::fetch::registry_session::Session;
use crate::records::rollback_hold::RollbackHold;
use crate::space::collection;

/// What the loop is to do after a request.
#[derive(Debug)]
pub enum Next {
    /// What it would have done.
    Wait,
    /// Another configuration is deployed, or is to be: look at the registry.
    Look,
    /// Look at the registry, and tell how that went.
    Sync(Asked),
}

/// Serves one request. `pending` is what waits for its script, `offered` what the
/// registry had at the last look.
pub async fn serve(
    agent: &Agent,
    session: &mut Session,
    asked: Asked,
    pending: Option<&Configuration>,
    offered: Option<Digest>,
) -> Next {
    let (answer, next) = match &asked.request {
        Request::Sync => return Next::Sync(asked),
        Request::Gc { dry_run, taken_over } => {
            let done = collection::beside(agent, pending, *dry_run, *taken_over).await;
            let done = done.map_err(Error::from);
            (answer(done), Next::Wait)
        }
        Request::Rollback => {
            (answer(deploy_previous::run(agent, session, offered).await), Next::Look)
        }
        Request::Release => {
            let dir = agent.dir.clone();
            let done = blocking::run(move || RollbackHold::lift(&dir)).await;
            let done = done.map(|was_held| Released { was_held }).map_err(Error::from);
            (answer(done), Next::Look)
        }
        Request::Repair { damaged } => {
            (answer(cache_repair::run(agent, session, pending, damaged).await), Next::Look)
        }
    };
    asked.answer(answer);
    next
}

/// What was done, or why it was not.
pub fn answer<T: serde::Serialize>(done: Result<T, Error>) -> Answer {
    match done {
        Ok(done) => Answer::of(exit::OK, &done),
        Err(err) => Answer::failed(exit_codes::of(&err), err.to_string()),
    }
}
