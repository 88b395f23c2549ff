//! Does the work of a subcommand if no agent runs.

use deploy_store::{ConfigurationName, Store};
use deploy_wire::exit;

use crate::agent::Agent;
use crate::commands::open_agent::{agent, options, session};
use crate::control::protocol::Answer;
use crate::control::{ask, exit_codes};
use crate::fetch::registry_session::Session;
use crate::flags::Flags;
use crate::settings::Settings;
use crate::stop::Stop;

/// Does `work` without a running agent. If the flags contain a fingerprint, `work` can connect to
/// the registry.
pub(super) fn alone(
    flags: &Flags,
    work: impl AsyncFnOnce(&Agent, &mut Session) -> Answer,
) -> Result<Answer, ask::Error> {
    let settings = Settings::of(flags);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(err) => return Ok(Answer::failed(exit::FAILED, format!("start threads: {err}"))),
    };
    let stop = {
        let _entered = runtime.enter();
        match Stop::on_signals() {
            Ok(stop) => stop,
            Err(err) => {
                return Ok(Answer::failed(exit::FAILED, format!("watch for signals: {err}")));
            }
        }
    };
    let store = Store::open(&flags.dir, options(&settings, flags.limits.limits()))?;
    // Nothing uses the name of the configuration, because no cycle runs. An invalid name is still
    // an error.
    if !flags.name.is_empty()
        && let Err(err) = flags.name.parse::<ConfigurationName>()
    {
        return Ok(Answer::failed(exit::FAILED, format!("-name: {err}")));
    }
    let agent = match agent(flags, &settings, store, stop) {
        Ok(agent) => Agent { spares: None, ..agent },
        Err(err) => return Ok(Answer::failed(exit::FAILED, err.to_string())),
    };
    let mut session = if flags.fp.is_empty() { Session::none() } else { session(flags) };
    runtime.block_on(async {
        Ok(tokio::select! {
            answer = work(&agent, &mut session) => answer,
            signal = agent.stop.requested_when_idle() => {
                Answer::failed(exit_codes::of_signal(signal), signal.to_string())
            }
        })
    })
}
