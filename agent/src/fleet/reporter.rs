//! Makes the reports that the agent sends to the registry. A cycle calls this module whenever a
//! deploy makes progress. No call waits for the disk or the network.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use deploy_store::Digest;
use deploy_wire::fleet::{MAX_OUTPUT, MAX_OUTPUT_OF_SUCCESS, Phase, Reason, Report, Step};
use tokio::sync::watch;

use crate::error::Error;
use crate::fleet::deploy_counts::DeployCounts;
use crate::fleet::reasons;
use crate::fleet::waiting_reports::{Greeted, Waiting};
use crate::log::millis;
use crate::records::report_file::ReportFile;

/// The agent reports a lost connection as a failure only after this number of failed cycles in a
/// row. A short restart of the registry is therefore not reported as a failure.
const LOST_BEFORE_FAILED: u32 = 3;

/// The facts about the agent that its reports and its metrics contain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The name of the configuration that the agent tracks.
    pub configuration: String,
    /// The boot id of the host.
    pub boot: String,
    /// The version of the agent.
    pub version: String,
    /// How the agent places files in roots: `reflink`, `hardlink` or `copy`.
    pub link: String,
}

/// The reports of an agent. Clones share the reports.
#[derive(Debug, Clone)]
pub struct Reports {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    about: About,
    waiting: Waiting,
    /// The last report.
    last: Option<Report>,
    /// Number of deploys that agents of this directory have begun.
    attempts: u64,
    /// The revision of the offer that agrees with the current decision; 0 if no offer agrees.
    revision: u64,
    deploy: Option<Deploy>,
    /// Number of cycles in a row that failed because the connection was lost.
    lost: u32,
    counts: DeployCounts,
}

/// A deploy under way.
#[derive(Debug)]
struct Deploy {
    runs: Option<Digest>,
    wants: Digest,
    phase: Phase,
    steps: Vec<Step>,
    /// Time at which the last step ended.
    since: Instant,
    output: Vec<u8>,
}

impl Reports {
    /// Continues with the reports in `file`, which the previous agent left.
    pub fn new(about: About, file: ReportFile) -> Self {
        let ReportFile { attempt, seq, acknowledged, last, waiting } = file;
        let waiting = Waiting::new(waiting, seq, acknowledged);
        let inner = Inner { about, waiting, last, attempts: attempt, ..Inner::default() };
        Self { inner: Arc::new(Mutex::new(inner)), changed: watch::Sender::new(0) }
    }

    /// Reports `state`, which follows from the records, unless the last report has the same phase
    /// and the same configurations.
    pub fn resume(&self, state: Option<Report>) {
        let Some(state) = state else { return };
        self.change(|inner| {
            let same = inner.last.as_ref().is_some_and(|last| {
                (last.phase, last.runs, last.wants) == (state.phase, state.runs, state.wants)
            });
            if !same {
                // There was at least one deploy, even if the file with the reports is lost.
                inner.attempts = inner.attempts.max(1);
                let last = inner.last.as_ref().filter(|last| last.wants == state.wants);
                inner.revision = last.map_or(0, |last| last.revision);
                inner.push(state);
            }
        });
    }

    /// Sets the revision of later reports: the revision of the offer that agrees with the decision.
    pub fn decides(&self, revision: u64) {
        self.inner().revision = revision;
    }

    /// Reports that a deploy of `wants` begins while `runs` is deployed. If an unfinished deploy of
    /// `wants` has not reached its health gate, that deploy continues, and nothing is reported.
    pub fn begin(&self, runs: Option<Digest>, wants: Digest) {
        self.change(|inner| {
            let continued = |it: &Deploy| it.wants == wants && it.phase < Phase::Checking;
            if inner.deploy.as_ref().is_some_and(continued) {
                return;
            }
            inner.attempts += 1;
            let (phase, steps, output) = (Phase::Offered, Vec::new(), Vec::new());
            let since = Instant::now();
            inner.deploy = Some(Deploy { runs, wants, phase, steps, since, output });
            inner.push_deploy();
        });
    }

    /// Reports that the deploy under way, if there is one, has reached `phase`.
    pub fn reached(&self, phase: Phase) {
        self.change(|inner| {
            let Some(deploy) = inner.deploy.as_mut().filter(|deploy| deploy.phase < phase) else {
                return;
            };
            deploy.step(phase);
            inner.push_deploy();
        });
    }

    /// Records the end of the script's output.
    pub fn printed(&self, output: &[u8]) {
        let mut inner = self.inner();
        // After the start of the health gate, only the script of a rollback can run.
        if let Some(deploy) = inner.deploy.as_mut().filter(|it| it.phase < Phase::Checking) {
            deploy.output = output.to_vec();
        }
    }

    /// Reports that the health gate of `deployed` begins. If no deploy of `deployed` is under way,
    /// the gate continues the previous agent's deploy, or counts as a new deploy.
    pub fn checks(&self, deployed: Digest) {
        self.change(|inner| inner.check(deployed));
    }

    /// Reports that the deploy under way has succeeded.
    pub fn healthy(&self) {
        self.change(|inner| {
            let Some(mut deploy) = inner.deploy.take() else { return };
            deploy.step(Phase::Healthy);
            inner.counts.ended(Phase::Healthy, &deploy.steps);
            let output = end(&deploy.output, MAX_OUTPUT_OF_SUCCESS);
            let state = ended(deploy, Phase::Healthy);
            inner.push(Report { runs: state.wants, output, ..state });
        });
    }

    /// Reports that the cycle failed. `offered` is the registry's configuration, if known.
    pub fn failed(&self, err: &Error, offered: Option<Digest>) {
        self.change(|inner| {
            inner.lost = if reasons::is_connection(err) { inner.lost + 1 } else { 0 };
            let is_quiet = matches!(err, Error::UnknownConfiguration { .. })
                || (1..LOST_BEFORE_FAILED).contains(&inner.lost);
            if is_quiet {
                return;
            }
            let state = match inner.deploy.take() {
                Some(mut deploy) => {
                    deploy.step(Phase::Failed);
                    inner.counts.ended(Phase::Failed, &deploy.steps);
                    let output = end(&deploy.output, MAX_OUTPUT);
                    Report { output, ..ended(deploy, Phase::Failed) }
                }
                None if reasons::is_connection(err) => return,
                None => {
                    let last = inner.last.as_ref();
                    let runs = last.and_then(|last| last.runs);
                    let wants = offered.or(last.and_then(|last| last.wants));
                    Report { phase: Phase::Failed, runs, wants, ..Report::default() }
                }
            };
            let (reason, message) = (Some(reasons::reason(err)), err.to_string());
            let exit_code = reasons::exit_code(err);
            inner.push_new(Report { reason, message, exit_code, ..state });
        });
    }

    /// Reports that `wants` is not healthy and `runs` is deployed again; `message` has the reason.
    pub fn rolled_back(&self, runs: Option<Digest>, wants: Option<Digest>, message: String) {
        let phase = Phase::RolledBack;
        self.unhealthy(Report { phase, runs, wants, message, ..Report::default() });
    }

    /// Reports that the agent keeps `id`, which is not healthy. `message` contains the reason.
    pub fn rejected(&self, id: Digest, message: String) {
        let (phase, runs, wants) = (Phase::Failed, Some(id), Some(id));
        self.unhealthy(Report { phase, runs, wants, message, ..Report::default() });
    }

    fn unhealthy(&self, state: Report) {
        self.change(|inner| {
            inner.lost = 0;
            let state = Report { reason: Some(Reason::Health), ..state };
            match inner.deploy.take().filter(|deploy| state.wants == Some(deploy.wants)) {
                Some(mut deploy) => {
                    deploy.step(state.phase);
                    inner.counts.ended(state.phase, &deploy.steps);
                    let output = end(&deploy.output, MAX_OUTPUT);
                    inner.push(Report { steps: deploy.steps, output, ..state });
                }
                None => inner.push_new(state),
            }
        });
    }

    /// Reports that the registry's configuration `id` is deployed.
    pub fn up_to_date(&self, id: Digest) {
        let (runs, wants) = (Some(id), Some(id));
        self.settled(Report { phase: Phase::Healthy, runs, wants, ..Report::default() });
    }

    /// Reports that the agent does not deploy `wants`, for the reason in `message`.
    pub fn held(&self, runs: Option<Digest>, wants: Option<Digest>, message: String) {
        let (phase, reason) = (Phase::Held, Some(Reason::Operator));
        self.settled(Report { phase, runs, wants, reason, message, ..Report::default() });
    }

    /// Confirms that the last result still applies.
    pub fn unchanged(&self) {
        let last = self.inner().last.clone();
        if let Some(last) = last.filter(|last| last.phase.is_final()) {
            self.settled(last);
        }
    }

    fn settled(&self, state: Report) {
        self.change(|inner| {
            inner.lost = 0;
            inner.deploy = None;
            inner.push_new(state);
        });
    }

    /// Records that the registry has the reports up to number `seq`.
    pub fn acknowledge(&self, seq: u64) {
        self.change(|inner| inner.waiting.acknowledge(seq));
    }

    /// Handles the first line of a registry. `last` is the number of the last report that the
    /// registry has. If `refused` is true, the registry keeps no reports.
    pub fn greet(&self, last: u64, refused: bool) {
        self.change(|inner| {
            if inner.waiting.greet(last) == Greeted::Repeat
                && !refused
                && let Some(last) = inner.last.clone()
            {
                inner.push(last);
            }
        });
    }

    /// The reports after number `seq` that wait for the registry.
    pub fn after(&self, seq: u64) -> Vec<Report> {
        let inner = self.inner();
        inner.waiting.reports().iter().filter(|report| report.seq > seq).cloned().collect()
    }

    /// Repeats the last report with `revision`, if it is a result for `id` without a revision.
    pub fn confirm(&self, revision: u64, id: Option<Digest>) {
        self.change(|inner| {
            let last = inner.last.clone().filter(|last| last.wants == id && last.revision == 0);
            if let Some(last) = last.filter(|last| last.phase.is_final()) {
                inner.revision = revision;
                inner.push(last);
            }
        });
    }

    /// A receiver whose value changes whenever the reports change.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The contents of the file in which the reports are kept.
    pub fn file(&self) -> ReportFile {
        let inner = self.inner();
        ReportFile {
            attempt: inner.attempts,
            seq: inner.waiting.seq(),
            acknowledged: inner.waiting.acknowledged(),
            last: inner.last.clone(),
            waiting: inner.waiting.reports().to_vec(),
        }
    }

    /// The facts about the agent, its current phase, and the counts for metrics.
    pub fn counts(&self) -> (About, Phase, DeployCounts) {
        let inner = self.inner();
        let phase = inner.last.as_ref().map_or(Phase::Unknown, |last| last.phase);
        (inner.about.clone(), phase, inner.counts.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner());
        self.changed.send_modify(|count| *count += 1);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The report of a deploy that ended with `phase`.
fn ended(deploy: Deploy, phase: Phase) -> Report {
    let Deploy { runs, wants, steps, .. } = deploy;
    Report { phase, runs, wants: Some(wants), steps, ..Report::default() }
}

impl Inner {
    fn check(&mut self, deployed: Digest) {
        let mut deploy = match self.deploy.take().filter(|deploy| deploy.wants == deployed) {
            Some(deploy) => deploy,
            None => self.taken_up(deployed),
        };
        let is_new = deploy.phase < Phase::Checking;
        if is_new {
            deploy.step(Phase::Checking);
            deploy.runs = Some(deployed);
        }
        self.deploy = Some(deploy);
        if is_new {
            self.push_deploy();
        } else {
            let (phase, runs) = (Phase::Checking, Some(deployed));
            self.push_new(Report { phase, runs, wants: runs, ..Report::default() });
        }
    }

    /// Returns the unfinished deploy of `wants` from the last report, or else a new deploy.
    fn taken_up(&mut self, wants: Digest) -> Deploy {
        let last = self.last.as_ref();
        let last = last.filter(|last| last.wants == Some(wants) && !last.phase.is_final());
        let (phase, steps) = match last {
            Some(last) => (last.phase, last.steps.clone()),
            None => {
                self.attempts += 1;
                (Phase::Offered, Vec::new())
            }
        };
        let since = Instant::now();
        Deploy { runs: Some(wants), wants, phase, steps, since, output: Vec::new() }
    }

    fn push_deploy(&mut self) {
        let Some(Deploy { runs, wants, phase, steps, .. }) = &self.deploy else { return };
        let (runs, wants, phase, steps) = (*runs, Some(*wants), *phase, steps.clone());
        self.push(Report { phase, runs, wants, steps, ..Report::default() });
    }

    /// Reports `state` if `state` differs from the last report. If both have the same phase,
    /// configurations and attempt, the new report keeps the details of the deploy.
    fn push_new(&mut self, state: Report) {
        let mut report = self.complete(state);
        if let Some(last) = &self.last {
            let of = |report: &Report| (report.phase, report.runs, report.wants, report.attempt);
            if of(last) == of(&report) && report.steps.is_empty() {
                let Report { seq, steps, exit_code, output, .. } = last.clone();
                report = Report { seq, steps, exit_code, output, ..report };
            }
        }
        if self.last.as_ref() != Some(&report) {
            self.push(report);
        }
    }

    fn push(&mut self, state: Report) {
        let report = self.complete(state);
        self.waiting.push(report.clone());
        self.last = Some(Report { seq: self.waiting.seq(), ..report });
    }

    /// Adds to `state` the facts that every report contains.
    fn complete(&self, state: Report) -> Report {
        let About { boot, version, link, .. } = self.about.clone();
        let (revision, attempt) = (self.revision, self.attempts);
        Report { revision, attempt, boot, version, link, ..state }.within_limits()
    }
}

impl Deploy {
    fn step(&mut self, phase: Phase) {
        self.phase = phase;
        self.steps.push(Step { phase, ms: millis(self.since) });
        self.since = Instant::now();
    }
}

/// The last `most` bytes of `output`, as text.
fn end(output: &[u8], most: usize) -> String {
    String::from_utf8_lossy(&output[output.len().saturating_sub(most)..]).into_owned()
}

#[cfg(test)]
mod tests {
    use deploy_wire::client::ClientError;
    use deploy_wire::fleet::Phase::{
        Checking, Failed, Fetched, Healthy, Held, Offered, RolledBack, Script, Staged,
    };

    use super::*;

    fn id(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn reports() -> Reports {
        let link = "copy".to_owned();
        Reports::new(About { link, ..About::default() }, ReportFile::default())
    }

    fn sent(reports: &Reports) -> Vec<(u64, u64, Phase)> {
        let all = reports.after(0).into_iter();
        all.map(|report| (report.attempt, report.revision, report.phase)).collect()
    }

    fn lost() -> Error {
        Error::Registry(ClientError::Lost("gone".to_owned()))
    }

    #[test]
    fn deploy_is_reported_step_by_step() {
        let reports = reports();
        reports.decides(4);
        reports.begin(Some(id("1")), id("2"));
        assert_eq!(sent(&reports), [(1, 4, Offered)]);
        reports.reached(Fetched);
        reports.reached(Staged);
        reports.reached(Fetched);
        reports.printed(b"of another script");
        reports.reached(Script);
        reports.printed(format!("{}end", "x".repeat(MAX_OUTPUT)).as_bytes());
        reports.healthy();
        let report = reports.after(0).remove(0);
        assert_eq!((report.phase, report.seq, &*report.link), (Healthy, 5, "copy"));
        assert_eq!((report.runs, report.wants), (Some(id("2")), Some(id("2"))));
        let steps: Vec<Phase> = report.steps.iter().map(|step| step.phase).collect();
        assert_eq!(steps, [Fetched, Staged, Script, Healthy]);
        assert!(report.output.len() == MAX_OUTPUT_OF_SUCCESS && report.output.ends_with("xend"));
        // The agent does not report steps outside of a deploy, for example in a rollback.
        reports.reached(Staged);
        assert_eq!(sent(&reports), [(1, 4, Healthy)]);
    }

    #[test]
    fn every_revision_is_confirmed_once() {
        let reports = reports();
        reports.decides(4);
        reports.begin(None, id("1"));
        reports.reached(Script);
        reports.printed(b"done");
        reports.healthy();
        for _ in 0..2 {
            reports.up_to_date(id("1"));
            assert_eq!(reports.file().seq, 3);
        }
        reports.decides(5);
        reports.up_to_date(id("1"));
        reports.up_to_date(id("1"));
        let report = reports.after(0).remove(0);
        assert_eq!((report.seq, report.revision, &*report.output), (4, 5, "done"));
        assert_eq!(report.steps.len(), 2, "the confirmation keeps the steps of the deploy");
        reports.held(Some(id("1")), Some(id("2")), "an operator holds the host".to_owned());
        reports.held(Some(id("1")), Some(id("2")), "an operator holds the host".to_owned());
        reports.decides(6);
        reports.unchanged();
        let last = reports.after(0).pop().unwrap();
        assert_eq!((last.seq, last.phase, last.revision), (6, Held, 6));
    }

    #[test]
    fn failure_has_its_reason_and_its_own_attempt() {
        let reports = reports();
        for _ in 0..2 {
            reports.begin(None, id("1"));
            reports.failed(&Error::NothingDeployed, Some(id("1")));
        }
        assert_eq!(sent(&reports), [(1, 0, Failed), (2, 0, Failed)]);
        let report = reports.after(0).pop().unwrap();
        assert_eq!((report.reason, report.wants), (Some(Reason::Other), Some(id("1"))));
        assert!(report.message.starts_with("nothing is deployed"));
        // If the same failure repeats before a deploy begins, the agent reports it once.
        for _ in 0..3 {
            reports.failed(&Error::NoRegistry, None);
        }
        let report = reports.after(0).pop().unwrap();
        assert_eq!((report.seq, report.attempt), (5, 2));
        assert_eq!((report.reason, report.wants), (Some(Reason::Registry), Some(id("1"))));
        assert_eq!(reports.counts().2.failed, 2);
    }

    #[test]
    fn gate_ends_its_deploy_or_continues_an_earlier_deploy() {
        let before = reports();
        before.begin(Some(id("1")), id("2"));
        before.reached(Script);
        before.printed(b"of the deploy");
        before.checks(id("2"));
        let report = before.after(0).remove(0);
        assert_eq!(
            (report.phase, report.runs, report.wants),
            (Checking, Some(id("2")), report.runs)
        );
        let killed =
            Reports::new(About { link: "copy".to_owned(), ..About::default() }, before.file());
        // The script of the rollback runs.
        before.reached(Script);
        before.printed(b"of the rollback");
        let back = |reports: &Reports| {
            reports.rolled_back(Some(id("1")), Some(id("2")), "no answer".to_owned());
            reports.after(0).pop().unwrap()
        };
        let report = back(&before);
        assert_eq!((report.phase, report.reason), (RolledBack, Some(Reason::Health)));
        assert_eq!((report.runs, report.wants), (Some(id("1")), Some(id("2"))));
        assert_eq!((&*report.message, &*report.output), ("no answer", "of the deploy"));
        let steps: Vec<Phase> = report.steps.iter().map(|step| step.phase).collect();
        assert_eq!(steps, [Script, Checking, RolledBack]);
        assert_eq!(before.counts().2.rolled_back, 1);
        assert_eq!(back(&before), report, "later cycles report nothing new");

        // The next agent repeats the gate in the same deploy.
        let seq = killed.file().seq;
        killed.checks(id("2"));
        assert_eq!(killed.file().seq, seq);
        killed.healthy();
        let report = killed.after(0).pop().unwrap();
        assert_eq!((report.attempt, report.phase, report.steps.len()), (1, Healthy, 3));
        // A new attempt counts as a new deploy.
        killed.checks(id("2"));
        killed.rejected(id("2"), "no answer".to_owned());
        let report = killed.after(0).pop().unwrap();
        assert_eq!((report.attempt, report.phase), (2, Failed));
        assert_eq!((report.reason, report.runs), (Some(Reason::Health), Some(id("2"))));
    }

    #[test]
    fn lost_connection_fails_a_deploy_only_after_several_cycles() {
        let reports = reports();
        for _ in 1..LOST_BEFORE_FAILED {
            reports.begin(None, id("1"));
            reports.failed(&lost(), Some(id("1")));
            assert_eq!(sent(&reports), [(1, 0, Offered)]);
        }
        reports.begin(None, id("1"));
        reports.failed(&lost(), Some(id("1")));
        assert_eq!(sent(&reports), [(1, 0, Failed)]);
        reports.failed(&lost(), None);
        assert_eq!(sent(&reports), [(1, 0, Failed)], "no deploy is under way");
    }

    #[test]
    fn next_agent_continues_and_reports_only_what_is_new() {
        let before = reports();
        before.decides(3);
        before.begin(None, id("1"));
        before.healthy();
        before.acknowledge(2);
        let state = |phase, wants| {
            Some(Report { phase, runs: Some(id("1")), wants: Some(wants), ..Report::default() })
        };
        let next = |file| Reports::new(About { link: "copy".to_owned(), ..About::default() }, file);
        let same = next(before.file());
        same.resume(state(Healthy, id("1")));
        assert!(same.after(0).is_empty());
        same.decides(3);
        same.up_to_date(id("1"));
        assert!(same.after(0).is_empty());
        before.begin(Some(id("1")), id("2"));
        let killed = next(before.file());
        killed.resume(state(Failed, id("2")));
        assert_eq!(sent(&killed), [(2, 3, Failed)]);
        killed.begin(Some(id("1")), id("2"));
        assert_eq!(sent(&killed), [(2, 3, Failed), (3, 3, Offered)]);
        let restored = next(same.file());
        restored.greet(0, true);
        assert!(restored.after(0).is_empty());
        restored.acknowledge(2);
        restored.greet(0, false);
        assert_eq!(sent(&restored), [(1, 0, Healthy)]);
    }

    #[test]
    fn single_cycle_confirms_an_offer_that_arrives_after_the_result() {
        let reports = reports();
        reports.begin(None, id("1"));
        reports.healthy();
        reports.confirm(9, Some(id("2")));
        assert_eq!(sent(&reports), [(1, 0, Healthy)]);
        reports.confirm(9, Some(id("1")));
        assert_eq!(sent(&reports), [(1, 9, Healthy)]);
    }
}
