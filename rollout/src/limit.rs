//! Defines a limit on the number of hosts that may fail or be absent.

use std::fmt;
use std::str::FromStr;

use deploy_wire::command::Share;
use serde::{Deserialize, Serialize};

use crate::percentage::{parse_percentage, rounded_down};

/// The number of hosts that may fail or be absent. If more hosts fail or are absent, the rollout
/// halts.
///
/// In text form and in JSON, a limit is a count (`2`), a percentage (`2%`), or the larger of both
/// (`1 or 2%`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Limit {
    /// This number of hosts.
    Count(u64),
    /// This share of all hosts that count, rounded down.
    Percent(Share),
    /// This number of hosts, or this share of all hosts that count, whichever is larger.
    Larger(u64, Share),
}

/// Why a text is not a limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} should be a number such as 2, a percentage such as 2%, or both, such as \"1 or 2%\""
)]
pub struct BadLimit {
    text: String,
}

impl Limit {
    /// The limit as a number of hosts, for a rollout in which `hosts` hosts count.
    pub fn of(self, hosts: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(share) => rounded_down(share, hosts),
            Self::Larger(count, share) => count.max(rounded_down(share, hosts)),
        }
    }
}

impl FromStr for Limit {
    type Err = BadLimit;

    fn from_str(text: &str) -> Result<Self, BadLimit> {
        let count = |text: &str| {
            Some(text).filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?.parse::<u64>().ok()
        };
        let limit = match text.split_once(" or ") {
            Some((least, share)) => {
                count(least).zip(parse_percentage(share)).map(|(n, share)| Self::Larger(n, share))
            }
            None => {
                count(text).map(Self::Count).or_else(|| parse_percentage(text).map(Self::Percent))
            }
        };
        limit.ok_or_else(|| BadLimit { text: text.chars().take(40).collect() })
    }
}

impl TryFrom<String> for Limit {
    type Error = BadLimit;

    fn try_from(text: String) -> Result<Self, BadLimit> {
        text.parse()
    }
}

impl From<Limit> for String {
    fn from(limit: Limit) -> Self {
        limit.to_string()
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(share) => write!(f, "{share}"),
            Self::Larger(count, share) => write!(f, "{count} or {share}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_a_count_a_percentage_or_the_larger_of_both() {
        for (text, of_40, of_1000) in
            [("2", 2, 2), ("0", 0, 0), ("2%", 0, 20), ("1 or 2%", 1, 20), ("100%", 40, 1000)]
        {
            let limit: Limit = text.parse().unwrap();
            assert_eq!((limit.of(40), limit.of(1000)), (of_40, of_1000), "{text}");
            assert_eq!(limit.to_string(), text);
        }
    }

    #[test]
    fn bad_limit_is_refused_with_examples() {
        for bad in ["", "-1", "+1", "2 %", "2%%", "2% or 1", "1 or 2", "0%", "x"] {
            let err = bad.parse::<Limit>().unwrap_err().to_string();
            assert!(err.contains("such as 2%"), "{err}");
        }
    }
}
