//! What can be checked before the work of a deploy begins.

use deploy_store::Configuration;

use crate::agent::Agent;
use crate::error::{Error, Result};
use crate::records::{current_link, state_file};
use crate::script::{self, env_file};

/// Tells what would go wrong later, before any work is done.
pub(crate) fn check(agent: &Agent, new: &Configuration) -> Result<()> {
    state_file::check(&agent.state)?;
    if let Some(link) = &agent.current {
        current_link::target(link)?;
    }
    let Some(script) = &agent.script else { return Ok(()) };
    script::check_environment(new).map_err(Error::BadScriptEnvironment)?;
    if let Err(err) = script.find() {
        // It may be put right while the layers come.
        tracing::warn!(event = "script_missing", id = %new.id(), "script {err}");
    }
    if let Err(err) = env_file::read(script.env_file.as_deref()) {
        tracing::warn!(event = "script_missing", id = %new.id(), "script {err}");
    }
    Ok(())
}
