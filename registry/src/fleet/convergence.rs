//! Decides the answer of the verb `wait` from the reports of the hosts. The code is pure: it uses
//! no disk, network or clock.

use deploy_store::Digest;
use deploy_wire::command::Share;
use deploy_wire::fleet::Phase;

/// What the registry knows about one host of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The phase of the host's last report.
    pub phase: Phase,
    /// The id of the state that the host runs.
    pub runs: Option<Digest>,
    /// The id of the state that the host deploys or has deployed.
    pub wants: Option<Digest>,
    /// The revision of the offer that the host's last report answers.
    pub revision: u64,
    /// Whether the host is connected now.
    pub connected: bool,
    /// Whether an operator holds the host.
    pub held: bool,
}

/// The state that `wait` waits for, and how many hosts have to confirm this state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// The revision: the number of the change with which the registry offers the state.
    pub revision: u64,
    /// The id of the state.
    pub id: Digest,
    /// The share of the hosts that has to confirm the state before `wait` succeeds.
    pub min: Share,
}

/// The numbers of hosts, by their progress towards the goal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// The number of hosts that count: all hosts that no operator holds.
    pub hosts: u64,
    /// The number of hosts that have confirmed the goal.
    pub done: u64,
    /// The number of hosts on which the deploy of the goal failed.
    pub failed: u64,
    /// The number of hosts that are not connected, and have neither confirmed the goal nor failed.
    pub absent: u64,
    /// The number of hosts that an operator holds. These hosts do not count.
    pub held: u64,
    /// The number of hosts that have to confirm the goal before `wait` succeeds.
    pub needed: u64,
}

/// How a host counts in the tally. Each host counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The host has confirmed its goal.
    Done,
    /// The host is connected, and its deploy has no result yet.
    Working,
    /// The deploy of the goal failed on the host.
    Failed,
    /// The host is not connected, and has neither confirmed its goal nor failed.
    Absent,
    /// An operator holds the host.
    Held,
}

impl Part {
    const ALL: [Self; 5] = [Self::Done, Self::Working, Self::Failed, Self::Absent, Self::Held];

    /// The part as one word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Working => "working",
            Self::Failed => "failed",
            Self::Absent => "absent",
            Self::Held => "held",
        }
    }

    /// The part with this word, if there is one.
    pub fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.word() == word)
    }
}

/// The answer of `wait` at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Enough hosts have confirmed the goal.
    Converged,
    /// So many hosts have failed that `wait` can no longer succeed.
    Halted,
    /// The result is not decided yet.
    Waiting,
}

/// Whether the host has confirmed that it runs the state of the goal and is healthy.
///
/// A report from before the change does not count, even if the host ran the same state at that
/// time. The host may have begun to deploy another state since then.
pub fn is_done(standing: &Standing, goal: &Goal) -> bool {
    standing.phase == Phase::Healthy
        && standing.runs == Some(goal.id)
        && standing.revision >= goal.revision
}

/// Whether the deploy of the goal's state has failed on the host.
pub fn is_failed(standing: &Standing, goal: &Goal) -> bool {
    let ended_badly = standing.phase.is_failure() || standing.phase == Phase::Held;
    ended_badly && standing.wants == Some(goal.id) && standing.revision >= goal.revision
}

/// How a host counts in the tally.
pub fn part(standing: &Standing, goal: &Goal) -> Part {
    if standing.held {
        Part::Held
    } else if is_done(standing, goal) {
        Part::Done
    } else if is_failed(standing, goal) {
        Part::Failed
    } else if standing.connected {
        Part::Working
    } else {
        Part::Absent
    }
}

/// Counts the hosts that have confirmed the goal, have failed, are absent, or are held.
pub fn tally(hosts: impl IntoIterator<Item = Standing>, goal: &Goal) -> Tally {
    let mut tally = Tally::default();
    for host in hosts {
        tally.add(part(&host, goal));
    }
    tally.needed = goal.min.of(tally.hosts);
    tally
}

impl Tally {
    /// Counts one more host.
    pub fn add(&mut self, part: Part) {
        self.hosts += u64::from(part != Part::Held);
        match part {
            Part::Done => self.done += 1,
            Part::Working => {}
            Part::Failed => self.failed += 1,
            Part::Absent => self.absent += 1,
            Part::Held => self.held += 1,
        }
    }
}

/// Decides the answer of `wait` from the counts.
pub fn verdict(tally: &Tally) -> Verdict {
    if tally.done >= tally.needed {
        Verdict::Converged
    } else if tally.hosts - tally.failed < tally.needed {
        Verdict::Halted
    } else {
        Verdict::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(min: u32) -> Goal {
        Goal { revision: 7, id: Digest::of(b"new"), min: Share(min * 100) }
    }

    fn standing(phase: Phase, id: &str, revision: u64) -> Standing {
        let id = Some(Digest::of(id.as_bytes()));
        Standing { phase, runs: id, wants: id, revision, connected: true, held: false }
    }

    fn decided(hosts: &[Standing], min: u32) -> Verdict {
        verdict(&tally(hosts.iter().copied(), &goal(min)))
    }

    #[test]
    fn all_hosts_that_count_have_to_confirm() {
        let done = standing(Phase::Healthy, "new", 7);
        let old = standing(Phase::Healthy, "old", 7);
        let busy = standing(Phase::Script, "new", 7);
        assert_eq!(decided(&[done, done], 100), Verdict::Converged);
        assert_eq!(decided(&[done, old], 100), Verdict::Waiting);
        assert_eq!(decided(&[done, busy], 100), Verdict::Waiting);
        assert_eq!(decided(&[done, Standing { connected: false, ..old }], 100), Verdict::Waiting);
        assert_eq!(decided(&[done, old], 50), Verdict::Converged);
        assert_eq!(decided(&[], 100), Verdict::Converged);
        let held = Standing { held: true, ..old };
        assert_eq!(decided(&[done, held], 100), Verdict::Converged);
    }

    #[test]
    fn report_from_before_the_change_does_not_count() {
        // The configuration changed from the new state to the old state and back. The host may
        // still be deploying the old state.
        let before = standing(Phase::Healthy, "new", 6);
        assert_eq!(decided(&[before], 100), Verdict::Waiting);
        let failed_before = standing(Phase::Failed, "new", 6);
        assert_eq!(decided(&[failed_before], 100), Verdict::Waiting);
        assert_eq!(decided(&[standing(Phase::Healthy, "new", 8)], 100), Verdict::Converged);
    }

    #[test]
    fn failures_halt_when_too_few_hosts_remain() {
        let done = standing(Phase::Healthy, "new", 7);
        let failed = standing(Phase::Failed, "new", 7);
        let back = Standing {
            phase: Phase::RolledBack,
            runs: Some(Digest::of(b"old")),
            ..standing(Phase::RolledBack, "new", 7)
        };
        let other = standing(Phase::Failed, "old", 7);
        assert_eq!(decided(&[done, failed], 100), Verdict::Halted);
        assert_eq!(decided(&[done, back], 100), Verdict::Halted);
        assert_eq!(decided(&[done, other], 100), Verdict::Waiting);
        assert_eq!(decided(&[done, failed, done], 60), Verdict::Converged);
        assert_eq!(decided(&[done, failed, failed], 60), Verdict::Halted);
    }
}
