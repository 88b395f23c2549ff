//! `complete-names`: answers a shell's requests for completions while the user types. The
//! subcommand waits at most two seconds for the registry, and reuses an answer for ten seconds. If
//! there is no such answer and the registry is unreachable, the subcommand prints nothing.

use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use deploy_store::Digest;
use deploy_wire::client::Client;
use deploy_wire::command::Command;
use deploy_wire::command::complete::{Typed, Wanted, typed_in_shell};
use deploy_wire::exit;
use serde_json::Value;

use crate::flags::Flags;
use crate::verbs;

/// Maximum time that a user waits for an answer while typing.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Age up to which an answer is reused, even an empty answer.
const FRESH: Duration = Duration::from_secs(10);
/// Age at which an answer is removed.
const OLD: Duration = Duration::from_secs(3600);

/// Prints the names that may complete the last of `words`. The exit code says whether the last word
/// may be a name.
pub async fn complete(words: &[String]) -> u8 {
    let Some((flags, typed)) = read(&joined(words)) else { return exit::FAILED };
    let names = names(&flags, &typed.wanted).await.unwrap_or_default();
    let lines: String = typed.whole(&names).map(|word| word + "\n").collect();
    // A failure is ignored, because a shell that has ended needs no answer.
    let _ = std::io::stdout().write_all(lines.as_bytes());
    exit::OK
}

/// The program's flags among `words`, and the unfinished word. `None` if the unfinished word cannot
/// be a name.
fn read(words: &[String]) -> Option<(Flags, Typed)> {
    let flags = Flags::read(words.iter().map(Into::into)).ok()?;
    let (verb, rest) = flags.words.split_first()?;
    let typed = typed_in_shell(verbs::find(verb)?, rest)?;
    let is_name = !matches!(typed.wanted, Wanted::Words(_));
    is_name.then_some((flags, typed))
}

/// Joins the words as the user typed them, because bash treats colons and equals signs as separate
/// words.
fn joined(words: &[String]) -> Vec<String> {
    let divides = |word: &str| matches!(word, ":" | "=");
    let mut all: Vec<String> = Vec::new();
    let mut goes_on = false;
    for word in words {
        match all.last_mut() {
            Some(last) if goes_on || divides(word) => last.push_str(word),
            _ => all.push(word.clone()),
        }
        goes_on = divides(word);
    }
    all
}

/// The names of one kind in the registry, at most [`FRESH`] old.
async fn names(flags: &Flags, wanted: &Wanted) -> Option<Vec<String>> {
    let command = match wanted {
        Wanted::Component | Wanted::Layer => {
            Command::Components { after: None, limit: None, json: true }
        }
        Wanted::Configuration => Command::Configurations { after: None, limit: None, json: true },
        Wanted::Version(of) => {
            Command::ShowComponent { name: of.parse().ok()?, before: None, limit: None, json: true }
        }
        Wanted::Words(_) => return None,
    };
    let line = command.to_string();
    let file =
        directory().map(|dir| dir.join(Digest::of(flags.told(&line).as_bytes()).to_string()));
    if let Some(known) = file.as_deref().and_then(remembered) {
        return Some(known);
    }
    let asked = tokio::time::timeout(TIMEOUT, ask(flags, &line)).await;
    let names = asked.ok().flatten().unwrap_or_default();
    if let Some(file) = file {
        remember(&file, &names);
    }
    Some(names)
}

async fn ask(flags: &Flags, line: &str) -> Option<Vec<String>> {
    let client = Client::connect(&flags.connect_within(TIMEOUT).ok()?).await.ok()?;
    let answer = client.exec(line).await.ok().filter(|answer| answer.code == exit::OK)?;
    client.disconnect().await;
    let told: Value = serde_json::from_slice(&answer.stdout).ok()?;
    let names = told.as_array().or_else(|| told["versions"].as_array())?;
    let name = |one: &Value| one.as_str().or_else(|| one["version"].as_str()).map(str::to_owned);
    Some(names.iter().filter_map(name).collect())
}

/// The directory of the remembered answers (XDG Base Directory Specification 0.8). `None` if the
/// nearest existing directory on this path belongs to another user, or if no home directory is
/// known.
fn directory() -> Option<PathBuf> {
    let absolute = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    let dir = base.join("deployctl");
    let nearest = dir.ancestors().find_map(|path| fs::metadata(path).ok())?;
    (nearest.is_dir() && nearest.uid() == rustix::process::getuid().as_raw()).then_some(dir)
}

fn age(file: &Path) -> Option<Duration> {
    SystemTime::now().duration_since(fs::metadata(file).ok()?.modified().ok()?).ok()
}

fn remembered(file: &Path) -> Option<Vec<String>> {
    age(file).filter(|age| *age < FRESH)?;
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// Remembers an answer, and removes old answers. If the answer cannot be stored, the next
/// completion asks the registry again.
fn remember(file: &Path, names: &[String]) {
    let Some(dir) = file.parent() else { return };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    let Ok(json) = serde_json::to_vec(names) else { return };
    if made.is_err() || deploy_store::replace_file(file, &json, 0o600).is_err() {
        return;
    }
    let all = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for old in all.filter(|path| age(path).is_some_and(|age| age > OLD)) {
        // Another shell may have removed the file.
        let _ = fs::remove_file(old);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_split_by_bash_are_joined() {
        for (words, want) in [
            (&["-layer", "code", ":", "v"][..], "-layer|code:v"),
            (&["-layer", "code", ":"], "-layer|code:"),
            (&["-name", "=", "w"], "-name=w"),
            (&["-addr", "r", ":", "1", "gc", ""], "-addr|r:1|gc|"),
            (&[":", "a", "b"], ":a|b"),
        ] {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            assert_eq!(joined(&words).join("|"), want);
        }
    }
}
