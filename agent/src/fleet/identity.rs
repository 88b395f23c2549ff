//! Defines the identity of an agent at the registry: the host's name, and the id of the agent's
//! directory.

use std::path::Path;

use deploy_store::{ConfigurationName, Result};
use deploy_wire::command::ServiceCommand;
use deploy_wire::fleet::HostName;
use deploy_wire::fleet::host_name::MAX_HOST_NAME;

use crate::records::instance;

/// The host name for a machine that has no usable name.
const NAMELESS: &str = "unnamed";

/// The identity of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The name of the host.
    pub host: HostName,
    /// The random id of the agent's directory.
    pub instance: String,
}

impl Identity {
    /// The identity of the agent that uses the directory `dir`. If `host` is `None`, the host gets
    /// the machine's name.
    pub fn of(host: Option<&HostName>, dir: &Path) -> Result<Self> {
        Ok(Self { host: self::host(host), instance: instance::get(dir)? })
    }

    /// The command that watches the configuration `name`.
    pub fn watch_line(&self, name: &ConfigurationName) -> String {
        let Self { host, instance } = self.clone();
        ServiceCommand::Watch { name: name.clone(), host, instance }.to_line()
    }
}

/// The name of the host: `given`, or the machine's name.
pub fn host(given: Option<&HostName>) -> HostName {
    let machine = || usable(&rustix::system::uname().nodename().to_string_lossy());
    given.cloned().unwrap_or_else(machine)
}

/// Makes a host name from the machine's name. Each character that is not allowed becomes `-`.
fn usable(name: &str) -> HostName {
    let allowed = |sign: char| sign.is_alphanumeric() || "._-".contains(sign);
    let mut name: String =
        name.chars().map(|sign| if allowed(sign) { sign } else { '-' }).collect();
    while name.len() > MAX_HOST_NAME {
        name.pop();
    }
    let name = name.trim_start_matches('-');
    name.parse().unwrap_or_else(|_| NAMELESS.parse().expect("`unnamed` is a valid host name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machine_name_becomes_a_valid_host_name() {
        for (machine, host) in [
            ("web-01.example.org", "web-01.example.org"),
            ("web 01", "web-01"),
            ("-x", "x"),
            ("a\x1b[31m", "a--31m"),
            ("", "unnamed"),
            ("---", "unnamed"),
            ("(none)", "none-"),
        ] {
            assert_eq!(usable(machine).as_str(), host, "{machine:?}");
        }
        assert!(usable(&"ä".repeat(300)).as_str().len() <= MAX_HOST_NAME);
    }
}
