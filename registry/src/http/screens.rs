//! Finds and renders the screens of the page. Each screen has an address, and is made of parts.
//! Some parts are sections, which a browser can replace one by one.

mod audit_screen;
mod change_screen;
mod component_screen;
mod components_screen;
mod configuration_screen;
mod configurations_screen;
mod confirm_screen;
mod diff_screen;
mod durations;
mod fleet_screen;
mod host_screen;
mod hosts_filter;
mod hosts_screen;
pub mod layout;
mod need;
pub mod notices;
mod phrases;
mod policy_words;
mod rollout_parts;
mod rollout_screen;
mod rollout_waves;
mod rollouts_screen;
mod store_screen;
pub mod widgets;

use std::str::FromStr;

use deploy_store::{ComponentName, ConfigurationName, VersionName};
use deploy_wire::fleet::{HostName, Label, Phase};

use self::layout::Page;
use super::problem::Problem;
use crate::fleet::convergence::Part;
use crate::registry::Registry;

/// Maximum length of a screen's address in bytes, with its query.
const MAX_ADDRESS: usize = 8 << 10;

/// A screen. The comment of each variant begins with the screen's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Screen {
    /// `/`: what needs attention, rollouts, and configurations.
    Fleet,
    /// `/hosts`: a list of hosts.
    Hosts(HostsFilter),
    /// `/hosts/NAME`: what happened on one host.
    Host(HostName),
    /// `/configurations`: all configurations, or all configurations after a name.
    Configurations(Option<ConfigurationName>),
    /// `/configurations/NAME`: one configuration, with its newest states or the states before a
    /// given number.
    Configuration(ConfigurationName, Option<u64>),
    /// `/configurations/NAME/diff`: what differs between two states.
    Diff(ConfigurationName, Option<u64>, Option<u64>),
    /// `/configurations/NAME/change`: a form to choose versions.
    Change(ConfigurationName),
    /// `/rollouts`: active and earlier rollouts of one configuration or of all configurations.
    Rollouts(Option<ConfigurationName>),
    /// `/rollouts/NAME/NUMBER`: one rollout.
    Rollout(ConfigurationName, u64),
    /// `/components`: all components, or all components after a name.
    Components(Option<ComponentName>),
    /// `/components/NAME`: one component, with its newest versions or the versions before a given
    /// version.
    Component(ComponentName, Option<VersionName>),
    /// `/store`: what takes space in the store.
    Store,
    /// `/audit`: who changed what.
    Audit(AuditFilter),
    /// `/confirm`: what a command would do, and a button that runs the command.
    Confirm(Vec<(String, String)>),
}

/// The conditions that each listed host meets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HostsFilter {
    /// Only hosts of this configuration.
    pub name: Option<ConfigurationName>,
    /// Only this host.
    pub host: Option<HostName>,
    /// Only hosts of this group.
    pub group: Option<Label>,
    /// Only hosts in this phase.
    pub phase: Option<Phase>,
    /// Only hosts that have not confirmed the state that they have to run, and are not held by an
    /// operator.
    pub behind: bool,
    /// Only hosts with this result, such as `failed`.
    pub only: Option<Part>,
    /// Only hosts of this wave of the active rollout.
    pub wave: Option<u32>,
    /// Only hosts with names after this name.
    pub after: Option<HostName>,
}

/// The conditions that each listed entry of the audit trail meets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AuditFilter {
    /// Only entries since this time, in a format that the verb `audit` reads.
    pub since: String,
    /// Only entries of this user.
    pub who: String,
    /// Only entries of this verb.
    pub verb: String,
    /// Only entries whose command line contains this name.
    pub name: String,
    /// Only entries with numbers below this number.
    pub before: Option<u64>,
}

/// The fields of an address's query.
#[derive(Debug)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The value of a field. An empty value counts as missing, because a form sends all
    /// its fields.
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// The value of a field as a number, a name or another type.
    fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.get(name).map(|value| value.parse().map_err(|_| Problem::not_found())).transpose()
    }

    fn phase(&self) -> Result<Option<Phase>, Problem> {
        let word = self.get("phase");
        word.map(|word| Phase::of(word).ok_or_else(Problem::not_found)).transpose()
    }

    fn part(&self) -> Result<Option<Part>, Problem> {
        let word = self.get("only");
        word.map(|word| Part::of(word).ok_or_else(Problem::not_found)).transpose()
    }

    fn hosts(&self) -> Result<HostsFilter, Problem> {
        Ok(HostsFilter {
            name: self.parsed("name")?,
            host: self.parsed("host")?,
            group: self.parsed("group")?,
            phase: self.phase()?,
            behind: self.get("behind").is_some(),
            only: self.part()?,
            wave: self.parsed("wave")?,
            after: self.parsed("after")?,
        })
    }

    fn audit(&self) -> Result<AuditFilter, Problem> {
        Ok(AuditFilter {
            since: self.text("since"),
            who: self.text("who"),
            verb: self.text("of"),
            name: self.text("name"),
            before: self.parsed("before")?,
        })
    }
}

impl Screen {
    /// The screen with this address.
    pub fn parse(path: &str, query: &str) -> Result<Self, Problem> {
        if path.len() + query.len() > MAX_ADDRESS {
            return Err(Problem::not_found());
        }
        let parts: Option<Vec<String>> = path.split('/').skip(1).map(decoded).collect();
        let parts = parts.ok_or_else(Problem::not_found)?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let fields = Fields::read(query);
        Ok(match parts.as_slice() {
            [""] => Self::Fleet,
            ["hosts"] => Self::Hosts(fields.hosts()?),
            ["hosts", host] => Self::Host(name(host)?),
            ["configurations"] => Self::Configurations(fields.parsed("after")?),
            ["configurations", of] => Self::Configuration(name(of)?, fields.parsed("before")?),
            ["configurations", of, "diff"] => {
                Self::Diff(name(of)?, fields.parsed("from")?, fields.parsed("to")?)
            }
            ["configurations", of, "change"] => Self::Change(name(of)?),
            ["rollouts"] => Self::Rollouts(fields.parsed("name")?),
            ["rollouts", of, number] => Self::Rollout(name(of)?, name(number)?),
            ["components"] => Self::Components(fields.parsed("after")?),
            ["components", of] => Self::Component(name(of)?, fields.parsed("before")?),
            ["store"] => Self::Store,
            ["audit"] => Self::Audit(fields.audit()?),
            ["confirm"] => Self::Confirm(fields.0),
            _ => return Err(Problem::not_found()),
        })
    }

    /// The contents of the screen. `may_act` says whether the viewer may change things.
    pub async fn page(&self, registry: &Registry, may_act: bool) -> Result<Page, Problem> {
        match self {
            Self::Fleet => fleet_screen::page(registry, may_act).await,
            Self::Hosts(filter) => hosts_screen::page(registry, filter, may_act).await,
            Self::Host(host) => host_screen::page(registry, host, may_act).await,
            Self::Configurations(after) => {
                configurations_screen::page(registry, after.as_ref()).await
            }
            Self::Configuration(name, before) => {
                configuration_screen::page(registry, name, *before, may_act).await
            }
            Self::Diff(name, from, to) => diff_screen::page(registry, name, *from, *to).await,
            Self::Change(name) => change_screen::page(registry, name).await,
            Self::Rollouts(name) => rollouts_screen::page(registry, name.as_ref()).await,
            Self::Rollout(name, number) => {
                rollout_screen::page(registry, name, *number, may_act).await
            }
            Self::Components(after) => components_screen::page(registry, after.as_ref()).await,
            Self::Component(name, before) => {
                component_screen::page(registry, name, before.as_ref(), may_act).await
            }
            Self::Store => store_screen::page(registry).await,
            Self::Audit(filter) => audit_screen::page(registry, filter).await,
            Self::Confirm(fields) => confirm_screen::page(registry, fields).await,
        }
    }
}

/// A name or a number in a path.
fn name<T: FromStr>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| Problem::not_found())
}

/// Decodes the percent-encoding in a part of a path. `None` if the result is not UTF-8.
fn decoded(part: &str) -> Option<String> {
    percent_encoding::percent_decode_str(part).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}
