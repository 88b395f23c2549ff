//! Keeps the last deploys that have ended since this registry started, with their durations. The
//! registry keeps this list only in memory, because an index of the stored deploys by time would
//! make each report slower.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use deploy_wire::fleet::Phase;
use jiff::Timestamp;

use crate::catalog::fleet::{Applied, Sent};

/// Maximum number of deploys that the registry keeps.
pub const MOST: usize = 2000;

/// A deploy that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployed {
    /// When the registry wrote the report that ended the deploy.
    pub time: Timestamp,
    /// How long the steps of the deploy took together, in milliseconds.
    pub ms: u64,
    /// Whether the deploy failed.
    pub failed: bool,
    /// The host, the configuration and the number of the deploy.
    agent: (i64, String, u64),
}

/// The last deploys that ended, oldest first.
#[derive(Debug, Default)]
pub struct RecentDeploys(Mutex<VecDeque<Deployed>>);

impl RecentDeploys {
    /// Records a report that ends a deploy. If several reports end the same deploy, the deploy
    /// counts once, with the time of the first report and the data of the last.
    pub fn reported(&self, sent: &Sent, applied: &Applied, time: Timestamp) {
        let (Applied::New { host }, report) = (applied, &sent.report) else { return };
        let has_ended = report.phase == Phase::Healthy || report.phase.is_failure();
        if !has_ended || report.steps.is_empty() {
            return;
        }
        let ms = report.steps.iter().fold(0, |sum: u64, step| sum.saturating_add(step.ms));
        let agent = (*host, sent.name.to_string(), report.attempt);
        let deployed = Deployed { time, ms, failed: report.phase.is_failure(), agent };
        let mut deploys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A script does not number its deploys: `attempt` is 0 in its reports.
        let is_same = |other: &&mut Deployed| report.attempt > 0 && other.agent == deployed.agent;
        if let Some(same) = deploys.iter_mut().rev().find(is_same) {
            *same = Deployed { time: same.time, ..deployed };
            return;
        }
        if deploys.len() == MOST {
            deploys.pop_front();
        }
        deploys.push_back(deployed);
    }

    /// The deploys that ended after `since`, oldest first.
    pub fn since(&self, since: Timestamp) -> Vec<Deployed> {
        let deploys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        deploys.iter().filter(|deploy| deploy.time > since).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use deploy_wire::fleet::{Report, Step};

    use super::*;

    fn sent(attempt: u64, phase: Phase, ms: u64) -> Sent {
        let steps = vec![Step { phase: Phase::Staged, ms: 40 }, Step { phase, ms }];
        Sent {
            key: "k".to_owned(),
            host: "web-1".parse().unwrap(),
            name: "web".parse().unwrap(),
            instance: String::new(),
            report: Report { attempt, phase, steps, ..Report::default() },
        }
    }

    #[test]
    fn each_deploy_counts_once_and_the_oldest_are_dropped() {
        let deploys = RecentDeploys::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        let new = Applied::New { host: 1 };
        deploys.reported(&sent(1, Phase::Staged, 1), &new, at(1));
        deploys.reported(&sent(1, Phase::Failed, 2), &Applied::Old, at(1));
        deploys.reported(&sent(1, Phase::Failed, 2), &new, at(2));
        deploys.reported(&sent(1, Phase::Healthy, 3), &new, at(3));
        deploys.reported(&sent(2, Phase::Healthy, 4), &new, at(4));
        let all = deploys.since(at(0));
        let short: Vec<_> = all.iter().map(|one| (one.time, one.ms, one.failed)).collect();
        assert_eq!(short, [(at(2), 43, false), (at(4), 44, false)]);
        assert_eq!(deploys.since(at(2)).len(), 1);
        for attempt in 0..=MOST as u64 {
            deploys.reported(&sent(attempt + 3, Phase::Healthy, 4), &new, at(5));
        }
        assert_eq!((deploys.since(at(0)).len(), deploys.since(at(4)).len()), (MOST, MOST));
    }
}
