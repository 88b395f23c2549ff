//! Serves the requests of subcommands between two cycles.

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
use crate::space::collection;

/// What the polling loop does after a request.
#[derive(Debug)]
pub enum Next {
    /// Continue to wait for the next poll.
    Wait,
    /// Poll now, because the request may have changed what to deploy, or may have repaired damage.
    Poll,
    /// Poll now, and answer this request with the result of the poll.
    Sync(Asked),
}

/// Serves one request. `pending` is the configuration whose script failed last, if any. `offered`
/// is the id of the registry's configuration at the last poll.
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
            (answer(deploy_previous::run(agent, session, offered).await), Next::Poll)
        }
        Request::Release => {
            let dir = agent.dir.clone();
            let done = blocking::run(move || deploy_previous::release(&dir)).await;
            let done = done.map(|was_held| Released { was_held }).map_err(Error::from);
            (answer(done), Next::Poll)
        }
        Request::Repair { damaged } => {
            (answer(cache_repair::run(agent, session, pending, damaged).await), Next::Poll)
        }
    };
    asked.answer(answer);
    next
}

/// Makes the answer from `done`, the result of a request.
pub fn answer<T: serde::Serialize>(done: Result<T, Error>) -> Answer {
    match done {
        Ok(done) => Answer::of(exit::OK, &done),
        Err(err) => Answer::failed(exit_codes::of(&err), err.to_string()),
    }
}
