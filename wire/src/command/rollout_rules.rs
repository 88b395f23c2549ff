//! Defines the flags that determine how a change reaches the hosts. Several verbs share these
//! flags.

use std::time::Duration;

use super::Refusal;
use super::given::Given;
use super::line::{Line, duration_text};
use super::verb::{Flag, switch, text};
use crate::fleet::Label;

pub(super) const WAVES: Flag = text(
    "waves",
    "roll out in waves, as in canary,2,10%,100%; a wave is a group, a number, a share, or @web-01+web-02",
);
pub(super) const POLICY: Flag = text(
    "policy",
    "use the rules of this policy for the rollout; rollout policy list shows the policies",
);
pub(super) const SOAK: Flag =
    text("soak", "in a rollout, how long each wave must stay healthy, as in 5m (default: 2m)");
pub(super) const MAX_FAILED: Flag =
    text("max-failed", "in a rollout, halt if more than this many hosts fail, as in 2 or 2%");
pub(super) const MAX_ABSENT: Flag = text(
    "max-absent",
    "in a rollout, halt if more than this many hosts are not connected, as in 3 (default: 10%)",
);
pub(super) const LOST_AFTER: Flag = text(
    "lost-after",
    "in a rollout, a host that is not connected for this long has failed (default: 10m)",
);
pub(super) const WAVE_TIMEOUT: Flag = text(
    "wave-timeout",
    "in a rollout, a host without a result after this time has failed (default: 30m)",
);
pub(super) const ALLOW_UNKNOWN: Flag =
    switch("allow-unknown", "in a rollout, also change hosts that only poll and report nothing");
pub(super) const AT_ONCE: Flag =
    switch("at-once", "change all hosts together, even if the configuration has a rollout policy");
pub(super) const SUPERSEDE: Flag =
    switch("supersede", "end the rollout of the configuration, and make this change instead");

/// The rules that the flags give for a rollout. This module does not check the text values. The
/// registry checks them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RolloutRules {
    /// The policy whose rules apply where no flag gives another rule.
    pub policy: Option<Label>,
    /// The waves.
    pub waves: Option<String>,
    /// The time for which the hosts of a wave must stay healthy before the next wave.
    pub soak: Option<Duration>,
    /// The number or share of hosts that may fail before the rollout halts.
    pub max_failed: Option<String>,
    /// The number or share of hosts that may be absent before the rollout halts.
    pub max_absent: Option<String>,
    /// A host that is not connected for this long counts as failed.
    pub lost_after: Option<Duration>,
    /// A host counts as failed if it has no result for this long after the registry has offered the
    /// change to the host.
    pub wave_timeout: Option<Duration>,
    /// Whether the rollout includes hosts that only poll and report nothing.
    pub allow_unknown: bool,
}

impl RolloutRules {
    pub(super) fn parse(given: &Given) -> Result<Self, Refusal> {
        let text = |name| {
            given.value(name, |text| match text {
                "" => Err("should not be empty".to_owned()),
                _ => Ok(text.to_owned()),
            })
        };
        Ok(Self {
            policy: given.word("policy")?,
            waves: text("waves")?,
            soak: given.value("soak", crate::flags::duration)?,
            max_failed: text("max-failed")?,
            max_absent: text("max-absent")?,
            lost_after: given.value("lost-after", crate::flags::duration)?,
            wave_timeout: given.value("wave-timeout", crate::flags::duration)?,
            allow_unknown: given.is_set("allow-unknown"),
        })
    }

    /// Whether no flag gives a rule.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn write(&self, line: &mut Line) {
        line.maybe("policy", self.policy.as_ref());
        line.maybe("waves", self.waves.as_ref());
        line.maybe("soak", self.soak.map(duration_text));
        line.maybe("max-failed", self.max_failed.as_ref());
        line.maybe("max-absent", self.max_absent.as_ref());
        line.maybe("lost-after", self.lost_after.map(duration_text));
        line.maybe("wave-timeout", self.wave_timeout.map(duration_text));
        line.switch("allow-unknown", self.allow_unknown);
    }
}
