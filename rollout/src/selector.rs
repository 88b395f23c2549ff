//! Reads the selectors of waves. A selector determines which hosts a wave takes.

use std::fmt;
use std::str::FromStr;

use deploy_wire::command::Share;
use deploy_wire::fleet::{HostName, Label};

use crate::percentage::parse_percentage;

/// Maximum number of hosts that the selectors of a rollout may name.
pub const MAX_NAMED_HOSTS: usize = 10_000;

/// Selects the hosts that a wave takes. Hosts that an earlier wave has taken are not selected.
///
/// In text form, a selector is a group (`canary`), a number of hosts (`2`), a percentage (`5%`) or
/// named hosts (`@web-01+web-02`). A text with only digits is a number, so it cannot select a
/// group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The hosts of a group.
    Group(Label),
    /// This number of hosts, at least 1.
    Count(u64),
    /// This share of all hosts that count, rounded down, but at least one host. [`Share::ALL`]
    /// selects all remaining hosts.
    Percent(Share),
    /// These hosts, even if they are unknown.
    Hosts(Vec<HostName>),
}

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("wave {text:?} {reason}")]
pub struct BadSelector {
    text: String,
    reason: String,
}

/// The first characters of a text, for use in a message.
fn beginning(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Selector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        parse(text).map_err(|reason| BadSelector { text: beginning(text), reason })
    }
}

fn parse(text: &str) -> Result<Selector, String> {
    if text.is_empty() {
        return Err("is empty; give a group, a number, a percentage or @HOST+HOST".to_owned());
    }
    if let Some(hosts) = text.strip_prefix('@') {
        return named(hosts).map(Selector::Hosts);
    }
    if text.contains('%') {
        return parse_percentage(text)
            .map(Selector::Percent)
            .ok_or_else(|| "should be a percentage from 0.01% to 100%".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(0) => Err("takes no host; the smallest number is 1".to_owned()),
            Ok(count) => Ok(Selector::Count(count)),
            Err(_) => Err("is too large a number".to_owned()),
        };
    }
    text.parse().map(Selector::Group).map_err(|err| format!("is not a group: {err}"))
}

fn named(text: &str) -> Result<Vec<HostName>, String> {
    if text.split('+').count() > MAX_NAMED_HOSTS {
        return Err(format!("names more than {MAX_NAMED_HOSTS} hosts; put them in a group"));
    }
    text.split('+')
        .map(|name| name.parse::<HostName>().map_err(|err| format!("has a bad name: {err}")))
        .collect()
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => write!(f, "{group}"),
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(share) => write!(f, "{share}"),
            Self::Hosts(hosts) => {
                let mut sign = '@';
                hosts.iter().try_for_each(|host| {
                    write!(f, "{sign}{host}")?;
                    sign = '+';
                    Ok(())
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &Selector) {
        assert_eq!(&text.parse::<Selector>().unwrap(), expected);
        assert_eq!(expected.to_string(), text);
    }

    #[test]
    fn each_kind_of_selector_is_read_and_written_as_text() {
        check("canary", &Selector::Group("canary".parse().unwrap()));
        check("2", &Selector::Count(2));
        check("5%", &Selector::Percent(Share(500)));
        check("0.25%", &Selector::Percent(Share(25)));
        let hosts = ["web-01", "käse"].map(|name| name.parse().unwrap());
        check("@web-01+käse", &Selector::Hosts(hosts.to_vec()));
    }

    #[test]
    fn refusal_of_a_bad_selector_says_what_is_allowed() {
        let refused = |text: &str| text.parse::<Selector>().unwrap_err().to_string();
        assert_eq!(refused("0"), "wave \"0\" takes no host; the smallest number is 1");
        assert_eq!(refused("101%"), "wave \"101%\" should be a percentage from 0.01% to 100%");
        assert!(refused("").contains("give a group, a number, a percentage or @HOST+HOST"));
        assert!(refused("99999999999999999999").contains("too large"));
        assert!(refused("a b").contains("is not a group: label \"a b\" has ' '"));
        assert!(refused("@a++b").contains("host name \"\" is empty"));
        assert!(refused("@").contains("is empty"));
        let many = format!("@{}", vec!["a"; MAX_NAMED_HOSTS + 1].join("+"));
        assert!(refused(&many).contains("more than 10000 hosts"));
        assert!(refused(&many).len() < 200);
    }
}
