//! Defines the names of components, versions and configurations. Also checks and escapes names.
//!
//! Parsing accepts the names that the Go tool could have stored, up to [`MAX_NAME`] bytes, so that
//! imported data stays usable. The method `check_new` of each type checks the stricter rule for new
//! names. `Display` escapes the name for output to a terminal, and `as_str` returns the name
//! unchanged.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use crate::error::{Error, Result};

/// The maximum length of an accepted name, in bytes.
pub const MAX_NAME: usize = 1024;
/// The maximum length of a new name, in bytes.
pub const MAX_NEW_NAME: usize = 128;

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $forbidden:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Box<str>);

        impl $type {
            /// The name itself, not escaped.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Checks the name against the rule for new names. The name may contain only ASCII
            /// letters, digits and `._+@~-`. The name must not start with `-` or `.`, and may have
            /// at most [`MAX_NEW_NAME`] bytes.
            pub fn check_new(&self) -> Result<()> {
                check_new($what, &self.0)
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                check_any($what, text, $forbidden).map(|()| Self(text.into()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&escape(&self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &self.0)
            }
        }
    };
}

name!(
    /// The name of a component, which is a series of versions.
    ComponentName, "component name", Some(':')
);
name!(
    /// The name of one version of a component.
    VersionName, "version name", None
);
name!(
    /// The name of a configuration.
    ConfigurationName, "configuration name", Some('/')
);

fn check_any(what: &'static str, text: &str, forbidden: Option<char>) -> Result<()> {
    let refuse = |reason: String| {
        Err(Error::BadName { what, text: text.chars().take(80).collect(), reason })
    };
    if text.is_empty() {
        return refuse("is empty".to_owned());
    }
    if text.len() > MAX_NAME {
        return refuse(format!("is longer than {MAX_NAME} bytes"));
    }
    match forbidden {
        Some(c) if text.contains(c) => refuse(format!("cannot contain {c}")),
        _ => Ok(()),
    }
}

fn check_new(what: &'static str, text: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._+@~-".contains(c);
    let reason = if text.len() > MAX_NEW_NAME {
        format!("is longer than {MAX_NEW_NAME} bytes")
    } else if text.starts_with(['-', '.']) {
        "cannot start with - or .".to_owned()
    } else if let Some(c) = text.chars().find(|&c| !allowed(c)) {
        format!("cannot contain {c:?}; use letters, digits and ._+@~-")
    } else {
        return Ok(());
    };
    Err(Error::BadName { what, text: text.chars().take(80).collect(), reason })
}

/// Escapes the characters of `text` that could control a terminal, break a line or be overlooked.
/// These are control, invisible, direction-changing and combining characters. The backslash is also
/// escaped, because each escape begins with a backslash.
pub fn escape(text: &str) -> String {
    let plain = |c: char| c == '\'' || c == '"' || (c != '\\' && c.escape_debug().len() == 1);
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if plain(c) {
            out.push(c);
        } else {
            out.extend(c.escape_debug());
        }
        out
    })
}

/// Escapes every character in the JSON document `json` that could control a terminal. The value of
/// the document stays the same. Of the control characters, JSON itself requires escapes only for
/// those below U+0020.
pub fn escape_json(json: &str) -> String {
    let plain = |c: char| c == '\n' || c.is_ascii_graphic() || c.escape_debug().len() == 1;
    json.chars().fold(String::with_capacity(json.len()), |mut out, c| {
        if plain(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("a string takes any text");
            }
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_is_equal_and_safe_for_terminals() {
        let odd = "a\u{1b}[2J\u{9b}m\u{202e}b\u{7f}\u{e0001}ü\"\\\n\t";
        let json = serde_json::to_string_pretty(&[odd, "x"]).unwrap();
        let printed = escape_json(&json);
        assert!(printed.chars().all(|c| c == '\n' || c == 'ü' || (' '..='~').contains(&c)));
        assert_eq!(serde_json::from_str::<Vec<String>>(&printed).unwrap(), [odd, "x"]);
    }

    #[test]
    fn parsing_accepts_old_names_that_check_new_refuses() {
        let new = |text: &str| text.parse::<ComponentName>().and_then(|name| name.check_new());
        for good in ["code", "a", "1.4_x+y@z~w-v", &"x".repeat(128)] {
            assert!(new(good).is_ok(), "{good:?}");
        }
        for bad in ["", "a:b", "-a", ".a", "a b", "a/b", "a\n", "a\0", "é", &"x".repeat(129)] {
            assert!(new(bad).is_err(), "{bad:?}");
        }
        for old in ["a b", "x/y", "..", "line\nbreak"] {
            assert!(old.parse::<ComponentName>().is_ok(), "{old:?}");
        }
        assert!("a/b".parse::<ConfigurationName>().is_err());
        assert!("odd: name".parse::<ConfigurationName>().is_ok());
    }

    #[test]
    fn displayed_name_cannot_control_a_terminal() {
        let name: VersionName = "a\x1b[31m\n\u{202e}\"b\\".parse().unwrap();
        assert_eq!(name.to_string(), "a\\u{1b}[31m\\n\\u{202e}\"b\\\\");
    }
}
