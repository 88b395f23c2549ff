//! Tells the other registries of a shared catalogue about a change, with the commands LISTEN and
//! NOTIFY of `PostgreSQL`. A notice only wakes tasks. These tasks then read the catalogue, so a lost
//! notice delays work, but never makes an answer wrong.

use serde::{Deserialize, Serialize};

/// Maximum length of a notice in bytes. `PostgreSQL` allows 8000.
const LONGEST: usize = 7000;

/// What a transaction has changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct Notice {
    /// The id of the registry.
    pub from: String,
    /// The configurations.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub configurations: Vec<String>,
    /// The names of the hosts that an operator changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Whether a rollout changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rollouts: bool,
    /// Whether maintenance windows changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub windows: bool,
    /// Whether reports or events were written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reports: bool,
    /// Whether anything may have changed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub everything: bool,
}

impl Notice {
    /// A notice that anything may have changed.
    pub(super) fn of_everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether nothing has changed that a task waits for.
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The text of the notice from the registry `from`. A long list becomes a notice that anything
    /// may have changed.
    pub(super) fn text(&self, from: &str) -> String {
        let text = |notice: &Self| serde_json::to_string(notice).unwrap_or_default();
        let own = text(&Self { from: from.to_owned(), ..self.clone() });
        if own.len() <= LONGEST {
            return own;
        }
        text(&Self { from: from.to_owned(), ..Self::of_everything() })
    }
}

/// Parses the payload of a notification: the number of the transaction, and its notice.
pub(super) fn parse(payload: &str) -> Option<(i64, Notice)> {
    let (number, text) = payload.split_once(' ')?;
    Some((number.parse().ok()?, serde_json::from_str(text).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_is_parsed_and_a_long_notice_means_everything() {
        let mut notice = Notice { rollouts: true, ..Notice::default() };
        notice.configurations = vec!["web".to_owned()];
        let text = notice.text("me");
        assert_eq!(text, r#"{"from":"me","configurations":["web"],"rollouts":true}"#);
        let (number, parsed) = parse(&format!("7 {text}")).unwrap();
        assert_eq!((number, &*parsed.from), (7, "me"));
        assert_eq!(Notice { from: String::new(), ..parsed }, notice);
        notice.hosts = (0..2000).map(|n| format!("host-{n}")).collect();
        assert_eq!(notice.text("me"), r#"{"from":"me","everything":true}"#);
        assert!(Notice::default().is_empty() && !notice.is_empty());
        assert_eq!(parse("7"), None);
        assert_eq!(parse("x {}"), None);
    }
}
