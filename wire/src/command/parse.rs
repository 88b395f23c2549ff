//! From words to a command: flags by the rules of Go's flag package, texts of the Go
//! tool.

mod image;

use std::collections::BTreeMap;

use deploy_store::{ComponentName, VersionName};

use super::verb::{self, Flag, Takes, Verb};
use super::{Command, Hash, Refusal, Sample, Since};
use crate::exit;

/// The flags of one command, in the order given.
struct Flags {
    verb: &'static Verb,
    given: Vec<(&'static str, String)>,
}

/// The command that `words` are.
pub fn parse(words: &[String]) -> Result<Command, Refusal> {
    let Some((name, rest)) = words.split_first() else {
        return Err(Refusal { text: "nothing to do".to_owned(), code: exit::USAGE });
    };
    if name == "help" {
        return Ok(Command::Help { verb: rest.first().cloned() });
    }
    let verb = verb::find(name).ok_or_else(|| unknown(name))?;
    // The one verb that says what it is about without a flag.
    let bare = |word: &String| verb.name == "refs" && !word.starts_with('-');
    let hash = rest.first().filter(|word| bare(word)).map(|word| format!("-hash={word}"));
    let rest: Vec<String> = match hash {
        Some(hash) => std::iter::once(hash).chain(rest[1..].iter().cloned()).collect(),
        None => rest.to_vec(),
    };
    let Some(flags) = Flags::read(verb, &rest)? else {
        return Ok(Command::Help { verb: Some(name.clone()) });
    };
    match verb.name {
        "addver" => flags.add_version(),
        "put" => {
            let (component, version) = flags.named_version()?;
            Ok(Command::Put { component, version, json: flags.is_set("json") })
        }
        "addconf" => flags.add_configuration(),
        "addimage" => flags.add_image(),
        "import" => flags.import(),
        "changeconf" => flags.change_configuration(),
        "bumpconf" => flags.bump_configuration(),
        "showconf" => Ok(Command::ShowConfiguration {
            name: flags.configuration()?,
            verbose: flags.is_set("v"),
            json: flags.is_set("json"),
        }),
        "showcomp" => {
            flags.need(&["name"], "name should be set")?;
            Ok(Command::ShowComponent { name: flags.component()?, json: flags.is_set("json") })
        }
        "components" => Ok(Command::Components { json: flags.is_set("json") }),
        "configurations" => Ok(Command::Configurations { json: flags.is_set("json") }),
        "showlayers" => {
            Ok(Command::ShowLayers { asked: flags.is_set(verb::INPUT), json: flags.is_set("json") })
        }
        "delver" => {
            let (component, version) = flags.named_version()?;
            Ok(Command::DeleteVersion { component, version, force: flags.is_set("force") })
        }
        "delcomp" => {
            flags.need(&["name"], "name should be set")?;
            Ok(Command::DeleteComponent { name: flags.component()?, force: flags.is_set("force") })
        }
        "delconf" => Ok(Command::DeleteConfiguration {
            name: flags.configuration()?,
            force: flags.is_set("force"),
        }),
        "history" => Ok(Command::History {
            name: flags.configuration()?,
            limit: flags.number("limit")?,
            json: flags.is_set("json"),
        }),
        "rollback" => {
            Ok(Command::Rollback { name: flags.configuration()?, to: flags.number("to")? })
        }
        "diff" => Ok(Command::Diff {
            name: flags.configuration()?,
            from: flags.number("from")?,
            to: flags.number("to")?,
            files: flags.is_set("files"),
            json: flags.is_set("json"),
        }),
        "pin" | "unpin" => {
            let (component, version) = flags.named_version()?;
            Ok(match verb.name {
                "pin" => Command::Pin { component, version, message: flags.get("m").to_owned() },
                _ => Command::Unpin { component, version },
            })
        }
        "refs" => Ok(Command::References {
            digest: read_hash(flags.get("hash"))?,
            json: flags.is_set("json"),
        }),
        "gc" => Ok(Command::Collect {
            dry_run: flags.is_set("n") || flags.is_set("dry-run"),
            force: flags.is_set("force"),
            json: flags.is_set("json"),
            quiet: flags.is_set("q"),
        }),
        "verify" => Ok(Command::Verify {
            sample: flags.value("sample", sample)?,
            budget: flags.value("budget", crate::flags::duration)?,
            resume: flags.is_set("resume"),
            json: flags.is_set("json"),
            quiet: flags.is_set("q"),
        }),
        "stat" => Ok(Command::Stat { json: flags.is_set("json") }),
        "audit" => Ok(Command::Audit {
            since: flags.value("since", since)?,
            limit: flags.number("limit")?,
            json: flags.is_set("json"),
        }),
        other => Err(unknown(other)),
    }
}

/// The flags of `verb` with their values, in the order given; `None` when help is asked for.
pub fn read_flags(
    verb: &'static Verb,
    words: &[String],
) -> Result<Option<Vec<(&'static str, String)>>, Refusal> {
    Ok(Flags::read(verb, words)?.map(|flags| flags.given))
}

fn unknown(name: &str) -> Refusal {
    let names = || std::iter::once("help").chain(verb::VERBS.iter().map(|verb| verb.name));
    let list: Vec<&str> = names().collect();
    let mut text = format!("Unknown command, supported commands are:\n{}", list.join(", "));
    if let Some(close) = verb::closest(name, names()) {
        text = text + "\ndid you mean " + close + "?";
    }
    Refusal { text, code: exit::USAGE }
}

impl Flags {
    /// Reads the flags of `verb`; `None` when help is asked for.
    fn read(verb: &'static Verb, words: &[String]) -> Result<Option<Self>, Refusal> {
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
            return Err(invalid("invalid value; give component:version, as code:v1".to_owned()));
        };
        let lacking = [("component", component), ("version", version)];
        if let Some((what, _)) = lacking.iter().find(|(_, part)| part.is_empty()) {
            return Err(invalid(format!("it has no {what}; give component:version, as code:v1")));
        }
        let twice = self.all(flag.name).any(|other| other.split(':').next() == Some(component));
        if twice { Err(invalid(format!("duplicate component {component:?}"))) } else { Ok(()) }
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.given.iter().filter(move |(flag, _)| *flag == name).map(|(_, value)| value.as_str())
    }

    /// The value of a flag, empty when it was not given. The last one counts.
    fn get(&self, name: &str) -> &str {
        self.all(name).last().unwrap_or_default()
    }

    fn is_set(&self, name: &str) -> bool {
        self.get(name) == "true"
    }

    fn need(&self, names: &[&str], text: &str) -> Result<(), Refusal> {
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

    fn parsed<T: std::str::FromStr<Err = deploy_store::Error>>(
        &self,
        name: &str,
    ) -> Result<T, Refusal> {
        self.get(name).parse().map_err(|err: deploy_store::Error| Refusal::usage(err.to_string()))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        self.value(name, |value| value.parse().map_err(|_| "no number".to_owned()))
    }

    /// What a flag's value means, if it was given.
    fn value<T>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Refusal> {
        // One that is empty was meant to be something, as by a script whose variable is not set.
        let Some(value) = self.all(name).last() else { return Ok(None) };
        read(value).map(Some).map_err(|why| {
            let usage = self.verb.usage();
            let usage = usage.trim_end();
            Refusal::usage(format!("invalid value {value:?} for flag -{name}: {why}\n{usage}"))
        })
    }

    fn component(&self) -> Result<ComponentName, Refusal> {
        if self.get("name").contains(':') {
            return Err(Refusal::usage("name cannot contain : symbol".to_owned()));
        }
        self.parsed("name")
    }

    fn configuration<T: std::str::FromStr<Err = deploy_store::Error>>(&self) -> Result<T, Refusal> {
        self.need(&["name"], "name should be set")?;
        self.configuration_name()
    }

    fn configuration_name<T: std::str::FromStr<Err = deploy_store::Error>>(
        &self,
    ) -> Result<T, Refusal> {
        if self.get("name").contains('/') {
            return Err(Refusal::usage("name cannot contain / symbol".to_owned()));
        }
        self.parsed("name")
    }

    fn named_version(&self) -> Result<(ComponentName, VersionName), Refusal> {
        self.need(&["name", "version"], "both name and version should be set")?;
        Ok((self.component()?, self.parsed("version")?))
    }

    fn if_hash(&self) -> Result<Option<Hash>, Refusal> {
        self.all("if-hash").last().map(read_hash).transpose()
    }

    fn add_version(&self) -> Result<Command, Refusal> {
        let all = ["name", "version", "hash"];
        self.need(&all, "name, version and hash should all be set")?;
        Ok(Command::AddVersion {
            component: self.component()?,
            version: self.parsed("version")?,
            digest: read_hash(self.get("hash"))?,
        })
    }

    fn add_configuration(&self) -> Result<Command, Refusal> {
        self.need(&["name"], "name should be set")?;
        let text = "configuration should have at least one layer; give it with -layer";
        self.need(&["layer"], text)?;
        let (name, layers) = (self.configuration_name()?, self.layers()?);
        Ok(Command::AddConfiguration { name, layers, replace: self.is_set("replace") })
    }

    fn layers(&self) -> Result<Vec<(ComponentName, VersionName)>, Refusal> {
        let layers = self.all("layer").map(|value| {
            let (component, version) = value.split_once(':').unwrap_or((value, ""));
            pair(component, version)
        });
        layers.collect()
    }

    fn change_configuration(&self) -> Result<Command, Refusal> {
        let all = ["name", "component", "version"];
        self.need(&all, "name, component and version should all be set")?;
        let (components, versions) = (self.all("component"), self.all("version"));
        if components.count() != versions.count() {
            let text = "each -component should have its -version".to_owned();
            return Err(Refusal::usage(text));
        }
        let mut changes = BTreeMap::new();
        let mut order = Vec::new();
        for (component, version) in self.all("component").zip(self.all("version")) {
            let (component, version) = pair(component, version)?;
            order.push(component.clone());
            if changes.insert(component.clone(), version).is_some() {
                return Err(Refusal::usage(format!("duplicate component \"{component}\"")));
            }
        }
        let changes = order.into_iter().map(|component| {
            let version = changes.remove(&component).expect("each was put in");
            (component, version)
        });
        Ok(Command::ChangeConfiguration {
            name: self.configuration_name()?,
            changes: changes.collect(),
            if_hash: self.if_hash()?,
        })
    }

    fn bump_configuration(&self) -> Result<Command, Refusal> {
        self.need(&["name", "component"], "both name and component should be set")?;
        let components = self.all("component").map(|component| {
            component.parse().map_err(|err: deploy_store::Error| Refusal::usage(err.to_string()))
        });
        Ok(Command::BumpConfiguration {
            name: self.configuration_name()?,
            components: components.collect::<Result<_, _>>()?,
            if_hash: self.if_hash()?,
        })
    }
}

fn pair(component: &str, version: &str) -> Result<(ComponentName, VersionName), Refusal> {
    let refuse = |err: deploy_store::Error| Refusal::usage(err.to_string());
    Ok((component.parse().map_err(refuse)?, version.parse().map_err(refuse)?))
}

fn read_hash(text: &str) -> Result<Hash, Refusal> {
    text.parse().map_err(|()| {
        let text = "hash should be a hex representation of content sha256 sum, 64 chars long, or \
                    the first 8 or more of them";
        Refusal::usage(text.to_owned())
    })
}

/// A share, as in `5%`.
fn sample(text: &str) -> Result<Sample, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let hundredths = format!("{part:0<2}");
    Some(format!("{whole}{hundredths}"))
        .filter(|all| hundredths.len() == 2 && all.len() <= 6 && digits(all))
        .and_then(|all| all.parse().ok())
        .filter(|hundredths| (1..=Sample::ALL.0).contains(hundredths))
        .map(Sample)
        .ok_or_else(|| "should be from 0.01% to 100%".to_owned())
}

/// A time, or how long ago.
fn since(text: &str) -> Result<Since, String> {
    if let Ok(time) = text.parse() {
        return Ok(Since::At(time));
    }
    crate::flags::duration(text)
        .map(Since::Ago)
        .map_err(|_| "neither a time as 2026-01-02T15:04:05Z nor a duration as 36h".to_owned())
}

/// Go's words for a boolean (strconv.ParseBool).
fn boolean(flag: &Flag, value: &str) -> Result<String, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok("true".to_owned()),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok("false".to_owned()),
        _ => Err(format!("invalid boolean value {value:?} for -{}: parse error", flag.name)),
    }
}
