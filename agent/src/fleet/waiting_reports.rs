//! Decides which reports the agent sends, and numbers the reports. This module does not access the
//! disk, the network or the clock.

use deploy_wire::fleet::Report;

/// Maximum number of reports that wait for the registry.
pub const MOST: usize = 16;

/// The reports that the registry has not acknowledged, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    reports: Vec<Report>,
    /// Number of the last report.
    seq: u64,
    acknowledged: u64,
    /// Number of the last report that the previous agent recorded. The previous agent may have sent
    /// further reports, so higher numbers may already be in use.
    recorded: u64,
    /// Whether the registry has sent the number of its last report.
    is_greeted: bool,
}

/// What the agent must do after the registry has sent the number of its last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Greeted {
    /// Send the reports that wait.
    Send,
    /// Report the current state again, because the registry has lost reports that it had
    /// acknowledged. This happens, for example, if a backup of the registry was restored.
    Repeat,
}

impl Waiting {
    /// Continues with the reports that the previous agent left.
    pub fn new(reports: Vec<Report>, seq: u64, acknowledged: u64) -> Self {
        let seq = reports.iter().map(|report| report.seq).fold(seq, u64::max);
        Self { reports, seq, acknowledged, recorded: seq, is_greeted: false }
    }

    /// The reports, oldest first.
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }

    /// Number of the last report.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Number of the last report that the registry has acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Adds a report, and gives the report the next number. The new report replaces all earlier
    /// reports of steps. A new result also replaces earlier results of the same deploy with the
    /// same phase. All other results stay, but if [`MOST`] reports already wait, the function drops
    /// the oldest report.
    pub fn push(&mut self, mut report: Report) {
        self.seq += 1;
        report.seq = self.seq;
        self.reports.retain(|old| {
            let is_same = old.attempt == report.attempt && old.phase == report.phase;
            old.phase.is_final() && !is_same
        });
        if self.reports.len() >= MOST {
            self.reports.remove(0);
        }
        self.reports.push(report);
    }

    /// Removes the reports up to number `seq`, which the registry has on its disk.
    pub fn acknowledge(&mut self, seq: u64) {
        let seq = seq.min(self.seq);
        self.acknowledged = self.acknowledged.max(seq);
        self.reports.retain(|report| report.seq > seq);
    }

    /// Handles the number of the last report that the registry has.
    pub fn greet(&mut self, last: u64) -> Greeted {
        let known = if self.is_greeted { self.seq } else { self.recorded };
        if last > known {
            // The registry has numbers that this agent does not know. The directory may be new, or
            // may be restored from a backup. Or the previous agent was killed before it recorded
            // its last reports. The registry accepts reports in order, so it has all reports that
            // the previous agent recorded.
            if !self.is_greeted {
                self.reports.retain(|report| report.seq > self.recorded);
            }
            self.renumber(last);
        } else if last < self.acknowledged {
            self.acknowledged = last;
            self.is_greeted = true;
            return Greeted::Repeat;
        } else {
            self.acknowledge(last);
        }
        self.is_greeted = true;
        Greeted::Send
    }

    fn renumber(&mut self, last: u64) {
        self.acknowledged = last;
        self.seq = last;
        for report in &mut self.reports {
            self.seq += 1;
            report.seq = self.seq;
        }
    }
}

#[cfg(test)]
mod tests {
    use deploy_wire::fleet::Phase;
    use deploy_wire::fleet::Phase::{Failed, Fetched, Healthy, Held, Offered, Script};

    use super::*;

    fn report(attempt: u64, phase: Phase) -> Report {
        Report { attempt, phase, ..Report::default() }
    }

    fn waiting(reports: &[(u64, Phase)]) -> Waiting {
        let mut waiting = Waiting::default();
        for (attempt, phase) in reports {
            waiting.push(report(*attempt, *phase));
        }
        waiting
    }

    fn shown(waiting: &Waiting) -> Vec<(u64, u64, Phase)> {
        let all = waiting.reports().iter();
        all.map(|report| (report.seq, report.attempt, report.phase)).collect()
    }

    #[test]
    fn latest_report_replaces_earlier_steps_but_results_stay() {
        assert_eq!(shown(&waiting(&[(1, Offered), (1, Fetched), (1, Script)])), [(3, 1, Script)]);
        let result = waiting(&[(1, Offered), (1, Failed), (2, Offered), (2, Script)]);
        assert_eq!(shown(&result), [(2, 1, Failed), (4, 2, Script)]);
        let confirmed = waiting(&[(1, Healthy), (1, Healthy)]);
        assert_eq!(shown(&confirmed), [(2, 1, Healthy)]);
        assert_eq!(shown(&waiting(&[(1, Failed), (1, Held)])), [(1, 1, Failed), (2, 1, Held)]);
    }

    #[test]
    fn oldest_result_is_dropped_when_too_many_wait() {
        let mut reports: Vec<(u64, Phase)> = (1..=40).map(|attempt| (attempt, Failed)).collect();
        reports.push((41, Offered));
        let waiting = waiting(&reports);
        assert_eq!(waiting.reports().len(), MOST);
        assert_eq!(shown(&waiting)[0], (26, 26, Failed));
        assert_eq!(shown(&waiting)[MOST - 1], (41, 41, Offered));
    }

    #[test]
    fn acknowledged_reports_are_forgotten() {
        let mut waiting = waiting(&[(1, Failed), (2, Failed), (3, Offered)]);
        waiting.acknowledge(2);
        assert_eq!(shown(&waiting), [(3, 3, Offered)]);
        waiting.acknowledge(99);
        assert_eq!((waiting.acknowledged(), waiting.reports().len()), (3, 0));
        waiting.push(report(3, Healthy));
        assert_eq!(shown(&waiting), [(4, 3, Healthy)]);
    }

    #[test]
    fn first_line_of_the_registry_replaces_a_lost_acknowledgement() {
        let mut waiting = waiting(&[(1, Failed), (2, Offered)]);
        assert_eq!(waiting.greet(0), Greeted::Send);
        assert_eq!(waiting.greet(1), Greeted::Send);
        assert_eq!(shown(&waiting), [(2, 2, Offered)]);
        assert_eq!(waiting.greet(2), Greeted::Send);
        assert!(waiting.reports().is_empty());
    }

    #[test]
    fn numbers_continue_above_those_that_the_registry_knows() {
        // A new directory on a host that the registry knows.
        let mut new = waiting(&[(1, Offered)]);
        assert_eq!(new.greet(7), Greeted::Send);
        assert_eq!(shown(&new), [(8, 1, Offered)]);
        new.push(report(1, Healthy));
        assert_eq!(shown(&new), [(9, 1, Healthy)]);
        // The previous agent sent reports 5 and 6, and was killed before it could record them. The
        // new report also has number 5, but is a different report.
        let left = Report { seq: 4, ..report(3, Failed) };
        let mut next = Waiting::new(vec![left], 4, 3);
        next.push(report(4, Healthy));
        assert_eq!(shown(&next), [(4, 3, Failed), (5, 4, Healthy)]);
        assert_eq!(next.greet(6), Greeted::Send);
        assert_eq!(shown(&next), [(7, 4, Healthy)]);
        // Another agent, which runs with a copy of this directory, has sent further reports.
        assert_eq!(next.greet(20), Greeted::Send);
        assert_eq!(shown(&next), [(21, 4, Healthy)]);
    }

    #[test]
    fn registry_that_lost_reports_gets_the_state_again() {
        let mut waiting = waiting(&[(1, Healthy)]);
        waiting.greet(0);
        waiting.acknowledge(1);
        assert_eq!(waiting.greet(0), Greeted::Repeat);
        waiting.push(report(1, Healthy));
        assert_eq!(shown(&waiting), [(2, 1, Healthy)]);
        assert_eq!(waiting.greet(0), Greeted::Send);
        assert_eq!(shown(&waiting), [(2, 1, Healthy)]);
    }
}
