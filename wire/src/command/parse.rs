//! Reads a command from words.

use super::given::Given;
use super::verb::{self, Verb};
use super::verbs::{VERBS, find, host, parser, rollout, window};
use super::{Command, Refusal};
use crate::exit;

/// Reads the command in `words`.
pub fn parse(words: &[String]) -> Result<Command, Refusal> {
    let Some((name, rest)) = words.split_first() else {
        return Err(Refusal { text: "nothing to do".to_owned(), code: exit::USAGE });
    };
    if name == "help" {
        return Ok(Command::Help { verb: rest.first().cloned() });
    }
    let verb = find(name).ok_or_else(|| unknown(name))?;
    // Besides `host`, `rollout` and `window`, only `refs` takes a word that is not a flag.
    let bare = |word: &String| verb.name == "refs" && !word.starts_with('-');
    let hash = rest.first().filter(|word| bare(word)).map(|word| format!("-hash={word}"));
    let rest: Vec<String> = match hash {
        None if verb.name == "host" => host::with_flags(rest),
        None if verb.name == "rollout" => rollout::with_flags(rest),
        None if verb.name == "window" => window::with_flags(rest),
        Some(hash) => std::iter::once(hash).chain(rest[1..].iter().cloned()).collect(),
        None => rest.to_vec(),
    };
    let Some(given) = Given::read(verb, &rest)? else {
        return Ok(Command::Help { verb: Some(name.clone()) });
    };
    parser(verb.name).ok_or_else(|| unknown(name))?(&given)
}

/// The flags of `verb` with their values, in the order in which they were given. `None` if the user
/// asks for help.
pub fn read_flags(
    verb: &'static Verb,
    words: &[String],
) -> Result<Option<Vec<(&'static str, String)>>, Refusal> {
    Ok(Given::read(verb, words)?.map(|given| given.given))
}

fn unknown(name: &str) -> Refusal {
    let names = || std::iter::once("help").chain(VERBS.iter().map(|verb| verb.name));
    let list: Vec<&str> = names().collect();
    let mut text = format!("Unknown command, supported commands are:\n{}", list.join(", "));
    if let Some(close) = verb::closest(name, names()) {
        text = text + "\ndid you mean " + close + "?";
    }
    Refusal { text, code: exit::USAGE }
}
