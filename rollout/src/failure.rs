//! Defines the reasons why a host counts as failed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration_words::in_words;
use crate::milliseconds;

/// The reason why a host counts as failed. In JSON, times are whole milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
pub enum Failure {
    /// The host reported that the deploy of the target failed. The text comes from the host.
    Reported(String),
    /// The host was healthy on the target, and reported a failure later. The text comes from the
    /// host.
    TurnedUnhealthy(String),
    /// The host was away for this time after the offer of the target.
    Lost(#[serde(with = "milliseconds")] Duration),
    /// The host had no result within this time after the offer of the target.
    NoResult(#[serde(with = "milliseconds")] Duration),
    /// The host became healthy on the target, but was away at the deadline, or had not been healthy
    /// for one whole soak.
    Unsteady,
    /// An operator marked the host as failed.
    Marked,
}

impl Failure {
    /// The kind of the failure as one word, as in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Reported(_) => "reported",
            Self::TurnedUnhealthy(_) => "turned_unhealthy",
            Self::Lost(_) => "lost",
            Self::NoResult(_) => "no_result",
            Self::Unsteady => "unsteady",
            Self::Marked => "marked",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reported(text) => f.write_str(text),
            Self::TurnedUnhealthy(text) => write!(f, "was healthy, then failed: {text}"),
            Self::Lost(time) => write!(f, "away for {} after the offer", in_words(*time)),
            Self::NoResult(time) => {
                write!(f, "no result within {} after the offer", in_words(*time))
            }
            Self::Unsteady => f.write_str(
                "became healthy, but was away at the deadline, or had not been healthy for one \
                 whole soak by then",
            ),
            Self::Marked => f.write_str("marked as failed by an operator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_is_written_to_json_and_read_back() {
        let minute = Duration::from_secs(60);
        for (failure, json) in [
            (Failure::Reported("exit 1".into()), r#"{"kind":"reported","detail":"exit 1"}"#),
            (Failure::Lost(minute), r#"{"kind":"lost","detail":60000}"#),
            (Failure::Unsteady, r#"{"kind":"unsteady"}"#),
        ] {
            assert_eq!(serde_json::to_string(&failure).unwrap(), json);
            assert_eq!(serde_json::from_str::<Failure>(json).unwrap(), failure);
            assert!(json.contains(failure.word()));
        }
        assert_eq!(Failure::Lost(minute).to_string(), "away for 1m after the offer");
    }
}
