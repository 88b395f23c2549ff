//! Counts the hosts of a fleet, by configuration and by group. The code is pure: it uses no disk,
//! network or clock.

use std::collections::{BTreeMap, HashMap};

use deploy_wire::fleet::Phase;

use crate::catalog::fleet::CurrentState;
use crate::catalog::rollouts::RolloutRow;
use crate::fleet::convergence::{self, Goal, Part, Standing, Tally};
use crate::verbs::fleet_document::{ConfigurationStatus, GroupStatus, HostStatus, RolloutBrief};

/// A host of the fleet, with the data for all counts of hosts.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The host and its configuration.
    pub host: HostStatus,
    /// What the registry knows about the host.
    pub standing: Standing,
    /// The state that the host has to confirm.
    pub goal: Goal,
    /// The digest of the deploy script's output; `None` if there was no output.
    pub output: Option<String>,
    /// The exit code of the script or of the health check.
    pub exit_code: Option<i32>,
}

impl Seen {
    /// How the host counts. `None` if the host only polls and has never reported; such a host
    /// counts as unknown.
    pub fn part(&self) -> Option<Part> {
        let has_reported = !has_never_reported(&self.standing);
        has_reported.then(|| convergence::part(&self.standing, &self.goal))
    }
}

/// Whether the host only polls and has never reported. The catalogue has a row for such a host only
/// because a wave of a rollout has taken the host.
pub fn has_never_reported(standing: &Standing) -> bool {
    let Standing { phase, runs, wants, revision, .. } = *standing;
    phase == Phase::Unknown && runs.is_none() && wants.is_none() && revision == 0
}

/// The counts of hosts, by configuration.
#[derive(Debug, Default)]
pub struct Counts<'a>(HashMap<&'a str, Count<'a>>);

#[derive(Debug, Default)]
struct Count<'a> {
    phases: BTreeMap<&'static str, u64>,
    groups: BTreeMap<&'a str, Tally>,
    unknown: u64,
}

impl<'a> Counts<'a> {
    /// Counts a host.
    pub fn add(&mut self, seen: &'a Seen) {
        let count = self.0.entry(&seen.host.configuration).or_default();
        let Some(part) = seen.part() else {
            count.unknown += 1;
            return;
        };
        *count.phases.entry(seen.host.phase).or_default() += 1;
        count.groups.entry(&seen.host.group).or_default().add(part);
    }

    /// Counts a host of the configuration `name` that only polls.
    pub fn add_unknown(&mut self, name: &'a str) {
        self.0.entry(name).or_default().unknown += 1;
    }

    /// Removes the counts of the configuration `name`, and returns them as a document.
    pub fn take(
        &mut self,
        name: &str,
        current: &CurrentState,
        rollout: Option<&RolloutRow>,
    ) -> ConfigurationStatus {
        let Count { phases, groups, unknown } = self.0.remove(name).unwrap_or_default();
        let groups: BTreeMap<String, GroupStatus> =
            groups.iter().map(|(group, tally)| ((*group).to_owned(), of_group(tally))).collect();
        let sum = |count: fn(&GroupStatus) -> u64| groups.values().map(count).sum();
        ConfigurationStatus {
            configuration: name.to_owned(),
            state: current.number,
            hash: current.id.to_string(),
            rollout: rollout.map(RolloutBrief::of),
            hosts: sum(|group| group.hosts),
            done: sum(|group| group.done),
            behind: sum(|group| group.behind),
            failed: sum(|group| group.failed),
            absent: sum(|group| group.absent),
            held: sum(|group| group.held),
            unknown,
            phases,
            groups,
        }
    }
}

fn of_group(tally: &Tally) -> GroupStatus {
    GroupStatus {
        hosts: tally.hosts + tally.held,
        done: tally.done,
        behind: tally.hosts - tally.done,
        failed: tally.failed,
        absent: tally.absent,
        held: tally.held,
    }
}

/// Hosts for the tests of this file and of the screens.
#[cfg(test)]
pub mod tests {
    use deploy_store::Digest;
    use deploy_wire::command::Share;
    use jiff::Timestamp;

    use super::*;

    /// A host of the configuration `web` that counts as `part`.
    pub fn seen(host: &str, group: &str, part: Part) -> Seen {
        let (new, old) = (Digest::of(b"new"), Digest::of(b"old"));
        let phase = match part {
            Part::Done => Phase::Healthy,
            Part::Failed => Phase::Failed,
            _ => Phase::Script,
        };
        let (connected, held) = (part != Part::Absent, part == Part::Held);
        let runs = Some(if part == Part::Done { new } else { old });
        let host = HostStatus {
            host: host.to_owned(),
            configuration: "web".to_owned(),
            group: group.to_owned(),
            phase: phase.word(),
            runs: Some(1),
            runs_hash: runs,
            wants: Some(2),
            wants_hash: Some(new),
            done: part == Part::Done,
            since: Some(Timestamp::UNIX_EPOCH),
            connected,
            last_seen: Timestamp::UNIX_EPOCH,
            duplicate: false,
            held: held.then(|| "disk".to_owned()),
            wave: None,
            reason: None,
            message: String::new(),
            version: String::new(),
        };
        let standing = Standing { phase, runs, wants: Some(new), revision: 7, connected, held };
        let goal = Goal { revision: 7, id: new, min: Share::ALL };
        Seen { host, standing, goal, output: None, exit_code: None }
    }

    #[test]
    fn groups_add_up_to_their_configuration() {
        let all = [
            seen("a", "canary", Part::Done),
            seen("b", "canary", Part::Failed),
            seen("c", "", Part::Done),
            seen("d", "", Part::Working),
            seen("e", "", Part::Absent),
            seen("f", "", Part::Held),
        ];
        let mut counts = Counts::default();
        for one in &all {
            assert_eq!(one.part(), Some(convergence::part(&one.standing, &one.goal)));
            counts.add(one);
        }
        counts.add_unknown("web");
        let current = CurrentState { number: 2, revision: 7, id: Digest::of(b"new") };
        let web = counts.take("web", &current, None);
        assert_eq!((web.hosts, web.done, web.behind, web.failed), (6, 2, 3, 1));
        assert_eq!((web.absent, web.held, web.unknown), (1, 1, 1));
        let group = |name: &str| web.groups[name].clone();
        assert_eq!((group("canary").hosts, group("canary").failed), (2, 1));
        assert_eq!((group("").hosts, group("").done, group("").held), (4, 1, 1));
        assert_eq!(web.phases.values().sum::<u64>(), 6);
        assert_eq!(counts.take("other", &current, None).hosts, 0);
    }
}
