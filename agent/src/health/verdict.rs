//! Counts the probes of each check, and decides whether a deploy is healthy. This module does not
//! access the network or the clock.

use std::time::Duration;

/// The conditions under which a deploy counts as healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// Number of successes in a row that each check needs.
    pub successes: u32,
    /// Minimum time from the end of the script to the decision that the deploy is healthy.
    pub min: Duration,
    /// Time from the end of the script to the deadline. A deploy that is not healthy at the
    /// deadline has failed.
    pub deadline: Duration,
}

/// The decision of the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// Every check succeeded.
    Healthy,
    /// The deploy is not healthy, for this reason.
    Failed(String),
}

/// The counted probes of all checks.
#[derive(Debug, Clone)]
pub struct Tally {
    goal: Goal,
    checks: Vec<Counts>,
}

/// The counted probes of one check.
#[derive(Debug, Clone, Default)]
struct Counts {
    label: String,
    /// Number of successes since the last failure.
    successes: u32,
    /// Number of failures since the last success.
    failures: u32,
    /// Number of all failures.
    all_failures: u32,
    /// The error of the last failed probe.
    failure: Option<String>,
}

impl Tally {
    /// An empty tally for the checks with these labels.
    pub fn new(goal: Goal, labels: impl IntoIterator<Item = String>) -> Self {
        let counts = |label| Counts { label, ..Counts::default() };
        Self { goal, checks: labels.into_iter().map(counts).collect() }
    }

    /// Counts a probe of the check number `check`. If the probe failed, the error names the check
    /// and gives the reason.
    pub fn count(&mut self, check: usize, probed: Result<(), String>) {
        let Some(counts) = self.checks.get_mut(check) else { return };
        match probed {
            Ok(()) => {
                counts.successes = counts.successes.saturating_add(1);
                counts.failures = 0;
            }
            Err(failure) => {
                counts.successes = 0;
                counts.failures = counts.failures.saturating_add(1);
                counts.all_failures = counts.all_failures.saturating_add(1);
                counts.failure = Some(failure);
            }
        }
    }

    /// Decides whether the deploy is healthy. `at` is the time since the end of the script. Returns
    /// `None` if a decision is not yet possible.
    pub fn decide(&self, at: Duration) -> Option<Decided> {
        let Goal { successes, min, deadline } = self.goal;
        let lacking = |counts: &&Counts| counts.successes < successes;
        // The reason names the check with the most failures in a row. Such a check explains the
        // failure better than a check that merely has not succeeded often enough yet.
        let worst = self.checks.iter().filter(lacking).max_by_key(|counts| counts.failures);
        match worst {
            None if at >= min => Some(Decided::Healthy),
            Some(worst) if at >= deadline => Some(Decided::Failed(worst.reason(successes, at))),
            _ => None,
        }
    }

    /// The next time, counted from the end of the script, at which [`Tally::decide`] may decide
    /// without another probe.
    pub fn due(&self, at: Duration) -> Duration {
        let Goal { min, deadline, .. } = self.goal;
        if at < min { min } else { deadline }
    }
}

impl Counts {
    /// Why this check has not succeeded.
    fn reason(&self, wanted: u32, at: Duration) -> String {
        let after = format!("{} after the switch", seconds(at));
        let Self { label, successes, failures, all_failures, failure } = self;
        match failure {
            Some(failure) if *failures == 1 => format!("health {failure}, once, {after}"),
            Some(failure) if *failures > 1 => {
                format!("health {failure}, {failures} times in a row, {after}")
            }
            Some(failure) if *all_failures == 1 => format!(
                "health {label}: only {successes} of {wanted} successes in a row, {after}; the \
                 check failed once, with: {failure}"
            ),
            Some(failure) => format!(
                "health {label}: only {successes} of {wanted} successes in a row, {after}; the \
                 check failed {all_failures} times, the last time with: {failure}"
            ),
            None if *successes == 0 => format!("health {label}: no answer within {}", seconds(at)),
            None => {
                format!("health {label}: only {successes} of {wanted} successes in a row, {after}")
            }
        }
    }
}

/// The time as text, for example `12.4 s` or `5 s`.
pub fn seconds(time: Duration) -> String {
    let tenths = (time.as_millis() + 50) / 100;
    match tenths % 10 {
        0 => format!("{} s", tenths / 10),
        rest => format!("{}.{rest} s", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const GOAL: Goal = Goal { successes: 3, min: SECOND, deadline: Duration::from_secs(60) };

    fn tally(labels: &[&str]) -> Tally {
        Tally::new(GOAL, labels.iter().map(|&label| label.to_owned()))
    }

    fn probes(tally: &mut Tally, check: usize, results: &str) {
        for result in results.chars() {
            let failed = || Err("http://a/: status 503".to_owned());
            tally.count(check, if result == '+' { Ok(()) } else { failed() });
        }
    }

    fn reason(tally: &Tally, at: Duration) -> String {
        match tally.decide(at) {
            Some(Decided::Failed(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_check_needs_successes_in_a_row_and_the_minimum_must_pass() {
        let mut both = tally(&["a", "b"]);
        probes(&mut both, 0, "+++++");
        probes(&mut both, 1, "--++");
        assert_eq!(both.decide(SECOND), None);
        probes(&mut both, 1, "-++");
        assert_eq!(both.decide(SECOND), None, "a failure in between resets the count");
        probes(&mut both, 1, "+");
        assert_eq!(both.decide(SECOND / 2), None, "the minimum has not passed");
        assert_eq!(both.decide(SECOND), Some(Decided::Healthy));
        probes(&mut both, 0, "-");
        assert_eq!(both.decide(SECOND), None, "a later failure also resets the count");
        // A deploy whose checks have all succeeded at the deadline counts as healthy.
        probes(&mut both, 0, "+++");
        assert_eq!(both.decide(60 * SECOND), Some(Decided::Healthy));
        // The tally ignores a check that does not exist.
        both.count(7, Err(String::new()));
        assert_eq!(both.decide(60 * SECOND), Some(Decided::Healthy));
    }

    #[test]
    fn reason_names_the_check_and_its_counts() {
        let mut all = tally(&["http://a/", "b"]);
        assert_eq!(all.decide(59 * SECOND), None);
        probes(&mut all, 0, "++++");
        assert_eq!(reason(&all, 60 * SECOND), "health b: no answer within 60 s");
        probes(&mut all, 1, "+++");
        probes(&mut all, 0, "-------");
        let late = 60 * SECOND + Duration::from_millis(440);
        let want = "health http://a/: status 503, 7 times in a row, 60.4 s after the switch";
        assert_eq!(reason(&all, late), want);
        probes(&mut all, 0, "+-");
        let want = "health http://a/: status 503, once, 60 s after the switch";
        assert_eq!(reason(&all, 60 * SECOND), want);
        probes(&mut all, 0, "+");
        let flapping = reason(&all, 60 * SECOND);
        assert!(flapping.starts_with("health http://a/: only 1 of 3 successes"), "{flapping}");
        assert!(flapping.ends_with("8 times, the last time with: http://a/: status 503"));
        let mut slow = tally(&["b"]);
        probes(&mut slow, 0, "++");
        let want = "health b: only 2 of 3 successes in a row, 60 s after the switch";
        assert_eq!(reason(&slow, 60 * SECOND), want);
        // The reason names a check that fails now, and not a check that never answered.
        let mut two = tally(&["hangs", "fails"]);
        probes(&mut two, 1, "-");
        assert!(reason(&two, 60 * SECOND).starts_with("health http://a/: status 503"));
    }

    #[test]
    fn decisions_are_due_at_the_minimum_and_at_the_deadline() {
        let all = tally(&["a"]);
        assert_eq!(all.due(SECOND / 2), SECOND);
        assert_eq!(all.due(SECOND), 60 * SECOND);
        let times = [0, 49, 50, 12_440, 5000, 59_960].map(Duration::from_millis);
        let want = ["0 s", "0 s", "0.1 s", "12.4 s", "5 s", "60 s"];
        assert_eq!(times.map(seconds), want);
    }
}
