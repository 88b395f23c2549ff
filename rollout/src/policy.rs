//! Defines the policy of a rollout: its waves, its deadlines, and its limits on failed and absent
//! hosts.

use std::time::Duration;

use deploy_wire::command::Share;
use serde::{Deserialize, Serialize};

use crate::duration_words::in_words;
use crate::limit::Limit;
use crate::milliseconds;
use crate::waves::Waves;

/// The longest time that a policy may set. Because of this maximum, every rollout ends or halts
/// after a limited time.
pub const MAX_TIME: Duration = Duration::from_secs(30 * 24 * 3600);

const MINUTE: Duration = Duration::from_secs(60);

/// The rules of a rollout. In JSON, times are whole milliseconds, and a missing field has its
/// default value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// The waves.
    pub waves: Waves,
    /// The time for which the hosts of a wave must stay healthy before the next wave opens.
    #[serde(rename = "soak_ms", with = "milliseconds")]
    pub soak: Duration,
    /// The number or share of hosts that may fail during the whole rollout.
    pub max_failed: Limit,
    /// The number or share of hosts that may be absent when a wave opens.
    pub max_absent: Limit,
    /// A host has failed if it is away for this time after the offer of the target, or after a
    /// later resume.
    #[serde(rename = "lost_after_ms", with = "milliseconds")]
    pub lost_after: Duration,
    /// A host has failed if it has no result within this time after the offer of the target, or
    /// after a later resume.
    #[serde(rename = "wave_timeout_ms", with = "milliseconds")]
    pub wave_timeout: Duration,
    /// If a rollout is paused for this time, it halts.
    #[serde(rename = "pause_limit_ms", with = "milliseconds")]
    pub pause_limit: Duration,
    /// The time for which a wave waits, before it opens, for hosts that have just disconnected.
    /// Without this wait, a restart of the registry would halt the rollout, because a restart
    /// disconnects all hosts.
    #[serde(rename = "reconnect_ms", with = "milliseconds")]
    pub reconnect: Duration,
    /// Whether waves take unknown hosts. An unknown host usually has an agent of the Go tool, which
    /// never reports.
    pub allow_unknown: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            waves: Waves::default(),
            soak: 2 * MINUTE,
            max_failed: Limit::Larger(1, Share(200)),
            max_absent: Limit::Percent(Share(1000)),
            lost_after: 10 * MINUTE,
            wave_timeout: 30 * MINUTE,
            pause_limit: 24 * 60 * MINUTE,
            reconnect: MINUTE,
            allow_unknown: false,
        }
    }
}

/// The reason why a policy is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPolicy {
    /// A time is longer than [`MAX_TIME`].
    #[error("the {name} of {} is too long; the longest is {}", in_words(*.time), in_words(MAX_TIME))]
    TooLong {
        /// The name of the time, such as `soak`.
        name: &'static str,
        /// The time.
        time: Duration,
    },
    /// A deadline is zero, so every host would miss it.
    #[error("the {0} is 0, so every host would fail; give a longer time")]
    Zero(&'static str),
}

impl Policy {
    /// Checks that no time is longer than [`MAX_TIME`], and that no deadline of a host is zero.
    pub fn check(&self) -> Result<(), BadPolicy> {
        let deadlines = [("lost-after time", self.lost_after), ("wave timeout", self.wave_timeout)];
        let others = [
            ("soak", self.soak),
            ("pause limit", self.pause_limit),
            ("reconnect time", self.reconnect),
        ];
        if let Some((name, time)) =
            deadlines.into_iter().chain(others).find(|(_, time)| *time > MAX_TIME)
        {
            return Err(BadPolicy::TooLong { name, time });
        }
        match deadlines.into_iter().find(|(_, time)| time.is_zero()) {
            Some((name, _)) => Err(BadPolicy::Zero(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_is_written_to_json_and_read_back() {
        let policy = Policy {
            waves: "canary,5%".parse().unwrap(),
            soak: Duration::from_millis(1500),
            max_failed: Limit::Count(3),
            allow_unknown: true,
            ..Policy::default()
        };
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            json,
            "{\"waves\":\"canary,5%,100%\",\"soak_ms\":1500,\"max_failed\":\"3\",\
             \"max_absent\":\"10%\",\"lost_after_ms\":600000,\"wave_timeout_ms\":1800000,\
             \"pause_limit_ms\":86400000,\"reconnect_ms\":60000,\"allow_unknown\":true}"
        );
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
        assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), Policy::default());
    }

    #[test]
    fn default_policy_tolerates_one_host_or_two_per_cent() {
        let Policy { max_failed, max_absent, .. } = Policy::default();
        assert_eq!((max_failed.of(10), max_failed.of(500)), (1, 10));
        assert_eq!((max_absent.of(9), max_absent.of(500)), (0, 50));
        Policy::default().check().unwrap();
    }

    #[test]
    fn policy_with_a_zero_deadline_or_a_time_over_the_maximum_is_refused() {
        let zero = Policy { lost_after: Duration::ZERO, ..Policy::default() };
        assert!(zero.check().unwrap_err().to_string().contains("lost-after time is 0"));
        let long = Policy { soak: MAX_TIME + MINUTE, ..Policy::default() };
        let text = "the soak of 720h1m is too long; the longest is 720h";
        assert_eq!(long.check().unwrap_err().to_string(), text);
    }
}
