//! Each test shows one rule of a rollout with a short sequence of events.

use crate::limit::Limit;
use crate::policy::Policy;
use crate::rollout_host::Standing;
use crate::rollout_state::{Status, shows_target};
use crate::sample_rollout::{RESUME, Sample, host, policy};

#[test]
fn waves_open_one_after_another_and_each_one_soaks() {
    let mut it = Sample::new(policy("1,50%"), 4);
    assert_eq!(it.after(0), "wave 1: 1 (budget 1)");
    assert_eq!(it.after(60), "");
    assert_eq!(it.healthy(&[1]), "1 good; soak");
    assert_eq!(it.next(), Some(120));
    assert_eq!(it.after(119), "");
    assert_eq!(it.after(1), "wave 2: 2 3 (budget 1)");
    assert_eq!(it.healthy(&[2]), "2 good");
    assert_eq!(it.healthy(&[3]), "3 good; soak");
    assert_eq!(it.after(120), "wave 3: 4 (budget 1)");
    assert_eq!(it.healthy(&[4]), "4 good; soak");
    assert_eq!(it.after(120), "success");
    assert_eq!(it.next(), None);
}

#[test]
fn rollout_without_hosts_succeeds_at_once() {
    assert_eq!(Sample::new(policy("1"), 0).after(0), "success");
}

#[test]
fn rollout_whose_hosts_cannot_be_taken_halts_instead_of_succeeding() {
    let mut it = Sample::new(policy("1"), 3);
    it.host(1).held = true;
    it.host(2).unknown = true;
    it.host(3).duplicate = true;
    let text = "halt: no host is healthy on the target: 1 held, 1 duplicate, 1 unknown";
    assert_eq!(it.after(0), text);
}

#[test]
fn absent_hosts_are_left_for_later_waves() {
    let mut it = Sample::new(Policy { max_absent: Limit::Count(2), ..policy("2") }, 4);
    it.leave(&[1, 3]);
    it.now += std::time::Duration::from_secs(3600);
    assert_eq!(it.after(0), "wave 1: 2 4 (budget 1)");
    it.host(1).away_since = None;
    it.hosts.push(host(5));
    assert_eq!(it.healthy(&[2, 4]), "2 good; 4 good; soak");
    assert_eq!(it.after(120), "wave 2: 1 5 (budget 1)");
    assert_eq!(it.healthy(&[1, 5]), "1 good; 5 good; soak");
    // Host 3 is still away, and gets the target later.
    assert_eq!(it.after(120), "success");
}

#[test]
fn empty_wave_is_skipped_without_a_soak() {
    let mut it = Sample::new(policy("canary,@h2"), 2);
    assert_eq!(it.after(0), "wave 1: (budget 1); wave 2: 2 (budget 1)");
}

#[test]
fn too_many_absent_hosts_halt_the_rollout() {
    let mut it = Sample::new(policy("1"), 10);
    it.leave(&[2, 3]);
    assert_eq!(it.after(0), "wait");
    assert_eq!(it.next(), Some(60));
    assert_eq!(it.after(60), "halt: 2 of 10 hosts absent; at most 10% may be absent");
    let mut it = Sample::new(policy("1"), 10);
    it.leave(&[2, 3]);
    it.now += std::time::Duration::from_secs(60);
    assert!(it.after(0).starts_with("halt: 2 of 10"));
}

#[test]
fn opening_waits_for_hosts_that_have_just_disconnected() {
    let mut it = Sample::new(policy("1"), 3);
    it.after(0);
    it.healthy(&[1]);
    // The registry restarts during the soak.
    it.leave(&[1, 2, 3]);
    assert_eq!(it.after(120), "");
    it.leave(&[1, 2, 3]);
    assert_eq!(it.after(10), "");
    it.host(1).away_since = None;
    assert_eq!(it.after(0), "wait");
    it.host(2).away_since = None;
    it.host(3).away_since = None;
    assert_eq!(it.after(10), "wave 2: 2 3 (budget 1)");
    assert_eq!(it.rollout.waiting_since, None);
}

#[test]
fn deadlines_that_pass_while_the_registry_is_down_are_extended() {
    let mut it = Sample::new(policy("1"), 2);
    it.after(0);
    it.now += std::time::Duration::from_secs(4 * 3600);
    it.leave(&[1, 2]);
    assert_eq!(it.after(0), "");
    assert_eq!(it.next(), Some(60));
    it.host(1).away_since = None;
    assert_eq!(it.healthy(&[1]), "1 good; soak");
    it.now += std::time::Duration::from_secs(4 * 3600);
    it.leave(&[1, 2]);
    assert_eq!(it.after(0), "");
    it.host(1).away_since = None;
    it.host(2).away_since = None;
    assert_eq!(it.after(30), "wave 2: 2 (budget 1)");
}

#[test]
fn hosts_that_vanish_after_the_deploy_count_as_absent() {
    let mut it = Sample::new(policy("2"), 4);
    it.after(0);
    it.healthy(&[1, 2]);
    it.after(120);
    it.healthy(&[3, 4]);
    it.rollout.policy.waves = "2,2".parse().unwrap();
    it.leave(&[1, 2]);
    assert_eq!(
        it.after(120),
        "halt: 2 of 4 hosts absent (2 of them after they had deployed the target); \
         at most 10% may be absent"
    );
}

#[test]
fn unhealthy_hosts_come_first_and_their_failure_spends_no_budget() {
    let mut it = Sample::new(Policy { max_failed: Limit::Count(0), ..policy("2") }, 4);
    it.host(4).standing = Standing::BaseUnhealthy;
    assert_eq!(it.after(0), "wave 1: 4! 1 (budget 0)");
    assert_eq!(it.fail(&[4]), "4 failed: exit 1");
    assert_eq!(it.healthy(&[1]), "1 good; soak");
}

#[test]
fn wave_of_failed_repairs_does_not_halt_the_rollout() {
    let mut it = Sample::new(policy("1"), 2);
    it.host(2).standing = Standing::BaseUnhealthy;
    it.after(0);
    assert_eq!(it.fail(&[2]), "2 failed: exit 1; soak");
    assert_eq!(it.after(120), "wave 2: 1 (budget 1)");
}

#[test]
fn rollout_with_only_failed_repairs_does_not_succeed() {
    let mut it = Sample::new(policy("1"), 1);
    it.host(1).standing = Standing::BaseUnhealthy;
    it.after(0);
    it.fail(&[1]);
    let text = "wave 2: (budget 1); halt: no host is healthy on the target: 1 failed";
    assert_eq!(it.after(120), text);
}

#[test]
fn host_that_stays_away_after_the_offer_is_lost() {
    let mut it = Sample::new(policy("2"), 9);
    it.after(0);
    it.healthy(&[1]);
    it.leave(&[2]);
    assert_eq!(it.next(), Some(600));
    assert_eq!(it.after(599), "");
    assert_eq!(it.after(1), "2 failed: away for 10m after the offer; soak");
}

#[test]
fn host_without_a_result_fails_after_the_timeout() {
    let mut it = Sample::new(policy("2"), 9);
    it.after(0);
    it.healthy(&[1]);
    it.report(&[2], &Standing::Working);
    assert_eq!(it.next(), Some(1800));
    assert_eq!(it.after(1800), "2 failed: no result within 30m after the offer; soak");
}

#[test]
fn failures_over_the_budget_halt_in_the_same_step() {
    let mut it = Sample::new(policy("100%"), 3);
    it.after(0);
    assert_eq!(it.fail(&[1]), "1 failed: exit 1");
    let text = "2 failed: exit 1; halt: 2 hosts failed: h1, h2; at most 1 may fail";
    assert_eq!(it.fail(&[2]), text);
    // The rollout still records the reports of hosts.
    assert_eq!(it.healthy(&[3]), "3 good");
    assert_eq!(it.after(86_400), "");
}

#[test]
fn failed_canary_halts_although_the_budget_is_not_spent() {
    let mut it = Sample::new(Policy { max_failed: Limit::Count(5), ..policy("1") }, 3);
    it.after(0);
    let text = "1 failed: exit 1; halt: no host of wave 1 is healthy on the target: 1 failed";
    assert_eq!(it.fail(&[1]), text);
}

#[test]
fn host_that_fails_during_the_soak_or_the_next_wave_counts_as_failed() {
    let mut it = Sample::new(Policy { max_failed: Limit::Count(1), ..policy("2") }, 4);
    it.after(0);
    it.healthy(&[1, 2]);
    assert_eq!(it.fail(&[1]), "1 failed: was healthy, then failed: exit 1");
    assert_eq!(it.after(120), "wave 2: 3 4 (budget 1)");
    let text = "2 failed: was healthy, then failed: exit 1; \
                halt: 2 hosts failed: h1, h2; at most 1 may fail";
    assert_eq!(it.fail(&[2]), text);
}

#[test]
fn interrupted_host_has_time_for_one_more_soak() {
    let mut it = Sample::new(policy("2"), 4);
    it.after(0);
    it.healthy(&[1, 2]);
    it.now += std::time::Duration::from_secs(60);
    assert_eq!(it.report(&[1], &Standing::Working), "1 not healthy");
    it.now += std::time::Duration::from_secs(30);
    assert_eq!(it.healthy(&[1]), "1 healthy");
    assert_eq!(it.after(119), "");
    assert_eq!(it.after(1), "wave 2: 3 4 (budget 1)");
    it.healthy(&[3, 4]);
    assert_eq!(it.report(&[3], &Standing::Working), "3 not healthy");
    assert_eq!(it.after(719), "");
    let text = "3 failed: became healthy, but was away at the deadline, or had not been healthy \
                for one whole soak by then";
    assert_eq!(it.after(1), format!("{text}; success"));
}

#[test]
fn soak_waits_for_a_host_that_is_away() {
    let mut it = Sample::new(policy("2"), 4);
    it.after(0);
    it.healthy(&[1, 2]);
    it.now += std::time::Duration::from_secs(60);
    it.leave(&[2]);
    assert_eq!(it.after(599), "");
    let text = "2 failed: away for 10m after the offer; wave 2: 3 4 (budget 1)";
    assert_eq!(it.after(1), text);
}

#[test]
fn held_and_retired_members_do_not_count() {
    let mut it = Sample::new(policy("2"), 3);
    it.after(0);
    it.healthy(&[1]);
    it.host(2).held = true;
    assert_eq!(it.after(10), "2 leaves; soak");
    it.now += std::time::Duration::from_secs(3600);
    it.host(2).held = false;
    // The deadlines of host 2 start again. The soak must wait for a result of host 2.
    assert_eq!(it.after(0), "2 returns");
    assert_eq!(it.next(), Some(1800));
    it.hosts.retain(|host| host.id != 2);
    assert_eq!(it.after(0), "soak");
}

#[test]
fn held_and_duplicate_hosts_are_never_taken() {
    let mut it = Sample::new(policy("@h1+h2+h3"), 3);
    it.host(1).held = true;
    it.host(2).duplicate = true;
    assert_eq!(it.after(0), "wave 1: 3 (budget 1)");
}

#[test]
fn duplicate_host_in_the_open_wave_pauses_the_rollout() {
    let mut it = Sample::new(policy("1"), 2);
    it.after(0);
    it.host(2).duplicate = true;
    assert_eq!(it.after(0), "");
    it.host(1).duplicate = true;
    assert_eq!(it.after(0), "pause: more than one agent uses the name of a host: h1");
    assert_eq!(it.next(), Some(86_400));
    assert_eq!(it.after(86_399), "");
    assert_eq!(it.after(1), "halt: paused for 24h");
}

#[test]
fn paused_rollout_opens_no_wave_but_records_failures() {
    let mut it = Sample::new(policy("3"), 4);
    it.after(0);
    it.command(&crate::Command::Pause { why: "lunch".into() }).unwrap();
    assert_eq!(it.healthy(&[1]), "1 good");
    it.leave(&[2]);
    assert_eq!(it.after(3600), "");
    assert_eq!(it.fail(&[2]), "2 failed: exit 1");
    let text = "3 failed: exit 1; halt: 2 hosts failed: h2, h3; at most 1 may fail";
    assert_eq!(it.fail(&[3]), text);
}

#[test]
fn deadlines_and_soak_start_again_at_a_resume() {
    let mut it = Sample::new(policy("1"), 2);
    it.after(0);
    it.command(&crate::Command::Pause { why: String::new() }).unwrap();
    it.now += std::time::Duration::from_secs(7200);
    it.command(&RESUME).unwrap();
    assert_eq!(it.after(1799), "");
    assert_eq!(it.healthy(&[1]), "1 good; soak");
    it.command(&crate::Command::Pause { why: String::new() }).unwrap();
    assert_eq!(it.after(7200), "");
    it.command(&RESUME).unwrap();
    assert_eq!(it.after(119), "");
    assert_eq!(it.after(1), "wave 2: 2 (budget 1)");
}

#[test]
fn unknown_host_is_good_once_it_has_fetched_the_target() {
    let mut it = Sample::new(Policy { allow_unknown: true, ..policy("1") }, 2);
    it.host(1).unknown = true;
    it.after(0);
    assert_eq!(it.report(&[1], &Standing::Working), "1 good; soak");
    assert_eq!(it.after(120), "wave 2: 2 (budget 1)");
}

#[test]
fn unknown_host_is_taken_only_if_it_is_named_and_needs_a_report_or_a_mark() {
    let mut it = Sample::new(policy("@h1"), 3);
    it.host(1).unknown = true;
    it.host(2).unknown = true;
    assert_eq!(it.after(0), "wave 1: 1 (budget 1)");
    assert_eq!(it.report(&[1], &Standing::Working), "");
    it.command(&crate::Command::Mark { host: 1, good: true }).unwrap();
    assert_eq!(it.after(0), "soak");
    assert_eq!(it.after(120), "wave 2: 3 (budget 1)");
}

#[test]
fn budget_follows_the_hosts_but_never_falls_below_the_failures() {
    let mut it = Sample::new(
        Policy { max_failed: Limit::Percent(deploy_wire::command::Share(2000)), ..policy("4") },
        10,
    );
    assert_eq!(it.after(0), "wave 1: 1 10 2 3 (budget 2)");
    it.fail(&[1, 10]);
    it.hosts.retain(|host| host.id < 4 || host.id > 8);
    assert_eq!(it.healthy(&[2, 3]), "2 good; 3 good; soak");
    assert_eq!(it.after(120), "wave 2: 9 (budget 2)");
}

#[test]
fn target_is_offered_to_members_until_the_end_and_never_to_other_hosts() {
    let mut it = Sample::new(policy("1"), 2);
    it.after(0);
    let shown = |it: &Sample| -> Vec<i64> {
        let is_shown = |host: &&crate::Host| shows_target(&it.rollout, host.member.as_ref());
        it.hosts.iter().filter(is_shown).map(|host| host.id).collect()
    };
    assert_eq!(shown(&it), [1]);
    it.fail(&[1]);
    assert!(matches!(it.rollout.status, Status::Halted { .. }));
    assert_eq!(shown(&it), [1]);
    it.command(&crate::Command::Abort).unwrap();
    assert_eq!(shown(&it), [0_i64; 0]);
}

#[test]
fn deadlines_stand_still_while_the_maintenance_windows_are_closed() {
    let mut it = Sample::new(policy("2"), 9);
    // The rollout starts at 12:00 UTC.
    it.host(1).windows = Some(std::sync::Arc::new("14:00-14:20 UTC".parse().unwrap()));
    it.after(0);
    assert_eq!(it.healthy(&[2]), "2 good");
    it.leave(&[1]);
    assert_eq!(it.after(2 * 3600 + 599), "");
    assert_eq!(it.next(), Some(1));
    it.host(1).away_since = None;
    // 20 minutes of the timeout pass today, and 10 minutes tomorrow.
    assert_eq!(it.after(23 * 3600), "");
    assert_eq!(it.next(), Some(3600 + 1));
    assert_eq!(it.after(3601), "1 failed: no result within 30m after the offer; soak");
}
