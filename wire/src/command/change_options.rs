//! Reads and writes the options that several verbs for changing a configuration share: `-override`,
//! `-wait`, `-timeout`, and the flags of a rollout.

use std::time::Duration;

use super::Refusal;
use super::given::Given;
use super::line::{Line, duration_text};
use super::rollout_rules::RolloutRules;

/// Maximum waiting time of `-wait` if `-timeout` is not given.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(10 * 60);

/// The options of a verb that changes a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChangeOptions {
    /// Whether the verb changes the configuration even if it is frozen.
    pub overrides: bool,
    /// Maximum time to wait until the hosts have deployed the change; `None` means not to wait.
    pub wait: Option<Duration>,
    /// The way in which the change reaches the hosts.
    pub rolling: Rolling,
}

/// The way in which a change reaches the hosts: together, or in the waves of a rollout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rolling {
    /// Whether all hosts get the change together, even if the configuration has a rollout policy.
    pub at_once: bool,
    /// Whether the change ends the configuration's unfinished rollout.
    pub supersedes: bool,
    /// The rules of the rollout.
    pub rules: RolloutRules,
}

impl Rolling {
    pub(super) fn parse(given: &Given) -> Result<Self, Refusal> {
        let (at_once, rules) = (given.is_set("at-once"), RolloutRules::parse(given)?);
        if at_once && !rules.is_empty() {
            let text = "-at-once makes no rollout: omit the flags of the rollout";
            return Err(Refusal::usage(text.to_owned()));
        }
        Ok(Self { at_once, supersedes: given.is_set("supersede"), rules })
    }

    pub(super) fn write(&self, line: &mut Line) {
        self.rules.write(line);
        line.switch("at-once", self.at_once);
        line.switch("supersede", self.supersedes);
    }
}

impl ChangeOptions {
    pub(super) fn parse(given: &Given) -> Result<Self, Refusal> {
        let timeout = given.value("timeout", crate::flags::duration)?;
        let wait = match (given.is_set("wait"), timeout) {
            (false, Some(_)) => {
                return Err(Refusal::usage("-timeout needs -wait".to_owned()));
            }
            (false, None) => None,
            (true, timeout) => Some(timeout.unwrap_or(DEFAULT_WAIT)),
        };
        let rolling = Rolling::parse(given)?;
        Ok(Self { overrides: given.is_set("override"), wait, rolling })
    }

    pub(super) fn write(&self, line: &mut Line) {
        self.rolling.write(line);
        let timeout = self.wait.filter(|wait| *wait != DEFAULT_WAIT);
        line.maybe("timeout", timeout.map(duration_text));
        line.switch("override", self.overrides);
        line.switch("wait", self.wait.is_some());
    }
}
