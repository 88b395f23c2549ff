//! Runs `sync`, which asks the running agent to poll the registry. If no agent runs, `sync` fails.

use anyhow::Result;
use deploy_store::disk::Lock;
use deploy_wire::exit;

use crate::commands::show;
use crate::control::ask;
use crate::control::protocol::{Answer, Request};
use crate::control::sync_answer::Synced;
use crate::flags::Flags;

pub(super) fn run_sync(flags: &Flags, json: bool) -> Result<u8> {
    let answer = ask::either(&flags.dir, &Request::Sync, || {
        // An agent with `-once` has no socket, but holds the lock. In this case, the attempt to
        // take the lock fails, and the error says that the directory is in use.
        let _lock = Lock::take(&flags.dir)?;
        let dir = flags.dir.to_string_lossy();
        let why = format!(
            "no agent runs in {dir:?}; start the agent, or run deploy-agent with the agent's flags \
             and -once"
        );
        Ok(Answer::failed(exit::FAILED, why))
    })?;
    show(&answer, json, Synced::to_text)
}
