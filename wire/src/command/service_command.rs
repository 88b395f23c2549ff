//! Reads and writes the commands of agents: `watch` and `report`. An agent's key may run no other
//! commands.

use deploy_store::{ConfigurationName, Digest};

use super::given::Given;
use super::line::Line;
use super::verb::{Takes, Verb, number, text};
use super::{Flag, Refusal, quote, split};
use crate::fleet::{HostName, Phase};

const NAME: Flag = Flag { name: "name", about: "configuration name", takes: Takes::Configuration };
const HOST: Flag = text("host", "name of the host");

const WATCH: Verb = Verb {
    name: "watch",
    about: "receive changes of a configuration, and send reports",
    flags: &[HOST, text("instance", "random id of the agent's directory"), NAME],
    examples: &["watch -name web -host web-01 -instance 1f0c"],
    changes: false,
    reads_input: true,
};

const REPORT: Verb = Verb {
    name: "report",
    about: "report the result of a deploy script",
    flags: &[
        number("code", "exit code of the script; 0 is success"),
        HOST,
        text("id", "hash of the configuration, as in NEWID"),
        text("m", "what happened"),
        NAME,
        text("phase", "phase of the deploy (default: the phase that the exit code stands for)"),
    ],
    examples: &["report -name web -host web-01 -id $NEWID -code $?"],
    changes: true,
    reads_input: false,
};

/// A command of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceCommand {
    /// `watch`. Afterwards, the agent and the registry exchange lines of JSON in both directions.
    Watch {
        /// The configuration that the agent tracks.
        name: ConfigurationName,
        /// The host.
        host: HostName,
        /// The random id of the agent's directory.
        instance: String,
    },
    /// `report`, which sends one result. Scripts use this command if their agent does not support
    /// `watch`.
    Report {
        /// The configuration.
        name: ConfigurationName,
        /// The host. If this field is `None`, the registry makes a name from the address of the
        /// connection.
        host: Option<HostName>,
        /// The id of the configuration for which the script ran.
        id: Digest,
        /// The exit code of the script.
        code: i32,
        /// The phase. `None` stands for the phase that the exit code implies.
        phase: Option<Phase>,
        /// A description of the result, as text for people.
        message: String,
    },
}

/// Maximum length of an agent's directory id, in bytes.
const MAX_INSTANCE: usize = 64;

impl ServiceCommand {
    /// Whether the first word of `line` is the name of an agent's command.
    pub fn is_one(line: &str) -> bool {
        matches!(line.split_ascii_whitespace().next(), Some("watch" | "report"))
    }

    /// Reads the command in `line`.
    pub fn parse(line: &str) -> Result<Self, Refusal> {
        let words = split(line)?;
        let (name, rest) =
            words.split_first().map_or(("", &[][..]), |(name, rest)| (&**name, rest));
        let verb = match name {
            "watch" => &WATCH,
            "report" => &REPORT,
            _ => return Err(Refusal::usage("agents may only run watch and report".to_owned())),
        };
        let given = Given::read(verb, rest)?;
        let given = given.ok_or_else(|| Refusal::usage(verb.usage().trim_end().to_owned()))?;
        if name == "watch" { watch(&given) } else { report(&given) }
    }

    /// The command line.
    pub fn to_line(&self) -> String {
        let mut line = Line::default();
        let verb = match self {
            Self::Watch { name, host, instance } => {
                line.flag("name", name.as_str());
                line.flag("host", host);
                line.flag("instance", instance);
                "watch"
            }
            Self::Report { name, host, id, code, phase, message } => {
                line.flag("name", name.as_str());
                line.maybe("host", host.as_ref());
                line.flag("id", id);
                line.flag("code", code);
                line.maybe("phase", phase.map(Phase::word));
                line.maybe("m", Some(message).filter(|message| !message.is_empty()));
                "report"
            }
        };
        line.flags()
            .iter()
            .fold(verb.to_owned(), |text, (name, value)| format!("{text} -{name}={}", quote(value)))
    }
}

fn watch(given: &Given) -> Result<ServiceCommand, Refusal> {
    given.need(&["name", "host", "instance"], "name, host and instance should all be set")?;
    let instance = given.get("instance");
    if instance.len() > MAX_INSTANCE || !instance.chars().all(|c| c.is_ascii_alphanumeric()) {
        let text = format!("instance should be at most {MAX_INSTANCE} letters and digits");
        return Err(Refusal::usage(text));
    }
    let host = given.value("host", host)?.ok_or_else(|| Refusal::usage("no host".to_owned()))?;
    Ok(ServiceCommand::Watch {
        name: given.configuration_name()?,
        host,
        instance: instance.to_owned(),
    })
}

fn report(given: &Given) -> Result<ServiceCommand, Refusal> {
    given.need(&["name", "id", "code"], "name, id and code should all be set")?;
    let number = |text: &str| text.parse().map_err(|_| "not an exit code".to_owned());
    let phase = |text: &str| {
        let phase = Phase::of(text).filter(|phase| *phase != Phase::Unknown);
        phase.ok_or_else(|| "not a phase; the usual phases are healthy and failed".to_owned())
    };
    Ok(ServiceCommand::Report {
        name: given.configuration_name()?,
        host: given.value("host", host)?,
        id: given.parsed("id")?,
        code: given.value("code", number)?.unwrap_or_default(),
        phase: given.value("phase", phase)?,
        message: given.get("m").to_owned(),
    })
}

fn host(text: &str) -> Result<HostName, String> {
    text.parse().map_err(|err: crate::fleet::host_name::BadName| err.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_written_to_a_line_and_read_back() {
        let id = Digest::of(b"1");
        for command in [
            ServiceCommand::Watch {
                name: "a web".parse().unwrap(),
                host: "web-01".parse().unwrap(),
                instance: "1f0c".to_owned(),
            },
            ServiceCommand::Report {
                name: "web".parse().unwrap(),
                host: None,
                id,
                code: -1,
                phase: Some(Phase::RolledBack),
                message: "it's \"bad\"".to_owned(),
            },
        ] {
            assert_eq!(ServiceCommand::parse(&command.to_line()).unwrap(), command);
        }
    }

    #[test]
    fn other_commands_and_bad_values_are_refused() {
        let id = Digest::of(b"1");
        for (line, want) in [
            ("gc", "only run watch and report"),
            ("", "only run watch and report"),
            ("watch -name web -host h", "-instance is missing"),
            ("watch -name web -host 'a b' -instance x", "host name"),
            ("watch -name web -host h -instance ../x", "letters and digits"),
            ("watch -h", "Usage of watch"),
            (&format!("report -name web -id {id} -code x"), "not an exit code"),
            (&format!("report -name web -id {id} -code 0 -phase dance"), "not a phase"),
            ("report -name web -id beef -code 0", "digest"),
        ] {
            let refusal = ServiceCommand::parse(line).unwrap_err();
            assert!(refusal.text.contains(want), "{line}: {}", refusal.text);
        }
    }
}
