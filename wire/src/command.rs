//! Commands of the registry's console: one grammar for ssh exec, the interactive
//! prompt and `deployctl`.

pub mod complete;
mod examples;
mod parse;
mod verb;
mod words;

use std::fmt;
use std::time::Duration;

use deploy_store::{ComponentName, ConfigurationName, Digest, VersionName};
use jiff::Timestamp;

use crate::exit;

pub use examples::examples;
pub use parse::{parse, read_flags};
pub use verb::{
    Flag, Takes, VERBS, Verb, closest, component, find, listing, listing_of, switch, text, version,
};
pub use words::{MAX_LINE, quote, quote_always, split};

/// Why a command cannot be done, or a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// For people; may have several lines, without the last newline.
    pub text: String,
    /// Exit code, from [`crate::exit`].
    pub code: u8,
}

impl Refusal {
    /// A refusal with one of the codes of [`crate::exit`].
    pub fn new(code: u8, text: impl Into<String>) -> Self {
        Self { text: text.into(), code }
    }

    /// The command line cannot be understood.
    pub fn usage(text: String) -> Self {
        Self { text, code: exit::USAGE }
    }
}

/// One parsed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `help [verb]`
    Help {
        /// The verb to explain, or all.
        verb: Option<String>,
    },
    /// `addver`
    AddVersion {
        /// Component, made if it is new.
        component: ComponentName,
        /// Version to make.
        version: VersionName,
        /// Blob to bind.
        digest: Digest,
    },
    /// `put`, with the archive on standard input
    Put {
        /// Component, made if it is new.
        component: ComponentName,
        /// Version to make.
        version: VersionName,
        /// As JSON.
        json: bool,
    },
    /// `addconf`
    AddConfiguration {
        /// Configuration to make or replace.
        name: ConfigurationName,
        /// Its layers, lowest first.
        layers: Vec<(ComponentName, VersionName)>,
    },
    /// `changeconf`
    ChangeConfiguration {
        /// Configuration to change.
        name: ConfigurationName,
        /// Layers to change, in one transaction.
        changes: Vec<(ComponentName, VersionName)>,
        /// Change only if this is its id now.
        if_hash: Option<Digest>,
    },
    /// `bumpconf`
    BumpConfiguration {
        /// Configuration to change.
        name: ConfigurationName,
        /// Components to take to their newest version, in one transaction.
        components: Vec<ComponentName>,
        /// Change only if this is its id now.
        if_hash: Option<Digest>,
    },
    /// `showconf`
    ShowConfiguration {
        /// Configuration to show.
        name: ConfigurationName,
        /// With name, time and id.
        verbose: bool,
        /// As JSON.
        json: bool,
    },
    /// `showcomp`
    ShowComponent {
        /// Component to show.
        name: ComponentName,
        /// As JSON.
        json: bool,
    },
    /// `components`
    Components {
        /// As JSON.
        json: bool,
    },
    /// `configurations`
    Configurations {
        /// As JSON.
        json: bool,
    },
    /// `delver`
    DeleteVersion {
        /// Component.
        component: ComponentName,
        /// Version to delete.
        version: VersionName,
        /// Even if an earlier state of a configuration needs it.
        force: bool,
    },
    /// `delcomp`
    DeleteComponent {
        /// Component to delete with all its versions.
        name: ComponentName,
        /// Even if an earlier state of a configuration needs it.
        force: bool,
    },
    /// `delconf`
    DeleteConfiguration {
        /// Configuration to delete.
        name: ConfigurationName,
        /// Confirmed.
        force: bool,
    },
    /// `history`
    History {
        /// Configuration.
        name: ConfigurationName,
        /// Most states to show, newest first; all without.
        limit: Option<u64>,
        /// As JSON.
        json: bool,
    },
    /// `rollback`
    Rollback {
        /// Configuration.
        name: ConfigurationName,
        /// State to make current again; without, the one before the current.
        to: Option<u64>,
    },
    /// `diff`
    Diff {
        /// Configuration.
        name: ConfigurationName,
        /// State to compare with; without, the one before.
        from: Option<u64>,
        /// State to compare; without, the current one.
        to: Option<u64>,
        /// Files rather than layers.
        files: bool,
        /// As JSON.
        json: bool,
    },
    /// `pin`
    Pin {
        /// Component.
        component: ComponentName,
        /// Version to keep until it is unpinned.
        version: VersionName,
        /// Why.
        message: String,
    },
    /// `unpin`
    Unpin {
        /// Component.
        component: ComponentName,
        /// Version that need not be kept any more.
        version: VersionName,
    },
    /// `refs`
    References {
        /// Blob to tell of.
        digest: Digest,
        /// As JSON.
        json: bool,
    },
    /// `gc`
    Collect {
        /// Only say what would go.
        dry_run: bool,
        /// Even if no version is known at all.
        force: bool,
        /// As JSON.
        json: bool,
    },
    /// `verify`
    Verify {
        /// How many of the blobs to read, picked at random.
        sample: Option<Sample>,
        /// Time after which no other blob is begun.
        budget: Option<Duration>,
        /// Go on where the last run ended.
        resume: bool,
        /// As JSON.
        json: bool,
    },
    /// `stat`
    Stat {
        /// As JSON.
        json: bool,
    },
    /// `audit`
    Audit {
        /// Only what was done since.
        since: Option<Since>,
        /// Most entries to show, newest first; all without.
        limit: Option<u64>,
        /// As JSON.
        json: bool,
    },
}

/// A share, in hundredths of a per cent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sample(pub u32);

impl Sample {
    /// All of it.
    pub const ALL: Self = Self(10_000);
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, rest) => write!(f, "{whole}.{rest:02}%"),
        }
    }
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// It.
    At(Timestamp),
    /// So long ago.
    Ago(Duration),
}

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(time) => time.fmt(f),
            Self::Ago(age) => f.write_str(&duration(*age)),
        }
    }
}

/// As [`crate::flags::duration`] reads it.
fn duration(time: Duration) -> String {
    match time.subsec_nanos() {
        0 => format!("{}s", time.as_secs()),
        _ => format!("{}ns", time.as_nanos()),
    }
}

impl Command {
    /// The verb.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Help { .. } => "help",
            Self::AddVersion { .. } => "addver",
            Self::Put { .. } => "put",
            Self::AddConfiguration { .. } => "addconf",
            Self::ChangeConfiguration { .. } => "changeconf",
            Self::BumpConfiguration { .. } => "bumpconf",
            Self::ShowConfiguration { .. } => "showconf",
            Self::ShowComponent { .. } => "showcomp",
            Self::Components { .. } => "components",
            Self::Configurations { .. } => "configurations",
            Self::DeleteVersion { .. } => "delver",
            Self::DeleteComponent { .. } => "delcomp",
            Self::DeleteConfiguration { .. } => "delconf",
            Self::History { .. } => "history",
            Self::Rollback { .. } => "rollback",
            Self::Diff { .. } => "diff",
            Self::Pin { .. } => "pin",
            Self::Unpin { .. } => "unpin",
            Self::References { .. } => "refs",
            Self::Collect { .. } => "gc",
            Self::Verify { .. } => "verify",
            Self::Stat { .. } => "stat",
            Self::Audit { .. } => "audit",
        }
    }

    /// Whether it changes what the registry keeps.
    pub fn is_change(&self) -> bool {
        match self {
            Self::AddVersion { .. }
            | Self::Put { .. }
            | Self::AddConfiguration { .. }
            | Self::ChangeConfiguration { .. }
            | Self::BumpConfiguration { .. }
            | Self::DeleteVersion { .. }
            | Self::DeleteComponent { .. }
            | Self::DeleteConfiguration { .. }
            | Self::Rollback { .. }
            | Self::Pin { .. }
            | Self::Unpin { .. } => true,
            Self::Collect { dry_run, .. } => !dry_run,
            _ => false,
        }
    }

    /// Whether it works on what comes on standard input.
    pub fn has_input(&self) -> bool {
        matches!(self, Self::Put { .. })
    }

    /// Its flags with their values.
    fn flags(&self) -> Vec<(&'static str, String)> {
        let text = |name, value: &str| (name, value.to_owned());
        let mut flags = Vec::new();
        match self {
            Self::Help { .. }
            | Self::Components { .. }
            | Self::Configurations { .. }
            | Self::Collect { .. }
            | Self::Stat { .. } => {}
            Self::AddVersion { component, version, digest } => flags.extend([
                text("name", component.as_str()),
                text("version", version.as_str()),
                ("hash", digest.to_string()),
            ]),
            Self::AddConfiguration { name, layers } => {
                flags.push(text("name", name.as_str()));
                for (component, version) in layers {
                    flags.push(("layer", format!("{}:{}", component.as_str(), version.as_str())));
                }
            }
            Self::ChangeConfiguration { name, changes, if_hash } => {
                flags.push(text("name", name.as_str()));
                for (component, version) in changes {
                    flags.push(text("component", component.as_str()));
                    flags.push(text("version", version.as_str()));
                }
                flags.extend(if_hash.map(|hash| ("if-hash", hash.to_string())));
            }
            Self::BumpConfiguration { name, components, if_hash } => {
                flags.push(text("name", name.as_str()));
                flags.extend(components.iter().map(|name| text("component", name.as_str())));
                flags.extend(if_hash.map(|hash| ("if-hash", hash.to_string())));
            }
            Self::ShowConfiguration { name, .. }
            | Self::DeleteConfiguration { name, .. }
            | Self::History { name, .. }
            | Self::Diff { name, .. }
            | Self::Rollback { name, .. } => flags.push(text("name", name.as_str())),
            Self::ShowComponent { name, .. } | Self::DeleteComponent { name, .. } => {
                flags.push(text("name", name.as_str()));
            }
            Self::References { digest, .. } => flags.push(("hash", digest.to_string())),
            Self::Verify { sample, budget, .. } => {
                flags.extend(sample.map(|sample| ("sample", sample.to_string())));
                flags.extend(budget.map(|time| ("budget", duration(time))));
            }
            Self::Audit { since, .. } => {
                flags.extend(since.map(|since| ("since", since.to_string())));
            }
            Self::Put { component, version, .. }
            | Self::DeleteVersion { component, version, .. }
            | Self::Pin { component, version, .. }
            | Self::Unpin { component, version } => {
                flags.extend([text("name", component.as_str()), text("version", version.as_str())]);
            }
        }
        if let Self::History { limit: Some(number), .. } | Self::Audit { limit: Some(number), .. } =
            self
        {
            flags.push(("limit", number.to_string()));
        }
        if let Self::Diff { from, to, .. } = self {
            flags.extend(from.map(|number| ("from", number.to_string())));
            flags.extend(to.map(|number| ("to", number.to_string())));
        }
        if let Self::Pin { message, .. } = self
            && !message.is_empty()
        {
            flags.push(text("m", message));
        }
        if let Self::Rollback { to: Some(number), .. } = self {
            flags.push(("to", number.to_string()));
        }
        flags
    }

    /// Its switches that are on.
    fn switches(&self) -> Vec<&'static str> {
        let mut switches = Vec::new();
        let mut add = |name, on: bool| switches.extend(on.then_some(name));
        match self {
            Self::ShowConfiguration { verbose, json, .. } => {
                add("v", *verbose);
                add("json", *json);
            }
            Self::ShowComponent { json, .. }
            | Self::Components { json }
            | Self::Configurations { json }
            | Self::References { json, .. }
            | Self::Stat { json }
            | Self::Put { json, .. }
            | Self::Audit { json, .. }
            | Self::History { json, .. } => add("json", *json),
            Self::Diff { files, json, .. } => {
                add("files", *files);
                add("json", *json);
            }
            Self::Collect { dry_run, force, json } => {
                add("n", *dry_run);
                add("force", *force);
                add("json", *json);
            }
            Self::Verify { resume, json, .. } => {
                add("resume", *resume);
                add("json", *json);
            }
            Self::DeleteVersion { force, .. }
            | Self::DeleteComponent { force, .. }
            | Self::DeleteConfiguration { force, .. } => add("force", *force),
            _ => {}
        }
        switches
    }
}

impl From<deploy_store::Error> for Refusal {
    fn from(err: deploy_store::Error) -> Self {
        use deploy_store::Error;
        let code = match &err {
            Error::BadName { .. } => exit::USAGE,
            Error::NoSuchBlob(_) => exit::NOT_FOUND,
            Error::Corrupt { .. } => exit::CORRUPT,
            _ => exit::FAILED,
        };
        Self::new(code, err.to_string())
    }
}

/// A line that [`split`] and [`parse`] bring back to the same command.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        if let Self::Help { verb: Some(verb) } = self {
            write!(f, " {}", quote(verb))?;
        }
        for (name, value) in self.flags() {
            write!(f, " -{name}={}", quote(&value))?;
        }
        self.switches().iter().try_for_each(|name| write!(f, " -{name}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(line: &str) -> Result<Command, Refusal> {
        let command = parse(&split(line)?)?;
        assert_eq!(parse(&split(&command.to_string())?)?, command, "{line} -> {command}");
        Ok(command)
    }

    #[test]
    fn every_spelling_of_every_verb() {
        let hash = "ab".repeat(32);
        for line in [
            "help",
            "help addver",
            &format!("addver -name code -version=v1 --hash {hash}"),
            "put -name code -version v1",
            "put -name code -version v1 -json",
            "addconf -name p -layer a:1 -layer b:x:y",
            "changeconf -name p -component a -version 2 -component b -version 3",
            &format!("bumpconf -name p -component a --component=b -if-hash {hash}"),
            "showconf -v=true -name \"odd: name\" -json",
            "showcomp -name 'with spaces'",
            "components --json",
            "configurations",
            "delver -name a -version 1 -force",
            "delcomp -name a",
            "delconf -force=T -name p",
            "history -name p -limit 3",
            "rollback -name p -to 2",
            "diff -name p -from 1 -to 2 -files -json",
            "pin -name code -version v1 -m 'the last \"good\" one'",
            "unpin -name code -version v1",
            &format!("refs {hash}"),
            &format!("refs -json -hash {hash}"),
            "gc",
            "gc -n -json",
            "gc --dry-run",
            "verify -sample 2.5% -budget 10m -resume",
            "stat -json",
            "audit -since 36h -limit 5",
            "audit -since 2026-01-02T03:04:05Z",
        ] {
            check(line).unwrap();
        }
        assert_eq!(check("addver -h").unwrap(), Command::Help { verb: Some("addver".to_owned()) });
    }

    #[test]
    fn refusals_have_the_texts_of_the_go_tool() {
        for (line, text) in [
            ("", "nothing to do"),
            ("frob", "Unknown command, supported commands are:\nhelp, addver, put, addconf"),
            ("adver", "did you mean addver?"),
            ("addver", "name, version and hash should all be set"),
            ("addver -name a:b -version v -hash x", "name cannot contain : symbol"),
            ("addver -name a -version v -hash x", "hash should be a hex representation of"),
            ("addconf", "name should be set"),
            ("addconf -name p", "configuration should have at least one layer"),
            ("addconf -name a/b -layer a:b", "name cannot contain / symbol"),
            ("addconf -layer code", "invalid value \"code\" for flag -layer: invalid value\nUsage"),
            ("addconf -layer a:1 -layer a:2", "flag -layer: duplicate component \"a\""),
            ("changeconf -name p", "name, component and version should all be set"),
            ("bumpconf -name p", "both name and component should be set"),
            ("showconf", "name should be set"),
            ("showconf project1", "unexpected argument \"project1\""),
            ("showcomp -name a:b", "name cannot contain : symbol"),
            ("delver -name a", "both name and version should be set"),
            ("delver -bogus", "flag provided but not defined: -bogus\nUsage of delver:"),
            ("delver -name", "flag needs an argument: -name"),
            ("showconf -v=maybe", "invalid boolean value \"maybe\" for -v: parse error"),
            ("history -name p -limit x", "no number"),
            ("refs", "hash should be a hex representation of"),
            ("refs abcd", "hash should be a hex representation of"),
            ("refs -json x y", "unexpected argument"),
            ("verify -sample 0%", "from 0.01% to 100%"),
            ("verify -sample x", "from 0.01% to 100%"),
            ("verify -budget x", "invalid value \"x\" for flag -budget"),
            ("audit -since yesterday", "invalid value \"yesterday\" for flag -since"),
            ("pin -name code", "both name and version should be set"),
        ] {
            let refusal = check(line).unwrap_err();
            assert!(refusal.text.contains(text), "{line}: {}", refusal.text);
            assert_eq!(refusal.code, exit::USAGE, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_names_survive_the_line(component in "[^:]{1,40}", version in ".{1,40}") {
            let command = Command::AddVersion {
                component: component.parse().unwrap(),
                version: version.parse().unwrap(),
                digest: Digest::of(b""),
            };
            prop_assert_eq!(parse(&split(&command.to_string()).unwrap()).unwrap(), command);
        }
    }
}
