//! Decides what a cycle does. The decision depends only on the facts in [`Known`]. This module does
//! not access the disk, the network or the clock.

use deploy_store::{Configuration, Layer};

use crate::records::rollback_hold::RollbackHold;
use crate::records::unproven::Unproven;

/// The result of a cycle that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The registry's configuration is deployed.
    UpToDate,
    /// A script failed, and the wait before its next run has not ended.
    Held,
    /// The registry's configuration is not deployed, because the hold of a rollback applies to it.
    RolledBack,
    /// A configuration was deployed.
    Switched,
    /// The configuration that the agent should deploy is deployed, but its health gate failed.
    Rejected,
    /// An operator holds the host, so the agent deploys nothing new.
    HostHeld,
    /// The registry offered a newer configuration before the deploy began.
    Superseded,
    /// The root of the registry's configuration is built. The switch waits until the maintenance
    /// window of the host's group opens.
    Staged,
    /// The health gate was interrupted, because the registry may have another configuration.
    Undecided,
}

/// The difference between a new configuration and the deployed configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// No difference that a script could notice.
    None,
    /// The tree is the same, but names or versions differ.
    Labels,
    /// The tree differs, or nothing is deployed yet.
    Tree,
}

impl Change {
    /// The difference between the configuration `new` and the deployed configuration `old`.
    pub fn between(old: Option<&Configuration>, new: &Configuration) -> Self {
        fn labels(layer: &Layer) -> (&str, &str) {
            (layer.component.as_str(), layer.version.as_str())
        }
        match old {
            Some(old) if old.id() == new.id() => {
                let same = old.layers().iter().map(labels).eq(new.layers().iter().map(labels));
                if same && old.name() == new.name() { Self::None } else { Self::Labels }
            }
            _ => Self::Tree,
        }
    }
}

/// The facts that an agent knows after it has asked the registry.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// The deployed configuration, if any.
    pub deployed: Option<&'a Configuration>,
    /// Whether the deployed configuration must be deployed again, because its root is missing or
    /// because the last script did not succeed.
    pub needs_redeploy: bool,
    /// The registry's configuration, or the deployed configuration while an operator holds the
    /// host.
    pub offered: &'a Configuration,
    /// The hold that a rollback left, if any; `None` while an operator holds the host.
    pub hold: Option<&'a RollbackHold>,
    /// A configuration whose script failed and must wait before its next run, if any.
    pub waiting: Option<&'a Configuration>,
    /// A configuration that has not proven healthy, if any.
    pub unproven: Option<&'a Unproven>,
}

/// What to do with a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Do nothing, because the script runs again later, or because the configuration is rejected.
    Wait,
    /// The configuration is already deployed: only maintain the symlink and the spare root.
    Maintain,
    /// The configuration is already deployed, but its health gate has not ended: run the gate.
    Check,
    /// The configuration is already deployed: deploy it again.
    Redeploy,
    /// Deploy the configuration, which differs from the deployed configuration.
    Deploy(Change),
}

/// What a cycle does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether to lift the hold of a rollback first, because the hold no longer applies.
    pub lifts_hold: bool,
    /// Whether to end the rejection of the deployed configuration, because the registry has another
    /// configuration.
    pub lifts_rejection: bool,
    /// What to do with `target`.
    pub action: Action,
    /// The configuration to which the action applies.
    pub target: &'a Configuration,
    /// How the cycle ends if the action succeeds.
    pub outcome: Outcome,
}

/// Decides what a cycle does.
pub fn decide<'a>(known: &Known<'a>) -> Decision<'a> {
    let deployed_id = known.deployed.map(Configuration::id);
    let is_held = known.hold.is_some_and(|hold| hold.holds(deployed_id, known.offered.id()));
    let target = known.deployed.filter(|_| is_held).unwrap_or(known.offered);
    let waits =
        known.waiting.is_some_and(|waiting| Change::between(Some(waiting), target) == Change::None);
    let unproven = known.unproven.filter(|unproven| unproven.is_of(deployed_id));
    let was_rejected = unproven.is_some_and(Unproven::is_rejected);
    let is_rejected = was_rejected && deployed_id == Some(target.id());
    let (action, outcome) = match Change::between(known.deployed, target) {
        _ if is_rejected => (Action::Wait, Outcome::Rejected),
        Change::None if !known.needs_redeploy && unproven.is_some() => {
            (Action::Check, Outcome::UpToDate)
        }
        Change::None if !known.needs_redeploy => (Action::Maintain, Outcome::UpToDate),
        _ if waits => (Action::Wait, Outcome::Held),
        Change::None => (Action::Redeploy, Outcome::Switched),
        change => (Action::Deploy(change), Outcome::Switched),
    };
    let outcome = match outcome {
        Outcome::UpToDate | Outcome::Switched if is_held => Outcome::RolledBack,
        other => other,
    };
    let lifts_hold = known.hold.is_some() && !is_held;
    let lifts_rejection = was_rejected && !is_rejected;
    Decision { lifts_hold, lifts_rejection, action, target, outcome }
}

#[cfg(test)]
mod tests {
    use deploy_store::Digest;
    use jiff::Timestamp;

    use super::*;
    use crate::records::unproven::Failure;

    fn configuration(name: &str, layers: &[(&str, &str)]) -> Configuration {
        let now = "2026-11-23T03:49:00Z".parse().unwrap();
        let layer = |&(version, bytes): &(&str, &str)| Layer {
            component: format!("c-{bytes}").parse().unwrap(),
            version: version.parse().unwrap(),
            digest: Digest::of(bytes.as_bytes()),
            created: now,
        };
        let layers = layers.iter().map(layer).collect();
        Configuration::new(name.parse().unwrap(), layers, now).unwrap()
    }

    fn hold(from: &Configuration, to: &Configuration) -> RollbackHold {
        RollbackHold::new(from.id(), to.id(), None, Timestamp::UNIX_EPOCH)
    }

    /// The action, the outcome, and whether the target is the registry's configuration.
    fn decided(known: &Known<'_>) -> (Action, Outcome, bool) {
        let Decision { action, outcome, target, .. } = decide(known);
        (action, outcome, target == known.offered)
    }

    #[test]
    fn changes_of_tree_and_of_labels_are_distinguished() {
        let old = configuration("p", &[("v1", "a"), ("v1", "b")]);
        let check = |new: &Configuration| Change::between(Some(&old), new);
        assert_eq!(Change::between(None, &old), Change::Tree);
        assert_eq!(check(&old), Change::None);
        assert_eq!(check(&configuration("p", &[("v1", "a"), ("v2", "b")])), Change::Labels);
        assert_eq!(check(&configuration("q", &[("v1", "a"), ("v1", "b")])), Change::Labels);
        assert_eq!(check(&configuration("p", &[("v1", "b"), ("v1", "a")])), Change::Tree);
        assert_eq!(check(&configuration("p", &[("v1", "a")])), Change::Tree);
    }

    #[test]
    fn new_configuration_is_deployed_and_the_deployed_configuration_is_maintained() {
        let [one, two] = ["1", "2"].map(|bytes| configuration("p", &[("v1", bytes)]));
        let label = configuration("p", &[("v2", "1")]);
        let known = |deployed, offered| Known {
            deployed,
            needs_redeploy: false,
            offered,
            hold: None,
            waiting: None,
            unproven: None,
        };
        let deploy = |change| (Action::Deploy(change), Outcome::Switched, true);
        assert_eq!(decided(&known(None, &one)), deploy(Change::Tree));
        assert_eq!(decided(&known(Some(&one), &two)), deploy(Change::Tree));
        assert_eq!(decided(&known(Some(&one), &label)), deploy(Change::Labels));
        let same = known(Some(&one), &one);
        assert_eq!(decided(&same), (Action::Maintain, Outcome::UpToDate, true));
        let redeploy = Known { needs_redeploy: true, ..same };
        assert_eq!(decided(&redeploy), (Action::Redeploy, Outcome::Switched, true));
        let other = Known { needs_redeploy: true, ..known(Some(&one), &two) };
        assert_eq!(decided(&other), deploy(Change::Tree));
    }

    #[test]
    fn failed_script_delays_only_its_own_configuration() {
        let [one, two] = ["1", "2"].map(|bytes| configuration("p", &[("v1", bytes)]));
        let label = configuration("p", &[("v2", "2")]);
        let known = |offered, needs_redeploy| Known {
            deployed: Some(&one),
            needs_redeploy,
            offered,
            hold: None,
            waiting: Some(&two),
            unproven: None,
        };
        let wait = (Action::Wait, Outcome::Held, true);
        assert_eq!(decided(&known(&two, true)), wait);
        assert_eq!(decided(&known(&label, true)).0, Action::Deploy(Change::Tree));
        assert_eq!(decided(&known(&one, true)).0, Action::Redeploy);
        let again = Known { waiting: Some(&one), ..known(&one, true) };
        assert_eq!(decided(&again), wait);
        let settled = Known { needs_redeploy: false, ..again };
        assert_eq!(decided(&settled).0, Action::Maintain);
    }

    #[test]
    fn hold_keeps_the_deployed_configuration_until_the_registry_has_another() {
        let [old, bad, new] = ["1", "2", "3"].map(|bytes| configuration("p", &[("v1", bytes)]));
        let hold = hold(&bad, &old);
        let known = |offered| Known {
            deployed: Some(&old),
            needs_redeploy: false,
            offered,
            hold: Some(&hold),
            waiting: None,
            unproven: None,
        };
        let same = known(&bad);
        assert_eq!(decided(&same), (Action::Maintain, Outcome::RolledBack, false));
        assert!(!decide(&same).lifts_hold);
        let redeploy = Known { needs_redeploy: true, ..same };
        assert_eq!(decided(&redeploy), (Action::Redeploy, Outcome::RolledBack, false));
        let waiting = Known { waiting: Some(&old), ..redeploy };
        assert_eq!(decided(&waiting), (Action::Wait, Outcome::Held, false));
        for (offered, action) in [(&new, Action::Deploy(Change::Tree)), (&old, Action::Maintain)] {
            let decision = decide(&known(offered));
            assert!(decision.lifts_hold && decision.target == offered);
            assert_eq!(decision.action, action);
        }
        // Another agent has deployed another configuration since the rollback.
        let elsewhere = Known { deployed: Some(&new), ..same };
        assert!(decide(&elsewhere).lifts_hold);
        assert_eq!(decided(&elsewhere).0, Action::Deploy(Change::Tree));
        let first = Known { deployed: None, ..same };
        assert_eq!(decided(&first), (Action::Deploy(Change::Tree), Outcome::Switched, true));
    }

    #[test]
    fn interrupted_gate_runs_again_unless_another_configuration_is_to_be_deployed() {
        let [old, new, fix] = ["1", "2", "3"].map(|bytes| configuration("p", &[("v1", bytes)]));
        let record = Unproven::new(new.id(), Some(old.id()));
        let known = Known {
            deployed: Some(&new),
            needs_redeploy: false,
            offered: &new,
            hold: None,
            waiting: None,
            unproven: Some(&record),
        };
        assert_eq!(decided(&known), (Action::Check, Outcome::UpToDate, true));
        let unsettled = Known { needs_redeploy: true, ..known };
        assert_eq!(decided(&unsettled).0, Action::Redeploy);
        let fixed = Known { offered: &fix, ..known };
        assert_eq!(decided(&fixed).0, Action::Deploy(Change::Tree));
        assert!(!decide(&fixed).lifts_rejection);
        let label = configuration("p", &[("v2", "2")]);
        let renamed = Known { offered: &label, ..known };
        assert_eq!(decided(&renamed).0, Action::Deploy(Change::Labels));
        // The record belongs to another configuration.
        let elsewhere = Known { deployed: Some(&old), offered: &old, ..known };
        assert_eq!(decided(&elsewhere).0, Action::Maintain);
        // The deployed configuration is the target of a hold.
        let back = hold(&fix, &new);
        let held = Known { hold: Some(&back), offered: &fix, ..known };
        assert_eq!(decided(&held), (Action::Check, Outcome::RolledBack, false));
    }

    #[test]
    fn rejected_configuration_is_not_tried_again_until_the_registry_has_another() {
        let [old, bad, fix] = ["1", "2", "3"].map(|bytes| configuration("p", &[("v1", bytes)]));
        let (reason, at) = ("status 503".to_owned(), Timestamp::UNIX_EPOCH);
        let failure = Some(Failure { reason, way_back: None, at });
        let record = Unproven { failure, ..Unproven::new(bad.id(), Some(old.id())) };
        let known = Known {
            deployed: Some(&bad),
            needs_redeploy: false,
            offered: &bad,
            hold: None,
            waiting: None,
            unproven: Some(&record),
        };
        let label = configuration("p", &[("v2", "2")]);
        for needs_redeploy in [false, true] {
            for (offered, waiting) in [(&bad, None), (&label, None), (&bad, Some(&bad))] {
                let known = Known { needs_redeploy, offered, waiting, ..known };
                assert_eq!(decided(&known), (Action::Wait, Outcome::Rejected, true));
                assert!(!decide(&known).lifts_rejection);
            }
            for offered in [&old, &fix] {
                let known = Known { needs_redeploy, offered, ..known };
                assert_eq!(decided(&known).0, Action::Deploy(Change::Tree));
                assert!(decide(&known).lifts_rejection);
            }
        }
        // Another agent has deployed another configuration since the rejection.
        let elsewhere = Known { deployed: Some(&old), ..known };
        assert_eq!(decided(&elsewhere).0, Action::Deploy(Change::Tree));
        assert!(!decide(&elsewhere).lifts_rejection);
        // The rejected configuration is the target of a hold.
        let back = hold(&fix, &bad);
        let held = Known { hold: Some(&back), offered: &fix, ..known };
        assert_eq!(decided(&held), (Action::Wait, Outcome::Rejected, false));
    }
}
