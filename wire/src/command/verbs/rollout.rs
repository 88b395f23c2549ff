//! `rollout`: starts, shows and steers rollouts, and stores their policies.

use deploy_store::{ComponentName, ConfigurationName, VersionName};

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::rollout_rules::{
    ALLOW_UNKNOWN, LOST_AFTER, MAX_ABSENT, MAX_FAILED, POLICY, RolloutRules, SOAK, SUPERSEDE,
    WAVE_TIMEOUT, WAVES,
};
use crate::command::verb::{
    CONFIGURATION, DRY_RUN, HOST, IF_HASH, JSON, LAYER, OVERRIDE_FLAG, TIMEOUT, Verb, WAIT, number,
    switch, text,
};
use crate::command::{ChangeOptions, Command, Hash, Refusal};
use crate::fleet::{HostName, Label};

pub(in crate::command) const VERB: Verb = Verb {
    name: "rollout",
    about: "start, show or steer rollouts in waves: rollout ACTION",
    flags: &[
            text("action", "start, status, list, pause, resume, abort, skip-soak, mark, policy-set, policy-list, policy-use or policy-delete"),
            ALLOW_UNKNOWN,
            HOST,
            IF_HASH,
            JSON,
            LAYER,
            number("limit", "with list: maximum number of rollouts to show"),
            LOST_AFTER,
            text("m", "with pause or abort: the reason"),
            MAX_ABSENT,
            MAX_FAILED,
            switch(DRY_RUN, "with start: only show the waves"),
            CONFIGURATION,
            number("number", "with status: the rollout (default: the last one)"),
            OVERRIDE_FLAG,
            POLICY,
            text("result", "with mark: good or failed"),
            SOAK,
            SUPERSEDE,
            TIMEOUT,
            WAIT,
            WAVE_TIMEOUT,
            WAVES,
        ],
    examples: &[
        "rollout start -name web -layer code:v2 -waves canary,10%,100% -soak 5m",
        "rollout status -name web",
        "rollout pause -name web -m \"looking at the logs\"",
        "rollout resume -name web",
        "rollout abort -name web",
        "rollout mark web-01 good -name web",
        "rollout policy set careful -waves 1,10%,100% -soak 10m",
        "rollout policy use careful -name web",
    ],
    changes: true,
    reads_input: false,
};

/// The action of `rollout`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutAction {
    /// Replaces layers of a configuration, in waves.
    Start {
        /// The configuration.
        name: ConfigurationName,
        /// The new versions of the components.
        layers: Vec<(ComponentName, VersionName)>,
        /// If given, the rollout starts only if the configuration has this id.
        if_hash: Option<Hash>,
        /// The rules of the rollout, whether to change a frozen configuration, and whether to wait.
        options: ChangeOptions,
        /// Whether to show only the waves, and to start nothing.
        dry_run: bool,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// Shows a rollout.
    Status {
        /// The configuration.
        name: ConfigurationName,
        /// The number of the rollout; `None` stands for the newest rollout.
        number: Option<u64>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// Shows rollouts, newest first.
    List {
        /// If given, show only rollouts of this configuration.
        name: Option<ConfigurationName>,
        /// Maximum number of rollouts to show, newest first; `None` shows all.
        limit: Option<u64>,
        /// Whether to answer as JSON.
        json: bool,
    },
    /// Pauses a rollout: no further wave opens until `resume`. The text says why.
    Pause(ConfigurationName, String),
    /// Continues a rollout that is paused or halted, perhaps with other limits.
    Resume {
        /// The configuration.
        name: ConfigurationName,
        /// The new limit of failed hosts; `None` keeps the limit.
        max_failed: Option<String>,
        /// The new limit of absent hosts; `None` keeps the limit.
        max_absent: Option<String>,
    },
    /// Brings all hosts back to the state before the rollout. The text says why.
    Abort(ConfigurationName, String),
    /// Ends the soak of the open wave.
    SkipSoak(ConfigurationName),
    /// Sets the result of a host: `true` for good, `false` for failed. This is useful for a host
    /// that reports nothing.
    Mark(ConfigurationName, HostName, bool),
    /// Stores rules under a name.
    SetPolicy(Label, RolloutRules),
    /// Shows the policies.
    Policies {
        /// Whether to answer as JSON.
        json: bool,
    },
    /// Makes a policy the default of a configuration. `None` removes the default.
    UsePolicy(ConfigurationName, Option<Label>),
    /// Deletes a policy.
    DeletePolicy(Label),
}

impl RolloutAction {
    /// Whether the action only shows something.
    pub(in crate::command) fn only_shows(&self) -> bool {
        matches!(self, Self::Status { .. } | Self::List { .. } | Self::Policies { .. })
    }
}

/// Turns the leading words into flags. The words are the action and the names that the action
/// needs. For example, `start web` becomes `-action=start -name=web`.
pub(in crate::command) fn with_flags(words: &[String]) -> Vec<String> {
    let bare = words.iter().take_while(|word| !word.starts_with('-')).count();
    let (objects, rest) = words.split_at(bare);
    let (action, objects) = match objects {
        [policy, action, objects @ ..] if policy == "policy" => (format!("policy-{action}"), objects),
        [action, objects @ ..] => (action.clone(), objects),
        [] => return words.to_vec(),
    };
    let names: &[&str] = match &*action {
        "mark" => &["host", "result"],
        action if action.starts_with("policy-") => &["policy", "name"],
        _ => &["name"],
    };
    let mut flags = vec![format!("-action={action}")];
    for (place, object) in objects.iter().enumerate() {
        // An extra word stays as it is, so that the parser refuses it.
        flags.push(names.get(place).map_or_else(|| object.clone(), |name| format!("-{name}={object}")));
    }
    flags.extend(rest.iter().cloned());
    flags
}

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let name = || given.configuration();
    let message = || given.get("m").to_owned();
    let json = given.is_set("json");
    let action = match given.get("action") {
        "start" => start(given)?,
        "status" => RolloutAction::Status { name: name()?, number: given.number("number")?, json },
        "list" => RolloutAction::List {
            name: given.maybe("name")?,
            limit: given.number("limit")?,
            json,
        },
        "pause" => RolloutAction::Pause(name()?, message()),
        "resume" => {
            let limit = |flag: &str| given.all(flag).last().map(str::to_owned);
            let (max_failed, max_absent) = (limit("max-failed"), limit("max-absent"));
            RolloutAction::Resume { name: name()?, max_failed, max_absent }
        }
        "abort" => RolloutAction::Abort(name()?, message()),
        "skip-soak" => RolloutAction::SkipSoak(name()?),
        "mark" => {
            let is_good = match given.get("result") {
                "good" => true,
                "failed" => false,
                _ => return Err(usage("give the host and its result: rollout mark HOST good or failed")),
            };
            RolloutAction::Mark(name()?, given.host()?, is_good)
        }
        "policy-set" => {
            let rules = RolloutRules { policy: None, ..RolloutRules::parse(given)? };
            RolloutAction::SetPolicy(policy(given)?, rules)
        }
        "policy-list" => RolloutAction::Policies { json },
        "policy-use" => RolloutAction::UsePolicy(name()?, given.word("policy")?),
        "policy-delete" => RolloutAction::DeletePolicy(policy(given)?),
        _ => {
            return Err(usage(
                "missing or unknown action; use rollout start, status, list, pause, resume, abort, \
                 skip-soak, mark, policy set, policy list, policy use or policy delete",
            ));
        }
    };
    Ok(Command::Rollout(action))
}

fn usage(text: &str) -> Refusal {
    Refusal::usage(text.to_owned())
}

fn policy(given: &Given) -> Result<Label, Refusal> {
    given.word("policy")?.ok_or_else(|| usage("give the policy's name"))
}

fn start(given: &Given) -> Result<RolloutAction, Refusal> {
    let layers = given.layers()?;
    if layers.is_empty() {
        return Err(usage("give the new versions with -layer component:version"));
    }
    Ok(RolloutAction::Start {
        name: given.configuration()?,
        layers,
        if_hash: given.if_hash()?,
        options: ChangeOptions::parse(given)?,
        dry_run: given.is_set(DRY_RUN),
        json: given.is_set("json"),
    })
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Rollout(action) = command else { return };
    let of = |line: &mut Line, action: &str, name: &ConfigurationName| {
        line.flag("action", action);
        line.flag("name", name.as_str());
    };
    match action {
        RolloutAction::Start { name, layers, if_hash, options, dry_run, json } => {
            of(line, "start", name);
            line.layers(layers);
            line.maybe("if-hash", if_hash.as_ref());
            options.write(line);
            line.switch(DRY_RUN, *dry_run);
            line.switch("json", *json);
        }
        RolloutAction::Status { name, number, json } => {
            of(line, "status", name);
            line.maybe("number", number.as_ref());
            line.switch("json", *json);
        }
        RolloutAction::List { name, limit, json } => {
            line.flag("action", "list");
            line.maybe("name", name.as_ref().map(ConfigurationName::as_str));
            line.maybe("limit", limit.as_ref());
            line.switch("json", *json);
        }
        RolloutAction::Pause(name, why) => {
            of(line, "pause", name);
            line.maybe("m", Some(why).filter(|why| !why.is_empty()));
        }
        RolloutAction::Resume { name, max_failed, max_absent } => {
            of(line, "resume", name);
            line.maybe("max-failed", max_failed.as_ref());
            line.maybe("max-absent", max_absent.as_ref());
        }
        RolloutAction::Abort(name, why) => {
            of(line, "abort", name);
            line.maybe("m", Some(why).filter(|why| !why.is_empty()));
        }
        RolloutAction::SkipSoak(name) => of(line, "skip-soak", name),
        RolloutAction::Mark(name, host, is_good) => {
            of(line, "mark", name);
            line.flag("host", host);
            line.flag("result", if *is_good { "good" } else { "failed" });
        }
        RolloutAction::SetPolicy(policy, rules) => {
            line.flag("action", "policy-set");
            line.flag("policy", policy);
            rules.write(line);
        }
        RolloutAction::Policies { json } => {
            line.flag("action", "policy-list");
            line.switch("json", *json);
        }
        RolloutAction::UsePolicy(name, policy) => {
            of(line, "policy-use", name);
            line.maybe("policy", policy.as_ref());
        }
        RolloutAction::DeletePolicy(policy) => {
            line.flag("action", "policy-delete");
            line.flag("policy", policy);
        }
    }
}
