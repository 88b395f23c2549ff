//! Makes random policies and fleets.

use std::time::Duration;

use deploy_rollout::{Host, Limit, Policy, Selector, Standing, Waves};
use deploy_wire::command::Share;

use crate::agent::{Kind, MINUTE, SECOND};
use crate::dice::Dice;

const GROUPS: [&str; 3] = ["canary", "web", ""];

pub fn policy(dice: &mut Dice, is_calm: bool) -> Policy {
    let time = |milliseconds| Duration::from_millis(milliseconds);
    Policy {
        waves: waves(dice),
        soak: time(dice.one_of(&[0, 1, 20 * SECOND, 2 * MINUTE, 2 * MINUTE, 15 * MINUTE])),
        max_failed: limit(dice),
        max_absent: if is_calm { Limit::Percent(Share(1000)) } else { limit(dice) },
        lost_after: time(dice.between(MINUTE, 10 * MINUTE)),
        wave_timeout: time(dice.between(3 * MINUTE, 30 * MINUTE)),
        pause_limit: time(dice.between(MINUTE, 120 * MINUTE)),
        reconnect: time(if is_calm { MINUTE } else { dice.one_of(&[0, 5 * SECOND, MINUTE]) }),
        allow_unknown: dice.per_cent(50),
    }
}

fn limit(dice: &mut Dice) -> Limit {
    match dice.below(4) {
        0 => Limit::Count(dice.below(4)),
        1 => Limit::Percent(Share(u32::try_from(dice.between(1, 5_000)).unwrap())),
        2 => Limit::Percent(Share(dice.one_of(&[1_000, 3_000, 10_000]))),
        _ => Limit::Larger(1, Share(200)),
    }
}

fn waves(dice: &mut Dice) -> Waves {
    let selectors = (0..dice.below(5)).map(|_| match dice.below(4) {
        0 => Selector::Group(dice.one_of(&["canary", "web", "none"]).parse().unwrap()),
        1 => Selector::Count(dice.between(1, 5)),
        2 => Selector::Percent(Share(u32::try_from(dice.between(1, 6_000)).unwrap())),
        _ => Selector::Hosts((0..dice.between(1, 4)).map(|_| name(dice.between(1, 12))).collect()),
    });
    Waves::new(selectors.collect()).unwrap()
}

fn name(id: u64) -> deploy_wire::fleet::HostName {
    format!("h{id}").parse().unwrap()
}

/// A random number of hosts. The number is usually small, because small fleets have the most
/// special cases.
pub fn size(dice: &mut Dice) -> u64 {
    match dice.below(1000) {
        0..500 => dice.below(8),
        500..850 => dice.between(8, 40),
        850..990 => dice.between(40, 120),
        _ => dice.between(120, 500),
    }
}

pub fn host(dice: &mut Dice, id: i64, kind: Kind, is_calm: bool) -> Host {
    let is_unhealthy = dice.per_cent(5);
    Host {
        id,
        name: name(u64::try_from(id).unwrap()),
        group: dice.one_of(&GROUPS).to_owned(),
        standing: if is_unhealthy { Standing::BaseUnhealthy } else { Standing::Base },
        away_since: None,
        duplicate: !is_calm && dice.per_cent(1),
        held: !is_calm && dice.per_cent(2),
        unknown: kind.is_unknown(),
        windows: None,
        member: None,
    }
}
