//! Collects what needs the attention of an operator.

use std::collections::{BTreeMap, HashMap};

use deploy_store::Digest;
use jiff::Timestamp;

use crate::error::Result;
use crate::fleet::convergence::Part;
use crate::http::screens::need::last_lines;
use crate::registry::Registry;
use crate::verbs::fleet_counts::Seen;
use crate::verbs::fleet_document::HostStatus;
use crate::verbs::fleet_overview::FleetOverview;
use crate::verbs::rollout_status::RolloutStatus;

/// A screen shows at most this many kinds of failures, with their outputs.
const KINDS: usize = 8;
/// A line names at most this many hosts.
pub(super) const NAMED: usize = 5;
/// A line names at most this many damaged versions.
const DAMAGED: u64 = 5;

/// What needs attention.
#[derive(Debug, Default)]
pub(super) struct Attention {
    /// Rollouts that wait for an operator.
    pub(super) stopped: Vec<RolloutStatus>,
    /// The most frequent failures.
    pub(super) failures: Vec<Failure>,
    /// The number of failures of other kinds.
    pub(super) other_failures: u64,
    /// Hosts that are not connected and have not confirmed their target state.
    pub(super) silent: Silent,
    /// Hosts under whose names several agents report, sorted.
    pub(super) duplicates: Vec<String>,
    /// The number of damaged files.
    pub(super) damaged: u64,
    /// Some versions of damaged files: component and version.
    pub(super) damaged_versions: Vec<(String, String)>,
    /// The disk, if the disk is nearly full.
    pub(super) disk: Option<FullDisk>,
}

/// Deploys of the same state that failed with the same output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The configuration.
    pub configuration: String,
    /// The state that failed, if the registry knows its number.
    pub state: Option<u64>,
    /// The reason as one word.
    pub reason: Option<&'static str>,
    /// The exit code of the script or of the health check.
    pub exit_code: Option<i32>,
    /// When the last of these deploys failed.
    pub since: Option<Timestamp>,
    /// The first hosts, sorted by name.
    pub hosts: Vec<String>,
    /// The number of hosts.
    pub count: u64,
    /// What happened, as a text for people.
    pub message: String,
    /// The last lines of the output.
    pub output: String,
    digest: Option<String>,
}

/// The silent hosts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Silent {
    /// The hosts that have been silent for the longest time, the longest first.
    pub(super) hosts: Vec<SilentHost>,
    /// The number of silent hosts.
    pub(super) count: u64,
}

/// A silent host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SilentHost {
    pub(super) host: String,
    pub(super) last_seen: Timestamp,
    pub(super) configuration: String,
    pub(super) runs: Option<u64>,
}

/// A disk that is nearly full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FullDisk {
    /// The free bytes.
    pub(super) free: u64,
    /// The size of the filesystem, in bytes.
    pub(super) all: u64,
    /// Whether the registry refuses uploads.
    pub(super) is_full: bool,
}

impl Attention {
    pub(super) async fn read(registry: &Registry, fleet: &FleetOverview) -> Result<Self> {
        let stopped = fleet.rollouts.iter().filter(|rollout| rollout.status != "running");
        let (_, damaged) = registry.catalog.blob_counts().await?;
        let damaged_versions = match damaged {
            0 => Vec::new(),
            _ => registry.catalog.damaged_versions(DAMAGED).await?,
        };
        let (failures, other_failures) = failures(registry, &fleet.agents).await?;
        let (free, all) = registry.disk_bytes().await?;
        Ok(Self {
            stopped: stopped.cloned().collect(),
            failures,
            other_failures,
            silent: silent(&fleet.agents),
            duplicates: duplicates(&fleet.agents),
            damaged,
            damaged_versions,
            disk: full_disk(free, all, registry.settings.min_free),
        })
    }
}

/// The most frequent failures of these agents, each with the end of its output. Also returns the
/// number of all other failures.
pub async fn failures(registry: &Registry, agents: &[Seen]) -> Result<(Vec<Failure>, u64)> {
    let mut failures = grouped(agents);
    let rest = failures.split_off(failures.len().min(KINDS));
    for failure in &mut failures {
        if let Some(digest) = &failure.digest {
            failure.output = last_lines(&registry.catalog.output(digest).await?);
        }
    }
    Ok((failures, rest.iter().map(|failure| failure.count).sum()))
}

/// The properties that equal failures share: the configuration, the state, the output, and the
/// message. The message is empty if there is an output.
type Kind<'a> = (&'a str, Option<Digest>, Option<&'a str>, &'a str);

/// Groups the failures of these agents by kind. The most frequent kind comes first.
pub(super) fn grouped(agents: &[Seen]) -> Vec<Failure> {
    let mut kinds: HashMap<Kind<'_>, Vec<&Seen>> = HashMap::new();
    for seen in agents.iter().filter(|seen| seen.part() == Some(Part::Failed)) {
        let (host, output) = (&seen.host, seen.output.as_deref());
        let message = if output.is_none() { &*host.message } else { "" };
        let kind = (&*host.configuration, host.wants_hash, output, message);
        kinds.entry(kind).or_default().push(seen);
    }
    let mut failures: Vec<Failure> = kinds.into_values().map(failure_of).collect();
    failures.sort_by(|one, other| {
        let order = |failure: &Failure| (std::cmp::Reverse(failure.count), failure.hosts.clone());
        order(one).cmp(&order(other))
    });
    failures
}

fn failure_of(mut alike: Vec<&Seen>) -> Failure {
    alike.sort_by(|one, other| one.host.host.cmp(&other.host.host));
    // Each group of equal failures has at least one member.
    let HostStatus { configuration, wants, reason, message, .. } = &alike[0].host;
    Failure {
        configuration: configuration.clone(),
        state: *wants,
        reason: *reason,
        exit_code: alike[0].exit_code,
        since: alike.iter().filter_map(|seen| seen.host.since).max(),
        hosts: alike.iter().take(NAMED).map(|seen| seen.host.host.clone()).collect(),
        count: alike.len() as u64,
        message: message.clone(),
        output: String::new(),
        digest: alike[0].output.clone(),
    }
}

fn silent(agents: &[Seen]) -> Silent {
    let mut hosts: BTreeMap<&str, &HostStatus> = BTreeMap::new();
    for seen in agents.iter().filter(|seen| seen.part() == Some(Part::Absent)) {
        hosts.entry(&seen.host.host).or_insert(&seen.host);
    }
    let count = hosts.len() as u64;
    let mut hosts: Vec<&HostStatus> = hosts.into_values().collect();
    hosts.sort_by(|one, other| (one.last_seen, &one.host).cmp(&(other.last_seen, &other.host)));
    let brief = |host: &HostStatus| SilentHost {
        host: host.host.clone(),
        last_seen: host.last_seen,
        configuration: host.configuration.clone(),
        runs: host.runs,
    };
    Silent { hosts: hosts.into_iter().take(NAMED).map(brief).collect(), count }
}

fn duplicates(agents: &[Seen]) -> Vec<String> {
    let duplicates = agents.iter().filter(|seen| seen.host.duplicate);
    let mut names: Vec<String> = duplicates.map(|seen| seen.host.host.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// The disk, if less than 5 % of the disk is free, or if at most `min_free` bytes are free.
fn full_disk(free: u64, all: u64, min_free: u64) -> Option<FullDisk> {
    let is_full = free <= min_free;
    (is_full || free < all / 20).then_some(FullDisk { free, all, is_full })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::fleet_counts::tests::seen;

    fn failed(host: &str, output: Option<&str>, message: &str) -> Seen {
        let mut seen = seen(host, "", Part::Failed);
        seen.output = output.map(str::to_owned);
        seen.host.message = message.to_owned();
        seen
    }

    #[test]
    fn failures_with_the_same_output_are_one_kind() {
        let agents = [
            failed("c", Some("d1"), "attempt 1"),
            failed("a", Some("d1"), "attempt 2"),
            failed("b", Some("d2"), "attempt 1"),
            failed("d", None, "no space"),
            failed("e", None, "no space"),
            failed("f", None, "no space"),
            seen("g", "", Part::Done),
            seen("h", "", Part::Held),
        ];
        let kinds = grouped(&agents);
        let counts: Vec<u64> = kinds.iter().map(|failure| failure.count).collect();
        assert_eq!(counts, [3, 2, 1]);
        assert_eq!(kinds[0].message, "no space");
        assert_eq!(kinds[1].hosts, ["a", "c"]);
        assert_eq!(kinds[1].digest.as_deref(), Some("d1"));
    }

    #[test]
    fn each_silent_host_is_named_once_and_the_longest_silent_is_first() {
        let mut early = seen("z", "", Part::Absent);
        let mut late = seen("a", "", Part::Absent);
        late.host.last_seen = Timestamp::from_second(100).unwrap();
        early.host.last_seen = Timestamp::from_second(50).unwrap();
        let silent = silent(&[late.clone(), early, late, seen("b", "", Part::Failed)]);
        let names: Vec<&str> = silent.hosts.iter().map(|host| &*host.host).collect();
        assert_eq!((silent.count, names), (2, vec!["z", "a"]));
    }

    #[test]
    fn disk_is_nearly_full_below_five_percent_and_full_below_the_reserve() {
        assert_eq!(full_disk(50, 1000, 10), None);
        let nearly = full_disk(49, 1000, 10).unwrap();
        assert!(!nearly.is_full);
        assert!(full_disk(10, 1000, 10).unwrap().is_full);
        assert!(full_disk(300, 1000, 400).unwrap().is_full);
    }

    #[test]
    fn duplicates_are_named_once() {
        let mut twice = seen("a", "", Part::Done);
        twice.host.duplicate = true;
        assert_eq!(duplicates(&[twice.clone(), seen("b", "", Part::Done), twice]), ["a"]);
    }
}
