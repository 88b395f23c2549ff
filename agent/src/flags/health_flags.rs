//! Defines the flags of the health gate: the checks, and how long the checks may take.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::Uri;

use crate::flags::Refused;

/// The shortest time that [`pause`] returns.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// The longest time that [`pause`] returns.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The flags of the health gate.
#[derive(Debug, Args)]
#[allow(clippy::struct_field_names, reason = "the fields are named like the flags")]
#[allow(clippy::doc_markdown, reason = "the help shows these lines as they are")]
pub struct HealthFlags {
    /// Check that decides whether a deploy succeeded: http://HOST[:PORT]/PATH, tcp://HOST:PORT,
    /// unit:NAME, cmd:PATH, or registry. May be given several times.
    #[arg(
        long,
        env = "DEPLOY_AGENT_HEALTH",
        value_name = "CHECK",
        value_delimiter = ',',
        value_parser = Check::parse
    )]
    pub health: Vec<Check>,
    /// Maximum time until all checks have succeeded.
    #[arg(long, env = "DEPLOY_AGENT_HEALTH_DEADLINE", default_value = "5m", value_name = "TIME", value_parser = deploy_wire::flags::duration)]
    pub health_deadline: Duration,
    /// Minimum duration of the health gate, even if all checks succeed earlier.
    #[arg(long, env = "DEPLOY_AGENT_HEALTH_MIN", default_value = "10s", value_name = "TIME", value_parser = deploy_wire::flags::duration)]
    pub health_min: Duration,
    /// Number of successes in a row that each check needs.
    #[arg(long, env = "DEPLOY_AGENT_HEALTH_SUCCESSES", default_value = "3", value_name = "N")]
    pub health_successes: NonZeroU32,
    /// What to do if a check does not succeed.
    #[arg(long, env = "DEPLOY_AGENT_ON_FAILURE", default_value = "rollback")]
    pub on_failure: OnFailure,
}

impl HealthFlags {
    /// Checks that `-health-deadline` leaves enough time for `-health-min` and for as many probes
    /// as `-health-successes` requires.
    pub(super) fn check(&self) -> Result<(), Refused> {
        let Self { health, health_deadline: deadline, health_min: min, .. } = self;
        if health.is_empty() {
            return Ok(());
        }
        if deadline.is_zero() {
            return Err(Refused("-health-deadline must be more than 0s; 5m is usual"));
        }
        if min >= deadline {
            return Err(Refused(
                "-health-min leaves no time until -health-deadline; lower -health-min, or raise \
                 -health-deadline",
            ));
        }
        let successes = pause(*deadline).saturating_mul(self.health_successes.get());
        if min.saturating_add(successes) > *deadline {
            return Err(Refused(
                "-health-deadline is too short for -health-min and then -health-successes probes \
                 (up to 1s apart); lower -health-successes or -health-min, or raise \
                 -health-deadline",
            ));
        }
        Ok(())
    }
}

/// The time from the start of a probe to the start of the next probe of the same check. This time
/// is shorter if the deadline is short. A probe that takes longer delays the next probe.
pub fn pause(deadline: Duration) -> Duration {
    (deadline / 20).clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
}

/// Values of `-on-failure`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Deploy the previous configuration.
    Rollback,
    /// Keep the new configuration, and deploy nothing until the registry's configuration changes.
    Hold,
}

/// A value of `-health`. The text of each variant says when the check succeeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// A GET request is answered with a status from 200 to 299.
    Http(Address),
    /// The agent can connect to the address.
    Tcp(Address),
    /// The systemd unit is active.
    Unit(String),
    /// The program exits with 0.
    Command(String),
    /// The agent can connect to its registry and read the tracked configuration.
    Registry,
}

/// An address to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Host name or IP address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// The address as given on the command line.
    pub text: String,
}

/// Why a value of `-health` is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// TLS is not supported.
    #[error(
        "https is not supported; give cmd:PATH with a script that runs curl, or check a plain port \
         with http:// or tcp://"
    )]
    Https,
    /// The address cannot be used.
    #[error("{reason}; give {form}")]
    Address {
        /// What is wrong with the address.
        reason: String,
        /// The form that the check must have.
        form: &'static str,
    },
    /// The name of the unit is not valid.
    #[error("{0:?} is not a unit name; give a name as systemctl lists it, for example web.service")]
    Unit(String),
    /// The value names no check.
    #[error(
        "it is not a check; give http://HOST[:PORT]/PATH, tcp://HOST:PORT, unit:NAME, cmd:PATH or \
         registry"
    )]
    Unknown,
}

impl Check {
    /// Parses a value of `-health`.
    pub fn parse(text: &str) -> Result<Self, CheckError> {
        match text.split_once(':') {
            None if text == "registry" => Ok(Self::Registry),
            Some(("https", _)) => Err(CheckError::Https),
            Some(("http", _)) => address(text, "http://HOST[:PORT]/PATH", Some(80)).map(Self::Http),
            Some(("tcp", _)) => {
                let form = "tcp://HOST:PORT";
                let address = address(text, form, None)?;
                if matches!(&*address.path, "" | "/") && !text.ends_with('/') {
                    return Ok(Self::Tcp(address));
                }
                Err(CheckError::Address { reason: "it has a path".to_owned(), form })
            }
            Some(("unit", name)) if is_unit(name) => Ok(Self::Unit(name.to_owned())),
            Some(("unit", name)) => Err(CheckError::Unit(name.to_owned())),
            Some(("cmd", path)) if !path.is_empty() && !path.contains('\0') => {
                Ok(Self::Command(path.to_owned()))
            }
            _ => Err(CheckError::Unknown),
        }
    }

    /// The name of the check, for use as the subject of a sentence.
    pub fn label(&self) -> String {
        match self {
            Self::Http(address) | Self::Tcp(address) => address.text.clone(),
            Self::Unit(name) => format!("unit {name}"),
            Self::Command(path) => format!("cmd {path}"),
            Self::Registry => "registry".to_owned(),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address) | Self::Tcp(address) => f.write_str(&address.text),
            Self::Unit(name) => write!(f, "unit:{name}"),
            Self::Command(path) => write!(f, "cmd:{path}"),
            Self::Registry => f.write_str("registry"),
        }
    }
}

/// Parses an address. `usual` is the port for an address without a port.
fn address(text: &str, form: &'static str, usual: Option<u16>) -> Result<Address, CheckError> {
    let bad = |reason: &str| CheckError::Address { reason: reason.to_owned(), form };
    let uri: Uri =
        text.parse().map_err(|err: hyper::http::uri::InvalidUri| bad(&err.to_string()))?;
    let authority = uri.authority().ok_or_else(|| bad("it has no host"))?;
    if authority.as_str().contains('@') {
        return Err(bad("it has a user name"));
    }
    if text.contains('#') {
        return Err(bad("it has a fragment"));
    }
    let host = authority.host();
    let port = match authority.as_str()[host.len()..].strip_prefix(':') {
        None => usual.ok_or_else(|| bad("it has no port"))?,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => return Err(bad("its port is not a number from 1 to 65535")),
        },
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(bad("it has no host"));
    }
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok(Address { host: host.to_owned(), port, path: path.to_owned(), text: text.to_owned() })
}

/// Whether `name` can be the name of a systemd unit, see systemd.unit(5).
fn is_unit(name: &str) -> bool {
    let valid = |sign: char| sign.is_ascii_alphanumeric() || ":_.\\@-".contains(sign);
    !name.is_empty() && name.len() < 256 && !name.starts_with('-') && name.chars().all(valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_check_is_parsed_and_shown_as_given() {
        for text in [
            "http://localhost:8080/ok?deep=1",
            "http://[::1]/",
            "tcp://db.example:5432",
            "unit:web@1.service",
            "cmd:./check",
            "registry",
        ] {
            assert_eq!(Check::parse(text).unwrap().to_string(), text);
        }
        let Ok(Check::Http(address)) = Check::parse("http://[::1]/a?b") else { panic!("no http") };
        assert_eq!((&*address.host, address.port, &*address.path), ("::1", 80, "/a?b"));
        let Ok(Check::Http(address)) = Check::parse("http://web:81") else { panic!("no http") };
        assert_eq!((&*address.host, address.port, &*address.path), ("web", 81, "/"));
        assert_eq!(Check::parse("unit:web.service").unwrap().label(), "unit web.service");
    }

    #[test]
    fn malformed_checks_are_refused_with_the_reason() {
        for (text, want) in [
            ("", "it is not a check"),
            ("web", "it is not a check"),
            ("cmd:", "it is not a check"),
            ("ftp://host/", "it is not a check"),
            ("https://host/", "https is not supported; give cmd:PATH"),
            ("http:///path", "give http://HOST[:PORT]/PATH"),
            ("http://:80/", "give http://HOST"),
            ("http://host:/", "not a number from 1 to 65535"),
            ("http://host:99999/", "not a number from 1 to 65535"),
            ("http://host:0/", "not a number from 1 to 65535"),
            ("http://me@host/", "it has a user name"),
            ("http://host/#top", "it has a fragment"),
            ("http://host/a b", "give http://HOST"),
            ("tcp://host", "it has no port"),
            ("tcp://host:1/path", "it has a path"),
            ("unit:", "is not a unit name"),
            ("unit:-H", "is not a unit name"),
            ("unit:a b", "is not a unit name"),
        ] {
            let err = Check::parse(text).unwrap_err().to_string();
            assert!(err.contains(want), "{text}: {err}");
        }
    }

    #[test]
    fn probes_are_faster_when_the_deadline_is_short() {
        let ms = |deadline| pause(Duration::from_millis(deadline)).as_millis();
        assert_eq!([10, 1000, 10_000, 20_000, 300_000].map(ms), [50, 50, 500, 1000, 1000]);
    }
}
