//! Defines the grammar of the commands for the registry's console. ssh exec, the interactive prompt
//! and `deployctl` all use this grammar.

mod change_options;
pub mod complete;
mod given;
mod hash;
mod line;
mod parse;
mod refusal;
mod rollout_rules;
mod service_command;
mod share;
mod verb;
mod verbs;
mod words;

use std::time::Duration;

use deploy_store::{ComponentName, ConfigurationName, VersionName};

use crate::fleet::{HostName, Label, Phase};

pub use change_options::{ChangeOptions, DEFAULT_WAIT, Rolling};
pub use hash::Hash;
pub use parse::{parse, read_flags};
pub use refusal::Refusal;
pub use rollout_rules::RolloutRules;
pub use service_command::ServiceCommand;
pub use share::Share;
pub use verb::{
    Flag, INPUT, Takes, Verb, closest, component, listing_of, number, switch, text, version,
};
pub use verbs::audit::Since;
pub use verbs::host::HostAction;
pub use verbs::import::Import;
pub use verbs::rollout::RolloutAction;
pub use verbs::wait::Wait;
pub use verbs::window::WindowAction;
pub use verbs::{VERBS, find, listing};
pub use words::{MAX_LINE, quote, quote_always, split};

/// One parsed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// `help [verb]`
    Help {
        /// The verb to explain, or `None` for all verbs.
        verb: Option<String>,
    },
    /// `addver`
    AddVersion {
        /// The component. The registry creates the component if it does not exist.
        component: ComponentName,
        /// Version to create.
        version: VersionName,
        /// Digest of the version's blob.
        digest: Hash,
    },
    /// `put`, with the archive on standard input
    Put {
        /// The component. The registry creates the component if it does not exist.
        component: ComponentName,
        /// Version to create.
        version: VersionName,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `addconf`
    AddConfiguration {
        /// Configuration to create. With `replace`, this may be an existing configuration.
        name: ConfigurationName,
        /// The layers, lowest first.
        layers: Vec<(ComponentName, VersionName)>,
        /// Whether to replace an existing configuration of this name.
        replace: bool,
        /// Whether to change a frozen configuration, how the change reaches the hosts, and whether
        /// to wait.
        options: ChangeOptions,
    },
    /// `addimage`, with the layers on standard input
    AddImage {
        /// Configuration to create or replace.
        name: ConfigurationName,
        /// Layers on top of the image's layers, lowest first.
        layers: Vec<(ComponentName, VersionName)>,
        /// Whether to answer as JSON.
        json: bool,
        /// Whether to change the configuration even if it is frozen.
        overrides: bool,
    },
    /// `import`, with an image's archive on standard input
    Import(Import),
    /// `changeconf`
    ChangeConfiguration {
        /// Configuration to change.
        name: ConfigurationName,
        /// Layers to change, in one transaction.
        changes: Vec<(ComponentName, VersionName)>,
        /// If given, the registry makes the change only if the configuration has this id.
        if_hash: Option<Hash>,
        /// Whether to change a frozen configuration, how the change reaches the hosts, and whether
        /// to wait.
        options: ChangeOptions,
    },
    /// `bumpconf`
    BumpConfiguration {
        /// Configuration to change.
        name: ConfigurationName,
        /// Components to set to their newest version, in one transaction.
        components: Vec<ComponentName>,
        /// If given, the registry makes the change only if the configuration has this id.
        if_hash: Option<Hash>,
        /// Whether to change a frozen configuration, how the change reaches the hosts, and whether
        /// to wait.
        options: ChangeOptions,
    },
    /// `showconf`
    ShowConfiguration {
        /// Configuration to show.
        name: ConfigurationName,
        /// Whether to also show the configuration's name, time and id.
        verbose: bool,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `showcomp`
    ShowComponent {
        /// Component to show.
        name: ComponentName,
        /// If given, show only versions that were added before this version.
        before: Option<VersionName>,
        /// Number of the newest versions to show; `None` shows all.
        limit: Option<u64>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `components`
    Components {
        /// If given, show only names after this name.
        after: Option<ComponentName>,
        /// Maximum number of names to show; `None` shows all.
        limit: Option<u64>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `configurations`
    Configurations {
        /// If given, show only names after this name.
        after: Option<ConfigurationName>,
        /// Maximum number of names to show; `None` shows all.
        limit: Option<u64>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `showlayers`
    ShowLayers {
        /// Whether to show only the layers that are listed on standard input.
        asked: bool,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `delver`
    DeleteVersion {
        /// The component.
        component: ComponentName,
        /// Version to delete.
        version: VersionName,
        /// Whether to delete a version even if an earlier state of a configuration needs the
        /// version.
        force: bool,
    },
    /// `delcomp`
    DeleteComponent {
        /// Component to delete with all its versions.
        name: ComponentName,
        /// Whether to delete a version even if an earlier state of a configuration needs the
        /// version.
        force: bool,
    },
    /// `delconf`
    DeleteConfiguration {
        /// Configuration to delete.
        name: ConfigurationName,
        /// Whether the user has confirmed the deletion.
        force: bool,
        /// Whether to delete the configuration even if it is frozen.
        overrides: bool,
    },
    /// `history`
    History {
        /// The configuration.
        name: ConfigurationName,
        /// If given, show only states with numbers below this one.
        before: Option<u64>,
        /// Maximum number of states to show, newest first; `None` shows all.
        limit: Option<u64>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `rollback`
    Rollback {
        /// The configuration.
        name: ConfigurationName,
        /// State to make current again; `None` stands for an earlier state that the registry
        /// chooses.
        to: Option<u64>,
        /// Whether to change a frozen configuration, how the change reaches the hosts, and whether
        /// to wait.
        options: ChangeOptions,
    },
    /// `diff`
    Diff {
        /// The configuration.
        name: ConfigurationName,
        /// The earlier state to compare; `None` stands for the state before `to`.
        from: Option<u64>,
        /// The later state to compare; `None` stands for the current state.
        to: Option<u64>,
        /// Whether to compare files instead of layers.
        files: bool,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `pin`
    Pin {
        /// The component.
        component: ComponentName,
        /// Version to keep until it is unpinned.
        version: VersionName,
        /// The reason why the version is pinned.
        message: String,
    },
    /// `unpin`
    Unpin {
        /// The component.
        component: ComponentName,
        /// Version to unpin.
        version: VersionName,
    },
    /// `refs`
    References {
        /// Blob whose references are shown.
        digest: Hash,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `gc`
    Collect {
        /// Whether only to show what would be removed.
        dry_run: bool,
        /// Whether to run even if the catalogue has no version of any component.
        force: bool,
        /// Whether to answer as JSON.
        json: bool,
        /// Whether to show no progress.
        quiet: bool,
    },
    /// `verify`
    Verify {
        /// Share of the blobs to read, picked at random; `None` reads all blobs.
        sample: Option<Share>,
        /// Maximum duration of the run. After this duration, the run reads no further blob. `None`
        /// means no limit.
        budget: Option<Duration>,
        /// Whether to continue where the last run stopped.
        resume: bool,
        /// Whether to answer as JSON.
        json: bool,
        /// Whether to show no progress.
        quiet: bool,
    },
    /// `stat`
    Stat {
        /// Whether to show the registries that share the catalogue.
        registries: bool,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `audit`
    Audit {
        /// If given, show only changes since this time.
        since: Option<Since>,
        /// If given, show only entries with lower numbers.
        before: Option<u64>,
        /// Maximum number of entries to show, newest first; `None` shows all.
        limit: Option<u64>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `fleet`
    Fleet {
        /// If given, show only the hosts that track this configuration. `None` shows a summary of
        /// each configuration.
        name: Option<ConfigurationName>,
        /// If given, show only hosts of this group.
        group: Option<Label>,
        /// If given, show only hosts in this phase.
        phase: Option<Phase>,
        /// Whether to show only hosts that have not confirmed the current state and are not held.
        behind: bool,
        /// If given, show only hosts with names after this name.
        after: Option<HostName>,
        /// Maximum number of hosts to show; `None` shows all.
        limit: Option<u64>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `why`
    Why {
        /// The host.
        host: HostName,
        /// The configuration; `None` shows every configuration of the host.
        name: Option<ConfigurationName>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `wait`
    Wait(Wait),
    /// `events`
    Events {
        /// If given, show only events of this configuration.
        name: Option<ConfigurationName>,
        /// If given, show only events with numbers above this one.
        since: Option<u64>,
        /// Number of the newest events to show; `None` shows all events that the registry keeps.
        limit: Option<u64>,
        /// Whether to show new events until interrupted.
        follow: bool,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// `host`
    Host(HostAction),
    /// `retry`
    Retry {
        /// If given, only the agents that track this configuration try again.
        name: Option<ConfigurationName>,
        /// The host; `None` stands for all hosts whose deploy failed.
        host: Option<HostName>,
    },
    /// `freeze`
    Freeze {
        /// The configuration.
        name: ConfigurationName,
        /// The duration of the freeze, and the reason for it; `None` ends the freeze.
        until: Option<(Duration, String)>,
    },
    /// `rollout`
    Rollout(RolloutAction),
    /// `promote`
    Promote {
        /// The configuration that has the layers.
        from: ConfigurationName,
        /// The configuration that gets the layers. The registry creates the configuration if it
        /// does not exist.
        to: ConfigurationName,
        /// If given, the registry promotes only if `from` has this id.
        if_hash: Option<Hash>,
        /// Whether to change a frozen configuration, how the change reaches the hosts, and whether
        /// to wait.
        options: ChangeOptions,
    },
    /// `window`
    Window(WindowAction),
    /// `metrics`
    Metrics {},
    /// `web`
    Web {
        /// The local port of the forwarded connection; `None` stands for 8080.
        port: Option<u16>,
        /// Whether to answer as JSON.
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit;
    use proptest::prelude::*;

    fn check(line: &str) -> Result<Command, Refusal> {
        let command = parse(&split(line)?)?;
        assert_eq!(parse(&split(&command.to_string())?)?, command, "{line} -> {command}");
        Ok(command)
    }

    #[test]
    fn every_spelling_of_every_verb_is_read_and_written_back() {
        let hash = "ab".repeat(32);
        for line in [
            "help",
            "help addver",
            &format!("addver -name code -version=v1 --hash {hash}"),
            "put -name code -version v1",
            "put -name code -version v1 -json",
            "addconf -name p -layer a:1 -layer b:x:y",
            "addconf -name p -layer a:1 -replace",
            "addver -name code -version v1 -hash 0123abcd",
            "refs 0123abcd",
            "bumpconf -name p -component a -if-hash 0123abcdef",
            "addimage -name p -layer a:1 -layer b:x:y -json -override -",
            "addimage - -name p",
            "import",
            "import -name p -image app:1.4 -platform linux/arm64/v8 -compress zstd -layer a:1 -n",
            "import -image-config -compress=gzip --dry-run",
            "import -q -name p",
            "showlayers",
            "showlayers - -json",
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
            "gc -q -force",
            "verify -sample 2.5% -budget 10m -resume",
            "verify -q",
            "stat -json",
            "audit -since 36h -limit 5",
            "audit -since 2026-01-02T03:04:05Z",
        ] {
            check(line).unwrap();
        }
        assert_eq!(check("addver -h").unwrap(), Command::Help { verb: Some("addver".to_owned()) });
    }

    #[test]
    fn every_spelling_of_the_fleet_verbs_is_read_and_written_back() {
        let hash = "ab".repeat(32);
        for line in [
            "addconf -name p -layer a:1 -override -wait",
            "changeconf -name p -component a -version 2 -wait -timeout 90s",
            "rollback -name p -override -wait -timeout=1m",
            "delconf -name p -force -override",
            "bumpconf -name p -component a -waves canary,2,10%,100% -soak 5m -max-failed 2",
            "changeconf -name p -component a -version 2 -policy careful -supersede",
            "rollback -name p -at-once",
            "rollout start -name p -layer a:2 -waves @web-01+web-02,100% -max-absent 10% -n -json",
            "rollout start -name p -layer a:2 -lost-after 5m -wave-timeout 1h -allow-unknown -wait",
            "rollout status p -number 7 -json",
            "rollout list -limit 3",
            "rollout pause p -m 'look first'",
            "rollout resume -name p -max-failed 3 -max-absent 50%",
            "rollout abort -name p",
            "rollout skip-soak p",
            "rollout mark web-01 failed -name p",
            "rollout policy set careful -waves 1,100% -soak 10m",
            "rollout policy list",
            "rollout policy use careful -name p",
            "rollout policy use -name p",
            "rollout policy delete careful",
            "window set production -times 'Sat,Sun 02:00-05:00 Europe/Berlin'",
            "window list -json",
            "window delete production",
            "promote -from staging -to production -if-hash 0123abcdef -waves 1,100% -wait",
            "fleet -name p -group canary -phase rolled_back -behind -after web-01 -limit 5 -json",
            "why -host web-01 -name p -json",
            "wait -name p -state 15 -timeout 10m -min 98% -group canary -json -q",
            &format!("wait -name p -id {hash}"),
            "events -name p -since 4 -limit 3 -follow -json",
            "host list -after web-01 -limit 3 -retired -json",
            "host label web-01 group=canary zone=",
            "host -action label -host web-01 -label group=canary",
            "host hold web-01 -m 'new disk'",
            "host release web-01",
            "host retire -host web-01",
            "retry -host web-01 -name p",
            "retry -failed",
            "freeze -name p -m why -for 2h",
            "freeze -name p -off",
            "metrics",
            "web -port=9000",
            "web -json",
        ] {
            check(line).unwrap();
        }
        assert!(!check("host list").unwrap().is_change());
        assert!(check("host retire web-01").unwrap().is_change());
    }

    #[test]
    fn invalid_commands_are_refused_with_the_reason() {
        for (line, text) in [
            ("", "nothing to do"),
            ("frob", "Unknown command, supported commands are:\nhelp, addver, put, addconf"),
            ("adver", "did you mean addver?"),
            ("addver", "name, version and hash should all be set"),
            ("addver -name a:b -version v -hash x", "name cannot contain : symbol"),
            ("addver -name a -version v -hash x", "hash should be a hex representation of"),
            ("addconf", "name should be set"),
            (
                "addconf -name p",
                "configuration should have at least one layer; give it with -layer",
            ),
            ("addconf -name a/b -layer a:b", "name cannot contain / symbol"),
            (
                "addconf -layer code",
                "for flag -layer: invalid value; give component:version, like code:v1\nUsage",
            ),
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
            ("history -name p -limit x", "not a number"),
            ("rollback -name p -to=", "invalid value \"\" for flag -to: not a number"),
            ("bumpconf -name p -component c -if-hash ''", "hash should be a hex"),
            ("changeconf -name p -component c -version v -if-hash=", "hash should be a hex"),
            ("import -name=", "name"),
            ("import -image ''", "invalid value \"\" for flag -image: should not be empty"),
            ("refs", "hash should be a hex representation of"),
            ("refs abcd", "hash should be a hex representation of"),
            ("refs -json x y", "unexpected argument"),
            ("addimage -", "name should be set"),
            ("addimage -name p", "add - at the end"),
            ("addimage -name p - x", "unexpected argument \"x\""),
            (
                "showlayers -- x",
                "flag provided but not defined: -\nUsage of showlayers:\n  -\tonly",
            ),
            ("showconf -", "unexpected argument \"-\""),
            (
                "import -compress xz",
                "flag -compress: \"xz\" is not a compression; use gzip or zstd",
            ),
            ("import -platform linux", "flag -platform: should be os/arch or os/arch/variant"),
            ("import -platform linux/", "flag -platform: should be os/arch"),
            ("import -layer code", "invalid value \"code\" for flag -layer"),
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

    #[test]
    fn refusals_of_the_fleet_verbs_say_what_is_wrong() {
        for (line, text) in [
            ("bumpconf -name p -component a -timeout 5m", "-timeout needs -wait"),
            ("fleet -phase dancing", "the phases are offered, fetched"),
            ("fleet -group 'a b'", "label \"a b\" has ' '"),
            ("why", "host should be set"),
            ("wait", "name should be set"),
            ("wait -name p -min 0%", "from 0.01% to 100%"),
            ("host", "missing or unknown action"),
            ("host dance web-01", "missing or unknown action"),
            ("host label web-01", "give a label"),
            ("host label web-01 =x", "label \"\" is empty"),
            ("host hold web-01", "give the reason with -m"),
            ("host hold -m x", "host should be set"),
            ("retry", "either -host or -failed"),
            ("retry -failed -host web-01", "either -host or -failed"),
            ("freeze -name p", "give the reason with -m"),
            ("rollout", "missing or unknown action"),
            ("rollout start -name p", "give the new versions with -layer"),
            ("rollout mark web-01 great -name p", "give the host and its result"),
            ("rollout policy set", "give the policy's name"),
            ("bumpconf -name p -component a -at-once -waves 1", "-at-once makes no rollout"),
            ("promote -from a", "-to is missing"),
            ("window", "missing or unknown action"),
            ("window set production", "give the windows with -times"),
            ("window delete", "give the group"),
            ("promote -from a -to a", "different configurations"),
        ] {
            let refusal = check(line).unwrap_err();
            assert!(refusal.text.contains(text), "{line}: {}", refusal.text);
            assert_eq!(refusal.code, exit::USAGE, "{line}");
        }
    }

    #[test]
    fn every_verb_has_valid_examples() {
        for verb in VERBS {
            assert!(!verb.examples.is_empty(), "{}", verb.name);
            for line in verb.examples {
                let line = line.split(" < ").next().unwrap();
                let command = split(line).and_then(|words| parse(&words)).unwrap();
                assert_eq!(command.verb(), verb.name, "{line}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_names_are_written_and_read_back(component in "[^:]{1,40}", version in ".{1,40}") {
            let command = Command::AddVersion {
                component: component.parse().unwrap(),
                version: version.parse().unwrap(),
                digest: deploy_store::Digest::of(b"").into(),
            };
            prop_assert_eq!(parse(&split(&command.to_string()).unwrap()).unwrap(), command);
        }
    }
}
