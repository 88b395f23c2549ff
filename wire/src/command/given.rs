//! Reads the flags of a command by the rules of Go's flag package. Many error texts come from the
//! Go tool.

use deploy_store::{ComponentName, VersionName};

use super::verb::{self, Flag, Takes, Verb};
use super::{Hash, Refusal};
use crate::fleet::HostName;
use crate::fleet::host_name::BadName;

/// The flags of one command, in the order in which they were given.
pub struct Given {
    verb: &'static Verb,
    pub(super) given: Vec<(&'static str, String)>,
}

impl Given {
    /// Reads the flags of `verb`. `None` if the user asks for help.
    pub(super) fn read(verb: &'static Verb, words: &[String]) -> Result<Option<Self>, Refusal> {
        let refuse = |text: String| Refusal::usage(format!("{text}\n{}", verb.usage().trim_end()));
        let mut flags = Self { verb, given: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if word == "-" && verb.flag(verb::INPUT).is_some() {
                flags.given.push((verb::INPUT, "true".to_owned()));
                continue;
            }
            let Some(name) = word.strip_prefix('-').filter(|name| !name.is_empty()) else {
                return Err(refuse(format!("unexpected argument {word:?} after the flags")));
            };
            let name = name.strip_prefix('-').unwrap_or(name);
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let Some(flag) = verb.flag(name).filter(|_| name != verb::INPUT) else {
                if name == "h" || name == "help" {
                    return Ok(None);
                }
                let close = verb::closest(name, verb.flags.iter().map(|flag| flag.name));
                let close = close.map(|close| format!("\ndid you mean -{close}?"));
                return Err(refuse(format!(
                    "flag provided but not defined: -{}{}",
                    deploy_store::escape(name),
                    close.unwrap_or_default()
                )));
            };
            let value = match (flag.takes, value) {
                (Takes::Nothing, None) => "true".to_owned(),
                (Takes::Nothing, Some(value)) => boolean(flag, &value).map_err(refuse)?,
                (_, Some(value)) => value,
                (_, None) => words
                    .next()
                    .cloned()
                    .ok_or_else(|| refuse(format!("flag needs an argument: -{name}")))?,
            };
            if flag.takes == Takes::Layer {
                flags.check_layer(flag, &value).map_err(refuse)?;
            }
            flags.given.push((flag.name, value));
        }
        Ok(Some(flags))
    }

    fn check_layer(&self, flag: &Flag, value: &str) -> Result<(), String> {
        let invalid =
            |why: String| format!("invalid value {value:?} for flag -{}: {why}", flag.name);
        let Some((component, version)) = value.split_once(':') else {
            return Err(invalid("invalid value; give component:version, like code:v1".to_owned()));
        };
        let lacking = [("component", component), ("version", version)];
        if let Some((what, _)) = lacking.iter().find(|(_, part)| part.is_empty()) {
            return Err(invalid(format!("it has no {what}; give component:version, like code:v1")));
        }
        let twice = self.all(flag.name).any(|other| other.split(':').next() == Some(component));
        if twice { Err(invalid(format!("duplicate component {component:?}"))) } else { Ok(()) }
    }

    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.given.iter().filter(move |(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// The value of a flag, or an empty text if the flag was not given. If the flag was given
    /// several times, the last value counts.
    pub(super) fn get(&self, name: &str) -> &str {
        self.all(name).last().unwrap_or_default()
    }

    pub(super) fn is_set(&self, name: &str) -> bool {
        self.get(name) == "true"
    }

    pub(super) fn need(&self, names: &[&str], text: &str) -> Result<(), Refusal> {
        let missing: Vec<String> = names
            .iter()
            .filter(|name| self.get(name).is_empty())
            .map(|name| format!("-{name}"))
            .collect();
        match &missing[..] {
            [] => Ok(()),
            _ if names.len() == 1 => Err(Refusal::usage(text.to_owned())),
            [one] => Err(Refusal::usage(format!("{text}; {one} is missing"))),
            several => {
                Err(Refusal::usage(format!("{text}; {} are missing", several.join(" and "))))
            }
        }
    }

    pub(super) fn parsed<T: std::str::FromStr<Err = deploy_store::Error>>(
        &self,
        name: &str,
    ) -> Result<T, Refusal> {
        self.get(name).parse().map_err(|err: deploy_store::Error| Refusal::usage(err.to_string()))
    }

    /// The value of an optional flag, as a name. `None` if the flag was not given.
    pub(super) fn maybe<T: std::str::FromStr<Err = deploy_store::Error>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Refusal> {
        if self.all(name).next().is_none() { Ok(None) } else { self.parsed(name).map(Some) }
    }

    /// The value of an optional flag, as a host name or label. `None` if the flag was not given.
    pub(super) fn word<T: std::str::FromStr<Err = BadName>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, Refusal> {
        self.value(name, |text| text.parse().map_err(|err: BadName| err.to_string()))
    }

    /// The value of the flag `-host`, which the user must give.
    pub(super) fn host(&self) -> Result<HostName, Refusal> {
        self.need(&["host"], "host should be set")?;
        self.word("host")?.ok_or_else(|| Refusal::usage("host should be set".to_owned()))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.value(name, |value| value.parse().map_err(|_| "not a number".to_owned()))
    }

    /// The value of a flag, converted by `read`. `None` if the flag was not given.
    pub(super) fn value<T>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Refusal> {
        // An empty value is an error, because it may come from an unset variable of a script.
        let Some(value) = self.all(name).last() else { return Ok(None) };
        read(value).map(Some).map_err(|why| {
            let usage = self.verb.usage();
            let usage = usage.trim_end();
            Refusal::usage(format!("invalid value {value:?} for flag -{name}: {why}\n{usage}"))
        })
    }

    pub(super) fn component(&self) -> Result<ComponentName, Refusal> {
        if self.get("name").contains(':') {
            return Err(Refusal::usage("name cannot contain : symbol".to_owned()));
        }
        self.parsed("name")
    }

    pub(super) fn configuration<T: std::str::FromStr<Err = deploy_store::Error>>(
        &self,
    ) -> Result<T, Refusal> {
        self.need(&["name"], "name should be set")?;
        self.configuration_name()
    }

    pub(super) fn configuration_name<T: std::str::FromStr<Err = deploy_store::Error>>(
        &self,
    ) -> Result<T, Refusal> {
        if self.get("name").contains('/') {
            return Err(Refusal::usage("name cannot contain / symbol".to_owned()));
        }
        self.parsed("name")
    }

    pub(super) fn named_version(&self) -> Result<(ComponentName, VersionName), Refusal> {
        self.need(&["name", "version"], "both name and version should be set")?;
        Ok((self.component()?, self.parsed("version")?))
    }

    pub(super) fn if_hash(&self) -> Result<Option<Hash>, Refusal> {
        self.all("if-hash").last().map(hash_of).transpose()
    }

    pub(super) fn layers(&self) -> Result<Vec<(ComponentName, VersionName)>, Refusal> {
        let layers = self.all("layer").map(|value| {
            let (component, version) = value.split_once(':').unwrap_or((value, ""));
            pair(component, version)
        });
        layers.collect()
    }
}

pub(super) fn pair(
    component: &str,
    version: &str,
) -> Result<(ComponentName, VersionName), Refusal> {
    let refuse = |err: deploy_store::Error| Refusal::usage(err.to_string());
    Ok((component.parse().map_err(refuse)?, version.parse().map_err(refuse)?))
}

pub(super) fn hash_of(text: &str) -> Result<Hash, Refusal> {
    text.parse().map_err(|()| {
        let text = "hash should be a hex representation of content sha256 sum, 64 chars long, or \
                    the first 8 or more of them";
        Refusal::usage(text.to_owned())
    })
}

/// Reads a boolean in the spellings that Go accepts (strconv.ParseBool).
fn boolean(flag: &Flag, value: &str) -> Result<String, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".to_owned()),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".to_owned()),
        _ => Err(format!("invalid boolean value {value:?} for -{}: parse error", flag.name)),
    }
}
