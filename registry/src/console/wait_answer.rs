//! Makes the answer of `wait`, and of a change with `-wait`.

use std::sync::Arc;
use std::time::Duration;

use deploy_store::{ConfigurationName, Meter};
use deploy_wire::command::{ChangeOptions, Refusal, Share, Wait};
use deploy_wire::exit;

use super::{Done, fleet_text as text};
use crate::error::Error;
use crate::registry::Registry;
use crate::verbs::rollout_status::RolloutStatus;
use crate::verbs::wait_for::{Ending, Waited};

/// The answer and the exit code of a `wait` that has ended.
pub fn ended(name: &ConfigurationName, waited: &Waited, json: bool) -> Result<Done, Refusal> {
    let code = match waited.ending {
        Ending::Converged => exit::OK,
        Ending::Halted => exit::FAILED,
        Ending::Superseded => exit::CONFLICT,
        Ending::TimedOut => exit::TIMEOUT,
    };
    if json {
        return Ok(Done { stdout: text::waited_json(name, waited)?, code });
    }
    let said = text::waited(name, waited);
    if code == exit::OK { Ok(Done::from(said + "\n")) } else { Err(Refusal::new(code, said)) }
}

/// If `options` has the flag `-wait`, waits until the hosts have deployed the change that was just
/// made. If the change is a rollout, waits for the rollout. `said` is the text with which the
/// registry answers the change.
pub async fn after_change(
    registry: &Registry,
    name: &ConfigurationName,
    options: &ChangeOptions,
    rollout: Option<&RolloutStatus>,
    said: String,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    let Some(timeout) = options.wait else { return Ok(Done::from(said)) };
    // The registry has made the change, so the user gets `said` even if the hosts have not deployed
    // the change, or if the wait failed. Usually, `said` has the command that reverts the change.
    let waited = wait_for_change(registry, name, timeout, rollout, meter).await;
    let waited = waited.map_err(made_but);
    match waited.and_then(|waited| ended(name, &waited, false)) {
        Ok(done) => Ok(Done { stdout: said + &done.stdout, code: done.code }),
        Err(refusal) => Err(Refusal { text: said + &refusal.text, ..refusal }),
    }
}

/// The answer to a change that was made, if the registry cannot say what happened after the change.
/// The text of an error of the database says that the failed statement has changed nothing, which is
/// not true of the whole command.
pub fn made_but(err: Error) -> Refusal {
    if !matches!(err, Error::NoAnswer(_) | Error::Database(_)) {
        return err.into();
    }
    let why = err.to_string().replace("; nothing was changed", "");
    let text = format!(
        "the change was made, but the registry cannot say what followed: {why}; see history and \
         rollout status"
    );
    Refusal::new(exit::PARTLY, text)
}

/// Waits for the rollout, or else for the current state of the configuration.
async fn wait_for_change(
    registry: &Registry,
    name: &ConfigurationName,
    timeout: Duration,
    rollout: Option<&RolloutStatus>,
    meter: &Arc<Meter>,
) -> Result<Waited, Error> {
    let state = match rollout {
        Some(rollout) => rollout.target,
        None => {
            let current = registry.catalog.current_state(name).await?;
            let none = || Error::NotFound(format!("configuration \"{name}\" not found"));
            current.ok_or_else(none)?.0
        }
    };
    let wait = Wait {
        name: name.clone(),
        state: Some(state),
        id: None,
        timeout,
        min: Share::ALL,
        group: None,
        json: false,
        quiet: false,
    };
    match rollout {
        Some(rollout) => registry.wait_for_rollout(&wait, rollout.number, meter).await,
        None => registry.wait_for(&wait, meter).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_to_a_made_change_never_says_that_nothing_was_changed() {
        let err = "catalogue: disk I/O error; nothing was changed";
        let Refusal { text, code } = made_but(Error::Database(err.to_owned()));
        assert!(text.starts_with("the change was made, but "), "{text}");
        assert!(text.contains("disk I/O error") && !text.contains("nothing was changed"), "{text}");
        assert_eq!(code, exit::PARTLY);
        let other = made_but(Error::NotFound("configuration \"p\" not found".to_owned()));
        assert_eq!(other.code, exit::NOT_FOUND);
    }
}
