//! Defines the names of hosts, and labels such as groups.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Maximum length of a host's name in bytes, the same as for names in DNS.
pub const MAX_HOST_NAME: usize = 253;
/// Maximum length of a label in bytes.
pub const MAX_LABEL: usize = 64;

/// The name of a host, which the host's agent declares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostName(String);

/// A word that operators give to hosts: a group, or the name or the value of a label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label(String);

/// Why a text is not a valid host name or label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} {reason}")]
pub struct BadName {
    kind: &'static str,
    text: String,
    reason: String,
}

fn check(kind: &'static str, text: &str, most: usize) -> Result<(), BadName> {
    let reason = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > most {
        format!("is longer than {most} bytes")
    } else if text.starts_with('-') {
        "begins with -".to_owned()
    } else if let Some(bad) = text.chars().find(|c| !c.is_alphanumeric() && !"._-".contains(*c)) {
        format!("has {bad:?}; letters, digits and . _ - are allowed")
    } else {
        return Ok(());
    };
    let text = text.chars().take(most).collect();
    Err(BadName { kind, text, reason })
}

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Label {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        check("host name", text, MAX_HOST_NAME)?;
        Ok(Self(text.to_owned()))
    }
}

impl FromStr for Label {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        check("label", text, MAX_LABEL)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for HostName {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl TryFrom<String> for Label {
    type Error = BadName;

    fn try_from(text: String) -> Result<Self, BadName> {
        text.parse()
    }
}

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_no_blanks_no_terminal_codes_and_a_maximum_length() {
        for good in ["web-01", "web-01.example.org", "käse", "10.0.0.1", "a_b"] {
            assert_eq!(good.parse::<HostName>().unwrap().as_str(), good);
        }
        let long = "x".repeat(254);
        for bad in ["", "-x", "a b", "a/b", "a\x1b[31m", "a\n", "a=b", "a,b", &*long] {
            assert!(bad.parse::<HostName>().is_err(), "{bad:?}");
        }
        let err = "a\x1b[31m".parse::<Label>().unwrap_err().to_string();
        assert!(!err.contains('\x1b'), "{err}");
        assert!(serde_json::from_str::<HostName>("\"a b\"").is_err());
    }
}
