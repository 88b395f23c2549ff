//! Runs `rollback` and `rollback -release`. If an agent runs, the agent does the work. Otherwise
//! the subcommand does the work.

use anyhow::Result;
use deploy_store::disk::Lock;
use deploy_wire::exit;

use crate::commands::show;
use crate::commands::without_agent::alone;
use crate::control::protocol::{Answer, Request};
use crate::control::{ask, handler};
use crate::cycle::deploy_previous::{self, Released, RolledBack};
use crate::flags::Flags;
use crate::records::state_owner;
use crate::script::Script;

pub(super) fn run_rollback(flags: &Flags, json: bool) -> Result<u8> {
    let answer = ask::either(&flags.dir, &Request::Rollback, || roll_back_alone(flags))?;
    show(&answer, json, RolledBack::to_text)
}

pub(super) fn run_release(flags: &Flags, json: bool) -> Result<u8> {
    let answer = ask::either(&flags.dir, &Request::Release, || {
        let _lock = Lock::take(&flags.dir)?;
        let was_held = deploy_previous::release(&flags.dir)?;
        Ok(Answer::of(exit::OK, &Released { was_held }))
    })?;
    show(&answer, json, Released::to_text)
}

fn roll_back_alone(flags: &Flags) -> Result<Answer, ask::Error> {
    alone(flags, async |agent, session| {
        if let Err(err) = state_owner::check(&agent.dir, &agent.state) {
            return Answer::failed(exit::FAILED, err.to_string());
        }
        if let Some(Err(err)) = agent.script.as_ref().map(Script::find) {
            // Without the script, the rollback would fail later.
            return Answer::failed(exit::FAILED, format!("script {err}"));
        }
        handler::answer(deploy_previous::run(agent, session, None).await)
    })
}
