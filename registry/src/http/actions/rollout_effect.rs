//! Describes the effects of the commands that steer rollouts.

use deploy_store::ConfigurationName;
use deploy_wire::command::RolloutAction;

use super::described_effect::Effect;
use crate::http::problem::Problem;
use crate::http::screens::widgets::count;
use crate::registry::Registry;
use crate::verbs::rollout_status::RolloutStatus;

/// What an action on the active rollout would do.
pub async fn of(registry: &Registry, action: &RolloutAction) -> Result<Effect, Problem> {
    let status = async |name: &ConfigurationName| registry.rollout_status(name, None).await;
    match action {
        RolloutAction::Pause(name, _) => Ok(pause(&status(name).await?)),
        RolloutAction::Resume { name, .. } => Ok(resume(&status(name).await?)),
        RolloutAction::Abort(name, _) => Ok(abort(&status(name).await?)),
        RolloutAction::SkipSoak(name) => Ok(skip_soak(&status(name).await?)),
        RolloutAction::Mark(name, host, good) => {
            let result = if *good { "good" } else { "failed" };
            let number = status(name).await?.number;
            Ok(Effect {
                title: format!("Mark {host} as {result}"),
                effects: vec![(
                    host.to_string(),
                    format!("counts as {result} in rollout {number}."),
                )],
                button: format!("Mark {host} as {result}"),
                ..Effect::default()
            })
        }
        _ => Err(Problem::not_found()),
    }
}

fn title(what: &str, status: &RolloutStatus) -> String {
    format!("{what} rollout {} of {}", status.number, status.configuration)
}

fn pause(status: &RolloutStatus) -> Effect {
    let (target, waiting) = (status.target, count(status.waiting, "host"));
    Effect {
        title: title("Pause", status),
        effects: vec![
            (
                waiting.clone(),
                "not in a wave yet will not change until you resume the rollout.".to_owned(),
            ),
            (count(status.taken, "host"), format!("in waves will run state {target}.")),
        ],
        button: format!("Pause: {waiting} to go"),
        message: Some(("Why", false)),
        ..Effect::default()
    }
}

fn resume(status: &RolloutStatus) -> Effect {
    let waiting = count(status.waiting, "host");
    let failed = format!("failed. The rollout allows {}.", count(status.budget, "failed host"));
    let failed_hosts = count(status.failed, "host");
    Effect {
        title: title("Resume", status),
        effects: vec![
            (waiting.clone(), format!("will get state {} in the next waves.", status.target)),
            (failed_hosts, failed),
        ],
        button: format!("Resume: {waiting} to go"),
        ..Effect::default()
    }
}

fn abort(status: &RolloutStatus) -> Effect {
    let (taken, base) = (count(status.taken, "host"), status.base);
    Effect {
        title: title("Abort", status),
        effects: vec![
            (
                taken.clone(),
                format!(
                    "will be offered state {base} again. The root of this state is usually still \
                         on the host, so no download is needed."
                ),
            ),
            (count(status.waiting, "host"), "not in a wave yet will not change.".to_owned()),
            (
                format!("state {}", status.target),
                "stays in the history. You can start another rollout of this state.".to_owned(),
            ),
        ],
        button: format!("Abort: {taken} back to {base}"),
        is_danger: true,
        message: Some(("Why", false)),
    }
}

fn skip_soak(status: &RolloutStatus) -> Effect {
    let (waiting, wave) = (count(status.waiting, "host"), status.wave);
    let (what, happens) = if wave as usize >= status.waves.len() {
        (format!("rollout {}", status.number), "ends")
    } else {
        (format!("wave {}", wave + 1), "opens")
    };
    Effect {
        title: title("End the soak of", status),
        effects: vec![(
            what,
            format!("{happens} as soon as all hosts of wave {wave} have a result."),
        )],
        button: format!("End the soak: {waiting} to go"),
        ..Effect::default()
    }
}
