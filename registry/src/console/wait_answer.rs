//! Makes the answer of `wait`, and of a change with `-wait`.

use std::sync::Arc;
use std::time::Duration;

use deploy_store::{ConfigurationName, Meter};
use deploy_wire::command::{ChangeOptions, Refusal, Share, Wait};
use deploy_wire::exit;

use super::{Done, fleet_text as text};
use crate::error::{Error, UNCHANGED};
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

/// If `options` has the flag `-wait`, waits until the hosts have deployed the current state, after a
/// command that has changed the configuration, or found nothing to change. If the change is a
/// rollout, waits for the rollout. `said` is the text with which the registry answers the command.
pub async fn after(
    registry: &Registry,
    name: &ConfigurationName,
    options: &ChangeOptions,
    rollout: Option<&RolloutStatus>,
    said: String,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    let Some(timeout) = options.wait else { return Ok(Done::from(said)) };
    // The registry keeps a change that it made, so the user gets `said` even if the hosts have not
    // deployed the change, or if the wait failed. Usually, `said` has the command that reverts it.
    let waited = wait_for_change(registry, name, timeout, rollout, meter).await;
    let waited = waited.map_err(|err| cannot_wait(name, err));
    match waited.and_then(|waited| ended(name, &waited, false)) {
        Ok(done) => Ok(Done { stdout: said + &done.stdout, code: done.code }),
        Err(refusal) => Err(Refusal { text: said + &refusal.text, ..refusal }),
    }
}

/// The answer to a change that was made, if the registry could not read the rollouts after the change.
pub fn made_but_unread(err: Error) -> Refusal {
    match reason(&err) {
        None => err.into(),
        Some(why) => {
            let text =
                format!("the change was made, but the registry could not read the rollouts: {why}");
            Refusal::new(exit::PARTLY, text)
        }
    }
}

fn cannot_wait(name: &ConfigurationName, err: Error) -> Refusal {
    match reason(&err) {
        None => err.into(),
        Some(why) => {
            let text = format!(
                "cannot wait for the hosts: {why}; the registry keeps every change that it made; to \
                 wait again, run: wait -name {name}"
            );
            Refusal::new(exit::PARTLY, text)
        }
    }
}

/// The text of an error of the catalogue, without the clause that the failed statement has changed
/// nothing: it is not true of the whole command. `None` for other errors.
fn reason(err: &Error) -> Option<String> {
    let is_failure = matches!(err, Error::NoAnswer(_) | Error::Database(_));
    is_failure.then(|| err.to_string().replace(UNCHANGED, ""))
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
    fn answer_after_a_change_never_says_that_nothing_was_changed() {
        let name: ConfigurationName = "web".parse().unwrap();
        let err = || Error::Database(format!("catalogue: disk I/O error{UNCHANGED}"));
        for Refusal { text, code } in [made_but_unread(err()), cannot_wait(&name, err())] {
            assert!(text.contains("disk I/O error") && !text.contains(UNCHANGED), "{text}");
            assert_eq!(code, exit::PARTLY);
        }
    }

    #[test]
    fn wait_for_a_deleted_configuration_keeps_its_exit_code() {
        let name: ConfigurationName = "web".parse().unwrap();
        let err = || Error::NotFound("configuration \"web\" not found".to_owned());
        for refusal in [made_but_unread(err()), cannot_wait(&name, err())] {
            assert_eq!(refusal.code, exit::NOT_FOUND);
        }
    }
}
