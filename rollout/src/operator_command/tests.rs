use super::*;
use crate::policy::Policy;
use crate::sample_rollout::{RESUME, Sample, policy};

fn pause() -> Command {
    Command::Pause { why: "lunch".to_owned() }
}

fn resume_with(max_failed: &str) -> Command {
    Command::Resume { max_failed: Some(max_failed.parse().unwrap()), max_absent: None }
}

#[test]
fn refusal_says_the_status_and_what_is_possible() {
    let mut it = Sample::new(policy("1"), 2);
    it.after(0);
    let text = "cannot resume: the rollout is running; you can pause or abort it";
    assert_eq!(it.refusal(&RESUME), text);
    it.command(&pause()).unwrap();
    let text = "cannot pause: the rollout is paused (lunch); you can resume or abort it";
    assert_eq!(it.refusal(&pause()), text);
    it.command(&Command::Abort).unwrap();
    let text = "cannot abort: the rollout is aborted; start another rollout";
    assert_eq!(it.refusal(&Command::Abort), text);
}

#[test]
fn abort_is_allowed_until_the_end() {
    for prepare in [0, 1, 2] {
        let mut it = Sample::new(policy("1"), 2);
        it.after(0);
        match prepare {
            0 => {}
            1 => it.command(&pause()).unwrap(),
            _ => drop(it.fail(&[1])),
        }
        it.command(&Command::Abort).unwrap();
        assert_eq!(it.rollout.status, Status::Aborted);
        assert_eq!(it.after(0), "");
        for late in [RESUME, pause(), Command::SkipSoak, Command::Supersede] {
            it.refusal(&late);
        }
    }
}

#[test]
fn resume_needs_a_budget_for_the_failures() {
    let mut it = Sample::new(policy("100%"), 5);
    it.after(0);
    it.fail(&[1, 2, 3]);
    let text = "cannot resume: 3 hosts failed, and at most 1 may fail; resume with -max-failed 3 or \
                more, retry or mark a failed host, or abort";
    assert_eq!(it.refusal(&RESUME), text);
    assert!(it.refusal(&resume_with("2")).contains("3 hosts failed, and at most 2 may fail"));
    it.command(&resume_with("3")).unwrap();
    assert_eq!((it.rollout.budget, it.rollout.policy.max_failed), (3, Limit::Count(3)));
    assert_eq!(it.healthy(&[4, 5]), "4 good; 5 good; soak");
    assert_eq!(it.after(120), "success");
}

#[test]
fn resume_is_refused_if_the_rollout_would_stop_again() {
    let mut it = Sample::new(policy("1"), 3);
    it.after(0);
    it.fail(&[1]);
    assert!(it.refusal(&RESUME).contains("no host of wave 1 is healthy"));
    // The only host of the wave is held, so it does not count and the wave is empty.
    it.host(1).held = true;
    it.command(&RESUME).unwrap();
    assert_eq!(it.after(0), "1 leaves; wave 2: 2 3 (budget 1)");
    it.host(2).duplicate = true;
    it.after(0);
    assert!(it.refusal(&RESUME).contains("uses the name of a host: h2; stop all agents but one"));
}

#[test]
fn resume_takes_a_larger_limit_on_absent_hosts() {
    let mut it = Sample::new(Policy::default(), 4);
    it.leave(&[1, 2]);
    assert!(it.after(60).starts_with("halt: 2 of 4 hosts absent"));
    assert!(it.refusal(&RESUME).contains("give a larger -max-absent"));
    let max_absent = Some("50%".parse().unwrap());
    it.command(&Command::Resume { max_failed: None, max_absent }).unwrap();
    assert_eq!(it.after(0), "wave 1: 3 4 (budget 1)");
}

#[test]
fn soak_can_be_skipped_only_while_it_lasts() {
    let mut it = Sample::new(policy("1"), 2);
    it.after(0);
    let text = "cannot skip the soak: wave 1 is not soaking; it has 1 host without a result";
    assert_eq!(it.refusal(&Command::SkipSoak), text);
    it.healthy(&[1]);
    it.command(&Command::SkipSoak).unwrap();
    assert_eq!(it.after(0), "wave 2: 2 (budget 1)");
    it.refusal(&Command::SkipSoak);
}

#[test]
fn mark_sets_the_result_whatever_the_host_reports() {
    let mut it = Sample::new(policy("2"), 3);
    it.after(0);
    it.fail(&[1]);
    it.command(&Command::Mark { host: 1, good: true }).unwrap();
    assert_eq!(failed(&it.hosts), 0);
    it.command(&Command::Mark { host: 2, good: false }).unwrap();
    assert_eq!(failed(&it.hosts), 1);
    assert_eq!(it.healthy(&[2]), "soak");
    let text = "cannot mark host h3: no wave has taken it; a wave of a new rollout can name it: \
                -waves @h3";
    assert_eq!(it.refusal(&Command::Mark { host: 3, good: true }), text);
    assert!(it.refusal(&Command::Mark { host: 99, good: true }).contains("host 99"));
}

#[test]
fn retry_gives_a_failed_host_new_deadlines() {
    let mut it = Sample::new(policy("2"), 3);
    it.after(0);
    it.fail(&[1]);
    assert_eq!(it.healthy(&[2]), "2 good; soak");
    it.now += std::time::Duration::from_secs(100);
    it.command(&Command::Retry { host: 1 }).unwrap();
    it.host(1).standing = crate::Standing::Working;
    assert_eq!(it.after(0), "");
    assert_eq!(it.next(), Some(1800));
    assert_eq!(it.healthy(&[1]), "1 good; soak");
    assert!(it.refusal(&Command::Retry { host: 1 }).contains("has not failed"));
}
