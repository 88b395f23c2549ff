//! Runs the checks that come before a deploy.

use deploy_store::Configuration;

use crate::agent::Agent;
use crate::error::{Error, Result};
use crate::records::{current_link, state_file};
use crate::script::{self, env_file};

/// Finds errors that would otherwise appear only after the downloads.
pub(crate) fn check(agent: &Agent, new: &Configuration) -> Result<()> {
    state_file::check(&agent.state)?;
    if let Some(link) = &agent.current {
        current_link::target(link)?;
    }
    let Some(script) = &agent.script else { return Ok(()) };
    script::check_environment(new).map_err(Error::BadScriptEnvironment)?;
    if let Err(err) = script.find() {
        // A missing script causes only a warning, because an operator may repair the script during
        // the downloads.
        tracing::warn!(event = "script_missing", id = %new.id(), "script {err}");
    }
    if let Err(err) = env_file::read(script.env_file.as_deref()) {
        tracing::warn!(event = "script_missing", id = %new.id(), "{err}");
    }
    Ok(())
}
