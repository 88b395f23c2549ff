//! Formats the answers of `rollout` as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use deploy_rollout::{Policy, hosts_in_words};
use deploy_store::escape;
use deploy_wire::command::Refusal;
use jiff::Timestamp;
use serde_json::json;

use super::print::document;
use super::table::list;
use crate::caller::Client;
use crate::catalog::rollouts::{NamedPolicy, RolloutRow};
use crate::verbs::rollout_status::{PlanDocument, RolloutHost, RolloutStatus};

/// Each list of hosts in a plan has at most this many names.
const SOME: usize = 10;

/// The answer after a rollout has started.
pub fn started(status: &RolloutStatus, client: Client) -> String {
    let selectors: Vec<&str> = status.waves.iter().map(|wave| wave.selector.as_str()).collect();
    let RolloutStatus { number, target, base, configuration, .. } = status;
    let name = deploy_wire::command::quote_always(configuration);
    let text =
        format!("rollout {number}: state {target} over {base}; waves of {}", selectors.join(", "));
    if status.status == "succeeded" {
        let line = client.typed(&format!("rollback -name={name} -to={base}"));
        return format!(
            "{text}; succeeded immediately, because there is no host\nto roll back run:\n\t{line}\n"
        );
    }
    let line = client.typed(&format!("rollout abort -name={name}"));
    format!("{text}\nto go back run:\n\t{line}\n")
}

/// One line about a rollout.
pub fn head(status: &RolloutStatus) -> String {
    let mut text = format!("rollout {}  {}", status.number, status.status);
    if !status.why.is_empty() {
        text = text + " (" + &escape(&status.why) + ")";
    }
    // Writing to a string cannot fail.
    if status.ended.is_none() && status.wave > 0 {
        let _ = write!(text, "  wave {} of {}", status.wave, status.waves.len());
    }
    if let Some(end) = status.soak_ends.filter(|_| status.ended.is_none()) {
        let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
        let _ = write!(text, "  soaking, {} left", rounded(left));
    }
    let _ = write!(text, "  failed {}, at most {}", status.failed, status.budget);
    text + "\n"
}

/// A rollout as text: its head, its waves, and the hosts whose result is not `good`.
pub fn status(status: &RolloutStatus) -> String {
    let mut text = head(status);
    let RolloutStatus { base, target, good, taken, waiting, .. } = status;
    let _ = writeln!(
        text,
        "state {target} over {base}: {good} of {} good, {waiting} not in a wave yet",
        hosts_in_words(*taken)
    );
    let mut rows = vec![["WAVE", "SELECTOR", "HOSTS", "OPENED"].map(str::to_owned).to_vec()];
    for (number, wave) in (1..).zip(&status.waves) {
        let hosts = wave.hosts.map_or("-".to_owned(), |hosts: u64| hosts.to_string());
        let opened = wave.opened.map_or("-".to_owned(), |time| format!("{time:.0}"));
        rows.push(vec![number.to_string(), wave.selector.clone(), hosts, opened]);
    }
    text += &list(&rows);
    let rest: Vec<&RolloutHost> =
        status.hosts.iter().filter(|host| host.result != "good").collect();
    if !rest.is_empty() {
        let mut rows = vec![["HOST", "WAVE", "RESULT", "WHY"].map(str::to_owned).to_vec()];
        for host in rest {
            let why = escape(host.why.lines().next().unwrap_or_default());
            let cells = [host.host.clone(), host.wave.to_string(), host.result.to_owned(), why];
            rows.push(cells.to_vec());
        }
        text = text + "\n" + &list(&rows);
    }
    text
}

/// A duration in at most two units, such as `1h5m`.
fn rounded(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// The plan of a rollout as text.
pub fn plan(plan: &PlanDocument) -> String {
    let mut text = format!(
        "each host downloads at most {} bytes; at most {} may fail\n",
        plan.bytes,
        hosts_in_words(plan.budget)
    );
    let mut rows = vec![["WAVE", "SELECTOR", "HOSTS", ""].map(str::to_owned).to_vec()];
    for (number, wave) in (1..).zip(&plan.waves) {
        let (count, names) = (wave.hosts.len().to_string(), some(&wave.hosts));
        rows.push(vec![number.to_string(), wave.selector.clone(), count, names]);
    }
    text += &list(&rows);
    for (what, hosts) in [
        ("absent, in no wave", &plan.absent),
        ("held by an operator", &plan.held),
        ("with two agents under one name", &plan.duplicate),
        ("only polling, in no wave without -allow-unknown", &plan.unknown),
    ] {
        if !hosts.is_empty() {
            let _ = writeln!(text, "{} {what}: {}", hosts.len(), some(hosts));
        }
    }
    if !plan.halt.is_empty() {
        let _ = writeln!(text, "the rollout would halt immediately: {}", escape(&plan.halt));
    }
    text
}

fn some(hosts: &[String]) -> String {
    let more = hosts.len().saturating_sub(SOME);
    let shown = hosts[..hosts.len() - more].join(" ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// A list of rollouts.
pub fn list_of(rows: &[RolloutRow]) -> String {
    let head = ["ROLLOUT", "CONFIGURATION", "STATE", "OVER", "STATUS", "STARTED", "BY"];
    let mut lines = vec![head.map(str::to_owned).to_vec()];
    for row in rows {
        lines.push(vec![
            row.number.to_string(),
            escape(row.configuration.as_str()),
            row.target.to_string(),
            row.base.to_string(),
            row.rollout.status.word().to_owned(),
            format!("{:.0}", row.started),
            escape(&row.who),
        ]);
    }
    list(&lines)
}

/// A list of rollouts as JSON.
pub fn list_json(rows: &[RolloutRow]) -> Result<String, Refusal> {
    let row = |row: &RolloutRow| {
        json!({
            "number": row.number, "configuration": row.configuration.as_str(),
            "target": row.target, "base": row.base, "status": row.rollout.status.word(),
            "why": row.rollout.status.why().unwrap_or_default(), "started": row.started,
            "ended": row.ended, "who": row.who,
        })
    };
    document(&json!({ "rollouts": rows.iter().map(row).collect::<Vec<_>>() }))
}

/// A policy as a line of flags, and the configurations that use it.
pub fn policy(name: &str, policy: &Policy, used_by: &[String]) -> String {
    let mut text = format!("{name}   {}\n", policy_flags(policy));
    if !used_by.is_empty() {
        let names: Vec<String> = used_by.iter().map(|name| escape(name)).collect();
        text = text + "    used by " + &names.join(", ") + "\n";
    }
    text
}

fn policy_flags(policy: &Policy) -> String {
    let Policy { waves, soak, max_failed, max_absent, lost_after, wave_timeout, .. } = policy;
    let unknown = if policy.allow_unknown { " -allow-unknown" } else { "" };
    format!(
        "-waves {waves} -soak {} -max-failed '{max_failed}' -max-absent '{max_absent}' \
         -lost-after {} -wave-timeout {}{unknown}",
        rounded(*soak),
        rounded(*lost_after),
        rounded(*wave_timeout)
    )
}

/// All policies.
pub fn policies(all: &[NamedPolicy]) -> String {
    all.iter().map(|one| policy(&one.name, &one.policy, &one.used_by)).collect()
}

/// All policies as JSON.
pub fn policies_json(all: &[NamedPolicy]) -> Result<String, Refusal> {
    let one = |one: &NamedPolicy| {
        json!({
            "name": one.name, "policy": one.policy, "used_by": one.used_by,
            "who": one.who, "since": one.since,
        })
    };
    document(&json!({ "policies": all.iter().map(one).collect::<Vec<_>>() }))
}
