//! Formats the answers of the fleet's verbs as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use deploy_rollout::{hosts_in_words, is_open, next_open};
use deploy_store::{ConfigurationName, Digest, escape};
use deploy_wire::command::Refusal;
use jiff::Timestamp;
use serde_json::json;

use super::print::{document, seconds};
use super::table::list;
use crate::catalog::fleet::{Event, HostRow};
use crate::catalog::rollouts::GroupWindows;
use crate::verbs::fleet_document::{ConfigurationStatus, FleetStatus, HostStatus, RolloutBrief};
use crate::verbs::fleet_status::FleetQuery;
use crate::verbs::wait_for::{Ending, Waited};
use crate::verbs::why::{Tried, Why, WhyOne};

/// A table shows this many digits of an id.
const SHORT_ID: usize = 12;
/// A table shows at most this many characters of a message.
const SHORT_MESSAGE: usize = 100;
/// The answers of `wait` and `retry` list at most this many hosts by name.
const SOME: usize = 10;
/// The text of `why` lists at most this many earlier deploys.
const FORMER: usize = 5;

/// The fleet as text. Without conditions in `query`, the text has one line for each configuration.
/// Otherwise, the text lists the selected hosts.
pub fn fleet(fleet: &FleetStatus, query: &FleetQuery) -> String {
    let only_counts = query.name.is_none()
        && query.group.is_none()
        && query.phase.is_none()
        && query.after.is_none()
        && !query.behind;
    if only_counts {
        return configurations(&fleet.configurations);
    }
    let heads = fleet.configurations.iter().filter(|_| query.name.is_some());
    let mut text = heads.map(head).collect::<String>();
    if !fleet.hosts.is_empty() {
        text += &hosts_of(&fleet.hosts, query.name.is_none());
    }
    if let (true, Some(last)) = (fleet.more, fleet.hosts.last()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "there are more hosts; use -after {}", last.host);
    }
    text
}

fn configurations(all: &[ConfigurationStatus]) -> String {
    let head = ["CONFIGURATION", "STATE", "HOSTS", "DONE", "FAILED", "ABSENT", "HELD", "UNKNOWN"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in all {
        let numbers =
            [one.state, one.hosts, one.done, one.failed, one.absent, one.held, one.unknown];
        let mut row = vec![escape(&one.configuration)];
        row.extend(numbers.map(|number| number.to_string()));
        rows.push(row);
    }
    list(&rows)
}

/// The heading of a configuration, such as `41 hosts: 39 healthy, 2 failed; state 15 confirmed by
/// 38 of 41, 2 failed, 1 absent`.
fn head(one: &ConfigurationStatus) -> String {
    let mut parts: Vec<String> =
        one.phases.iter().map(|(phase, count)| format!("{count} {}", spaced(phase))).collect();
    if one.unknown > 0 {
        parts.push(format!("{} unknown", one.unknown));
    }
    let hosts = one.hosts + one.unknown;
    let phases = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    let mut rest = vec![format!("state {} confirmed by {} of {}", one.state, one.done, one.hosts)];
    for (count, what) in [(one.failed, "failed"), (one.absent, "absent"), (one.held, "held")] {
        if count > 0 {
            rest.push(format!("{count} {what}"));
        }
    }
    let word = if hosts == 1 { "host" } else { "hosts" };
    let mut text = format!("{hosts} {word}{phases}; {}\n", rest.join(", "));
    if let Some(RolloutBrief { number, status, target, wave, waves }) = &one.rollout {
        let _ = writeln!(text, "rollout {number} {status}: state {target}, wave {wave} of {waves}");
    }
    text
}

fn hosts_of(hosts: &[HostStatus], with_name: bool) -> String {
    let mut head = vec!["HOST", "GROUP", "RUNS", "WANTS", "PHASE", "SINCE", "WHY"];
    if with_name {
        head.insert(1, "CONFIGURATION");
    }
    let mut rows = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    for host in hosts {
        let since = host.since.unwrap_or(host.last_seen);
        let mut row = vec![
            escape(&host.host),
            escape(&host.group),
            state_or_id(host.runs, host.runs_hash),
            state_or_id(host.wants, host.wants_hash),
            spaced(host.phase),
            age(since),
            short(&first_of(&reason(host))),
        ];
        if with_name {
            row.insert(1, escape(&host.configuration));
        }
        rows.push(row);
    }
    list(&rows)
}

fn spaced(phase: &str) -> String {
    phase.replace('_', " ")
}

fn state_or_id(state: Option<u64>, id: Option<Digest>) -> String {
    match (state, id) {
        (Some(state), _) => state.to_string(),
        (None, Some(id)) => id.to_string()[..SHORT_ID].to_owned(),
        (None, None) => "-".to_owned(),
    }
}

/// The time since `time`, rounded down to one unit, such as `5m`.
fn age(time: Timestamp) -> String {
    let since = Timestamp::now().duration_since(time);
    let seconds = Duration::try_from(since).unwrap_or_default().as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// The explanation of a host's phase.
fn reason(host: &HostStatus) -> String {
    let mut parts = Vec::new();
    if host.duplicate {
        parts.push("two agents report under this name".to_owned());
    }
    if let Some(why) = &host.held {
        parts.push(format!("held: {why}"));
    }
    if !host.connected && host.phase != "unknown" {
        parts.push(format!("absent for {}", age(host.last_seen)));
    }
    if !host.message.is_empty() && host.held.as_ref() != Some(&host.message) {
        parts.push(host.message.clone());
    }
    parts.join("; ")
}

fn short(text: &str) -> String {
    let line = escape(text.lines().next().unwrap_or_default());
    if line.chars().count() <= SHORT_MESSAGE {
        return line;
    }
    line.chars().take(SHORT_MESSAGE).chain(['…']).collect()
}

/// The first part of a message, up to `; `. The verb `why` shows the whole message.
fn first_of(message: &str) -> String {
    message.split("; ").next().unwrap_or_default().to_owned()
}

/// The maintenance windows of groups as text.
pub fn windows(all: &[GroupWindows], now: Timestamp) -> String {
    let mut rows = vec![["GROUP", "NOW", "WINDOWS"].map(str::to_owned).to_vec()];
    for GroupWindows { group, windows, .. } in all {
        let state = if is_open(windows, now) { "open" } else { "closed" };
        rows.push(vec![escape(group), state.to_owned(), windows.to_string()]);
    }
    list(&rows)
}

/// The maintenance windows of groups as JSON.
pub fn windows_json(all: &[GroupWindows], now: Timestamp) -> Result<String, Refusal> {
    let one = |one: &GroupWindows| {
        let GroupWindows { group, windows, who, since } = one;
        json!({
            "group": group, "windows": windows.to_string(), "open": is_open(windows, now),
            "next_open": next_open(windows, now), "who": who, "since": since,
        })
    };
    document(&json!({ "groups": all.iter().map(one).collect::<Vec<_>>() }))
}

/// The answer of `why` as text.
pub fn why(why: &Why) -> String {
    why.configurations.iter().map(why_one).collect::<Vec<_>>().join("\n")
}

fn why_one(one: &WhyOne) -> String {
    let host = &one.status;
    let mut rows = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("host", escape(&host.host));
    row("configuration", escape(&host.configuration));
    row("phase", format!("{}, for {}", spaced(host.phase), age(host.since.unwrap_or_default())));
    row("runs", state_or_id(host.runs, host.runs_hash));
    row("wants", state_or_id(host.wants, host.wants_hash));
    let why = reason(host);
    if !why.is_empty() {
        row("why", escape(&why));
    }
    let last = one.attempts.first();
    if let Some(code) = last.and_then(|last| last.exit_code) {
        row("exit code", code.to_string());
    }
    if let Some(last) = last.filter(|last| !last.steps.is_empty()) {
        row("steps", steps(last));
    }
    let mut text = list(&rows);
    if one.attempts.len() > 1 {
        text += "before\n";
        let former = one.attempts.iter().skip(1).take(FORMER);
        let rows: Vec<Vec<String>> = former.map(former_row).collect();
        text += &indented(&list(&rows));
    }
    if !one.output.is_empty() {
        text += "end of the output\n";
        let lines: Vec<String> = one.output.lines().map(escape).collect();
        text += &indented(&lines.join("\n"));
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().fold(String::new(), |all, line| all + "  " + line + "\n")
}

fn steps(tried: &Tried) -> String {
    let step = |step: &deploy_wire::fleet::Step| format!("{} {} ms", step.phase.word(), step.ms);
    tried.steps.iter().map(step).collect::<Vec<_>>().join(", ")
}

fn former_row(tried: &Tried) -> Vec<String> {
    let id = state_or_id(None, tried.wants_hash);
    vec![seconds(tried.began), id, spaced(tried.phase), short(&tried.message)]
}

/// How a wait ended, as text without a line break at its end.
pub fn waited(name: &ConfigurationName, waited: &Waited) -> String {
    let (tally, state) = (&waited.tally, waited.state);
    let counts = format!("{} of {}", tally.done, hosts_in_words(tally.hosts));
    let mut notes = Vec::new();
    if tally.failed > 0 {
        let some = waited.failed.iter().take(SOME).map(|host| escape(host));
        let some = some.collect::<Vec<_>>().join(", ");
        let more = if waited.failed.len() > SOME { ", …" } else { "" };
        notes.push(format!("{} failed ({some}{more})", tally.failed));
    }
    if tally.absent > 0 {
        notes.push(format!("{} absent", tally.absent));
    }
    if tally.held > 0 {
        notes.push(format!("{} held (not counted)", tally.held));
    }
    let notes = notes.iter().fold(String::new(), |text, note| text + ", " + note);
    match waited.ending {
        Ending::Converged if tally.hosts == 0 && tally.held > 0 => {
            format!("state {state} of \"{name}\": no host counts{notes}")
        }
        Ending::Converged if tally.hosts == 0 => {
            format!("state {state} of \"{name}\": no host has reported{notes}")
        }
        Ending::Converged => format!("state {state} of \"{name}\" is deployed on {counts}{notes}"),
        Ending::Halted => {
            let first = waited.failed.first().map_or("HOST", String::as_str);
            format!(
                "state {state} of \"{name}\" failed: deployed on {counts}{notes}; see: why -host \
                 {}",
                escape(first)
            )
        }
        Ending::Superseded => {
            format!("configuration \"{name}\" now has another state, {state}; see: history")
        }
        Ending::TimedOut => {
            let missing = tally.needed.saturating_sub(tally.done);
            format!(
                "timed out: state {state} of \"{name}\" is deployed on {counts}{notes}; \
                 missing hosts: {missing}; see: fleet -behind"
            )
        }
    }
}

/// How a wait ended, as JSON.
pub fn waited_json(name: &ConfigurationName, waited: &Waited) -> Result<String, Refusal> {
    let result = match waited.ending {
        Ending::Converged => "converged",
        Ending::Halted => "halted",
        Ending::Superseded => "superseded",
        Ending::TimedOut => "timed_out",
    };
    let tally = &waited.tally;
    document(&json!({
        "configuration": name.as_str(),
        "state": waited.state,
        "hash": waited.id.to_string(),
        "revision": waited.revision,
        "result": result,
        "hosts": tally.hosts,
        "needed": tally.needed,
        "done": tally.done,
        "failed": tally.failed,
        "absent": tally.absent,
        "held": tally.held,
        "failed_hosts": waited.failed,
    }))
}

/// An event as one line of text.
pub fn event(event: &Event) -> String {
    let kind = event.kind.map_or("unknown", crate::catalog::fleet::Kind::word);
    let mut line = format!("{}  {}  {kind}", event.number, seconds(event.time));
    for word in [&event.configuration, &event.host, &event.message] {
        if !word.is_empty() {
            line = line + "  " + &short(word);
        }
    }
    line + "\n"
}

/// An event as one line of JSON.
pub fn event_json(event: &Event) -> String {
    let kind = event.kind.map_or("unknown", crate::catalog::fleet::Kind::word);
    let line = json!({
        "number": event.number,
        "time": event.time,
        "kind": kind,
        "configuration": event.configuration,
        "host": event.host,
        "message": event.message,
    });
    deploy_store::escape_json(&line.to_string()) + "\n"
}

/// The list of agents that `retry` has asked to try again.
pub fn asked(asked: &[(String, String)]) -> String {
    let line = |(host, name): &(String, String)| format!("{}: {}\n", escape(host), escape(name));
    let text = asked.iter().take(SOME).map(line).collect::<String>();
    match asked.len().saturating_sub(SOME) {
        0 => text,
        more => text + &format!("and {more} more\n"),
    }
}

/// Hosts as a table, one host on each line.
pub fn hosts(hosts: &[HostRow]) -> String {
    let mut rows = vec![["HOST", "LABELS", "KEY", "SINCE", "HELD"].map(str::to_owned).to_vec()];
    for host in hosts {
        let labels: Vec<String> =
            host.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let held = match (&host.retired, &host.hold) {
            (Some(time), _) => format!("retired {}", seconds(*time)),
            (None, Some(hold)) => {
                let (why, who) = (short(&hold.message), escape(&hold.who));
                format!("{why} ({who}, {})", seconds(hold.since))
            }
            (None, None) => String::new(),
        };
        let (name, key) = (escape(&host.name), escape(&host.key));
        rows.push(vec![name, labels.join(" "), key, seconds(host.since), held]);
    }
    list(&rows)
}

/// Hosts as JSON.
pub fn hosts_json(hosts: &[HostRow]) -> Result<String, Refusal> {
    let hosts = hosts.iter().map(|host| {
        let hold = host
            .hold
            .as_ref()
            .map(|hold| json!({ "message": hold.message, "who": hold.who, "since": hold.since }));
        json!({
            "host": host.name,
            "labels": host.labels,
            "key": host.key,
            "since": host.since,
            "retired": host.retired,
            "held": hold,
        })
    });
    document(&json!({ "hosts": hosts.collect::<Vec<_>>() }))
}
