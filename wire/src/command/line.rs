//! Writes a command as a line. [`super::split`] and [`super::parse`] turn this line into the same
//! command again.

use std::fmt;
use std::time::Duration;

use deploy_store::{ComponentName, VersionName};

use super::verb::{DRY_RUN, INPUT, OVERRIDE, QUIET};
use super::{Command, HostAction, Rolling, RolloutAction, WindowAction, quote};

/// The flags of a command. In the written line, flags with values come before switches.
#[derive(Debug, Default)]
pub struct Line {
    flags: Vec<(&'static str, String)>,
    switches: Vec<&'static str>,
}

impl Line {
    /// Adds a flag with its value.
    pub fn flag(&mut self, name: &'static str, value: impl fmt::Display) {
        self.flags.push((name, value.to_string()));
    }

    /// Adds a flag if it has a value.
    pub fn maybe(&mut self, name: &'static str, value: Option<impl fmt::Display>) {
        if let Some(value) = value {
            self.flag(name, value);
        }
    }

    /// Adds a switch, if it is on.
    pub fn switch(&mut self, name: &'static str, on: bool) {
        self.switches.extend(on.then_some(name));
    }

    /// Adds the flags for a component and one of its versions.
    pub fn version(&mut self, component: &ComponentName, version: &VersionName) {
        self.flag("name", component.as_str());
        self.flag("version", version.as_str());
    }

    /// Adds a flag for each layer.
    pub fn layers(&mut self, layers: &[(ComponentName, VersionName)]) {
        for (component, version) in layers {
            self.flag("layer", format!("{}:{}", component.as_str(), version.as_str()));
        }
    }

    /// The flags with values, in the order in which they were added.
    pub(super) fn flags(&self) -> &[(&'static str, String)] {
        &self.flags
    }

    fn is_on(&self, name: &str) -> bool {
        self.switches.contains(&name)
    }
}

impl Command {
    fn line(&self) -> Line {
        let mut line = Line::default();
        self.write(&mut line);
        line
    }

    /// The command's verb.
    pub fn verb(&self) -> &'static str {
        self.described().map_or("help", |verb| verb.name)
    }

    /// Whether the command changes the registry.
    pub fn is_change(&self) -> bool {
        let only_shows = self.line().is_on(DRY_RUN)
            || matches!(self, Self::Host(HostAction::List { .. }))
            || matches!(self, Self::Rollout(action) if action.only_shows())
            || matches!(self, Self::Window(WindowAction::List { .. }));
        self.described().is_some_and(|verb| verb.changes) && !only_shows
    }

    /// Whether the command may change a frozen configuration.
    pub fn overrides(&self) -> bool {
        self.line().is_on(OVERRIDE)
    }

    /// The way in which the command's change of a configuration reaches the hosts. `None` for other
    /// commands.
    pub fn rolling(&self) -> Option<&Rolling> {
        match self {
            Self::AddConfiguration { options, .. }
            | Self::ChangeConfiguration { options, .. }
            | Self::BumpConfiguration { options, .. }
            | Self::Rollback { options, .. }
            | Self::Promote { options, .. }
            | Self::Rollout(RolloutAction::Start { options, .. }) => Some(&options.rolling),
            _ => None,
        }
    }

    /// Whether the command shows no progress.
    pub fn is_quiet(&self) -> bool {
        self.line().is_on(QUIET)
    }

    /// Whether the command reads standard input.
    pub fn has_input(&self) -> bool {
        self.described().is_some_and(|verb| verb.reads_input) || self.line().is_on(INPUT)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        if let Self::Help { verb: Some(verb) } = self {
            write!(f, " {}", quote(verb))?;
        }
        let Line { flags, switches } = self.line();
        for (name, value) in flags {
            write!(f, " -{name}={}", quote(&value))?;
        }
        switches.iter().try_for_each(|name| write!(f, " -{name}"))
    }
}

/// A duration as text that [`crate::flags::duration`] can read.
pub(super) fn duration_text(time: Duration) -> String {
    match time.subsec_nanos() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ns", time.as_nanos()),
    }
}
