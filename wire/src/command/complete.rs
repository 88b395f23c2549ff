//! Completes the last word of an unfinished line: a verb, a flag or a name. This module only states
//! which kind of name fits, and the caller looks up the names.

use super::verb::{self, Flag, Takes, Verb};
use super::verbs::{VERBS, find};
use super::words::quote;
use deploy_store::escape;

/// The last, unfinished word of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    /// The position at which the word begins, in bytes of the line.
    pub start: usize,
    /// The part before `tail`, such as `-name=` or the component of a layer. Completion does not
    /// change this part.
    head: String,
    /// The part to complete.
    tail: String,
    /// The possible completions of this word.
    pub wanted: Wanted,
}

/// The kinds of word that an unfinished word may become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// One of these words.
    Words(Vec<String>),
    /// A component.
    Component,
    /// A component, followed by the colon before its version.
    Layer,
    /// A configuration.
    Configuration,
    /// A version of the component with this name.
    Version(String),
}

/// The result of a completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Nothing matches.
    Nothing,
    /// The word is replaced by this text.
    Text(String),
    /// Several names match, and the caller shows them.
    Several(Vec<String>),
}

/// A word of a line, which may be unfinished, and the position at which the word begins.
struct Word {
    start: usize,
    text: String,
}

/// The unfinished word at the end of `line`, with its possible completions. Returns `None` if no
/// known word fits.
pub fn typed(line: &str) -> Option<Typed> {
    let mut words = words(line);
    let last = words.pop()?;
    let Some((first, rest)) = words.split_first() else {
        let verbs = VERBS.iter().map(|verb| verb.name).chain(["help", "exit", "quit"]);
        return Some(one_of(last, verbs.map(str::to_owned).collect()));
    };
    if first.text == "help" {
        let topics = VERBS.iter().map(|verb| verb.name).chain(["exit-codes"]);
        return rest.is_empty().then(|| one_of(last, topics.map(str::to_owned).collect()));
    }
    let given: Vec<String> = rest.iter().map(|word| word.text.clone()).collect();
    after(find(&first.text)?, &given, last)
}

/// Like [`typed`], for words that a shell has split. `words` are the words after the name of
/// `verb`.
pub fn typed_in_shell(verb: &'static Verb, words: &[String]) -> Option<Typed> {
    let (last, given) = words.split_last()?;
    after(verb, given, Word { start: 0, text: last.clone() })
}

/// The possible completions of `last`, if `words` precede `last` in the line.
fn after(verb: &'static Verb, words: &[String], last: Word) -> Option<Typed> {
    let given = given(verb, words);
    if let Some((flag, None)) = given.last().filter(|(flag, _)| flag.takes != Takes::Nothing) {
        return value(flag, String::new(), last, &given);
    }
    if let Some((name, _)) = last.text.split_once('=').filter(|(name, _)| name.starts_with('-')) {
        let flag = verb.flag(name.trim_start_matches('-'))?;
        let head = format!("{name}=");
        let word = Word { text: last.text[head.len()..].to_owned(), ..last };
        return value(flag, head, word, &given);
    }
    let dashes = if last.text.starts_with("--") { "--" } else { "-" };
    let again = |flag: &Flag| {
        matches!(flag.takes, Takes::Layer | Takes::Component | Takes::Version)
            && flag.name != "name"
    };
    let flags = verb.flags.iter();
    let open = flags
        .filter(|flag| again(flag) || given.iter().all(|(one, _)| one.name != flag.name))
        .filter(|flag| flag.name != verb::INPUT || dashes == "-");
    Some(one_of(last, open.map(|flag| format!("{dashes}{}", flag.name)).collect()))
}

fn one_of(word: Word, words: Vec<String>) -> Typed {
    let Word { start, text: tail } = word;
    Typed { start, head: String::new(), tail, wanted: Wanted::Words(words) }
}

/// The values that `flag` may get.
fn value(
    flag: &Flag,
    head: String,
    word: Word,
    given: &[(&'static Flag, Option<String>)],
) -> Option<Typed> {
    let Word { start, text } = word;
    let wanted = match flag.takes {
        Takes::Component => Wanted::Component,
        Takes::Configuration => Wanted::Configuration,
        Takes::Version => {
            let mut names = given.iter().rev().filter(|(flag, _)| flag.takes == Takes::Component);
            Wanted::Version(names.find_map(|(_, value)| value.clone())?)
        }
        Takes::Layer => match text.split_once(':') {
            None => Wanted::Layer,
            Some((component, version)) => {
                let head = format!("{head}{component}:");
                let (tail, wanted) = (version.to_owned(), Wanted::Version(component.to_owned()));
                return Some(Typed { start, head, tail, wanted });
            }
        },
        Takes::Nothing | Takes::Text | Takes::Number => return None,
    };
    Some(Typed { start, head, tail: text, wanted })
}

/// The flags in `words`, with their values. The last flag may have no value yet.
fn given(verb: &'static Verb, words: &[String]) -> Vec<(&'static Flag, Option<String>)> {
    let mut given = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let name = word.trim_start_matches('-');
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        let Some(flag) = verb.flag(name) else { continue };
        let takes = flag.takes != Takes::Nothing && value.is_none();
        given.push((flag, if takes { words.next().cloned() } else { value }));
    }
    given
}

/// Splits `line` into words by the rules of [`super::split`]. The last word is unfinished or empty.
fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut word = Word { start: 0, text: String::new() };
    let (mut open, mut in_word, mut escaped) = (None, false, false);
    for (at, c) in line.char_indices() {
        if !in_word && !c.is_ascii_whitespace() {
            (word.start, in_word) = (at, true);
        }
        match (open, c) {
            _ if escaped => {
                word.text.push(c);
                escaped = false;
            }
            (None | Some('"'), '\\') => escaped = true,
            (None, '"' | '\'') => open = Some(c),
            (Some(quote), c) if quote == c => open = None,
            (None, c) if c.is_ascii_whitespace() => {
                if in_word {
                    words
                        .push(std::mem::replace(&mut word, Word { start: 0, text: String::new() }));
                }
                in_word = false;
            }
            (_, c) => word.text.push(c),
        }
    }
    if !in_word {
        word.start = line.len();
    }
    words.push(word);
    words
}

impl Typed {
    /// The complete words that match. The calling shell does the rest of the completion. The
    /// function leaves out names with control characters.
    pub fn whole<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = String> {
        let end = if self.wanted == Wanted::Layer { ":" } else { "" };
        self.fitting(names).map(move |name| format!("{}{name}{end}", self.head))
    }

    fn fitting<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = &'a String> {
        let fits = |name: &&String| name.starts_with(&self.tail);
        names.iter().filter(fits).filter(|name| !name.contains(char::is_control))
    }

    /// Completes the word with one of `names`. The function leaves out names with control
    /// characters.
    pub fn complete(&self, names: &[String]) -> Completion {
        let mut fitting: Vec<&String> = self.fitting(names).collect();
        fitting.sort();
        fitting.dedup();
        match fitting[..] {
            [] => Completion::Nothing,
            [one] => {
                let whole = quote(&format!("{}{one}", self.head));
                let end = if self.wanted == Wanted::Layer { ":" } else { " " };
                Completion::Text(whole + end)
            }
            [first, .., last] => {
                // The names are sorted, so a common prefix of the first and the last name is common
                // to all names.
                let same = first.chars().zip(last.chars()).take_while(|(a, b)| a == b);
                let common: String = same.map(|(c, _)| c).collect();
                // If flags have only their dashes in common, the function shows the flags instead.
                let is_more = common.len() > self.tail.len();
                if is_more && !(self.tail.is_empty() && common.chars().all(|c| c == '-')) {
                    return Completion::Text(unfinished(&format!("{}{common}", self.head)));
                }
                Completion::Several(fitting.iter().map(|name| escape(name)).collect())
            }
        }
    }
}

/// Quotes `word` as the beginning of a longer word, without a closing quotation mark.
fn unfinished(word: &str) -> String {
    let quoted = quote(word);
    match quoted.strip_suffix('"') {
        Some(open) if quoted != word => open.to_owned(),
        _ => quoted,
    }
}

#[cfg(test)]
mod tests {
    use super::super::split;
    use super::*;
    use proptest::prelude::*;

    /// The line after the user presses Tab, or the names that are then shown.
    fn tab(line: &str) -> String {
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let Some(typed) = typed(line) else { return "-".to_owned() };
        let names: Vec<String> = match &typed.wanted {
            Wanted::Words(words) => words.clone(),
            Wanted::Component | Wanted::Layer => strings(&["code", "config", "big one", "big two"]),
            Wanted::Configuration => strings(&["web", "we\x1bird"]),
            Wanted::Version(of) => vec![format!("{of}-1"), format!("{of}-2")],
        };
        match typed.complete(&names) {
            Completion::Nothing => "nothing".to_owned(),
            Completion::Text(text) => format!("{}{text}|", &line[..typed.start]),
            Completion::Several(words) => words.join(" "),
        }
    }

    #[test]
    fn lines_are_completed() {
        for (line, want) in [
            ("addv", "addver |"),
            ("add", "addconf addimage addver"),
            ("  he", "  help |"),
            ("help exit", "help exit-codes |"),
            ("help addver x", "-"),
            ("frobnicate -", "-"),
            ("showconf ", "-json -name -v"),
            ("showconf -v ", "-json -name"),
            ("showconf -n", "showconf -name |"),
            ("showconf --n", "showconf --name |"),
            ("showconf -x", "nothing"),
            ("showconf -name ", "showconf -name web |"),
            ("showconf -name=", "showconf -name=web |"),
            ("showconf -name web -", "-json -v"),
            ("showcomp -name co", "code config"),
            ("showcomp -name c", "showcomp -name co|"),
            ("showcomp -name cod", "showcomp -name code |"),
            ("showcomp -name b", "showcomp -name \"big |"),
            ("showcomp -name \"big ", "big one big two"),
            ("showcomp -name \"big o", "showcomp -name \"big one\" |"),
            ("showcomp -name big\\ o", "showcomp -name \"big one\" |"),
            ("delver -name code -version ", "delver -name code -version code-|"),
            ("delver -version ", "-"),
            ("addconf -name n -layer cod", "addconf -name n -layer code:|"),
            ("addconf -name n -layer code:", "addconf -name n -layer code:code-|"),
            (
                "addconf -name n -layer 'big one:big one-1",
                "addconf -name n -layer \"big one:big one-1\" |",
            ),
            (
                "changeconf -component config -version config-2",
                "changeconf -component config -version config-2 |",
            ),
            (
                "changeconf -component=config -version=",
                "changeconf -component=config -version=config-|",
            ),
            ("history -limit ", "-"),
            ("showlayers ", "- -json"),
            ("showlayers - ", "showlayers - -json |"),
            ("showlayers --", "showlayers --json |"),
            (
                "addimage -name n -layer code:code-1 -la",
                "addimage -name n -layer code:code-1 -layer |",
            ),
            ("history -name web -limit=", "-"),
        ] {
            assert_eq!(tab(line), want, "{line}");
        }
    }

    #[test]
    fn shell_completion_gives_whole_words() {
        let names = ["code", "config", "we\x1bird", "x"].map(str::to_owned);
        for (line, want) in [
            ("showcomp -name=co", "-name=code -name=config"),
            ("addconf -layer c", "code: config:"),
            ("addconf -layer x:c", "x:code x:config"),
            ("delver -name x -version x", "x"),
        ] {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let typed = typed_in_shell(find(&words[0]).unwrap(), &words[1..]).unwrap();
            assert_eq!(typed.whole(&names).collect::<Vec<_>>().join(" "), want, "{line}");
        }
    }

    proptest! {
        #[test]
        fn completion_splits_like_the_console(line in "[a-z \\\\'\"=:-]{0,30}") {
            if let Ok(split) = split(&line) {
                let mut ours: Vec<String> = words(&line).into_iter().map(|word| word.text).collect();
                if ours.last().is_some_and(String::is_empty) && ours.len() > split.len() {
                    ours.pop();
                }
                prop_assert_eq!(ours, split);
            }
        }

        #[test]
        fn no_input_panics(line in any::<String>(), names in prop::collection::vec(any::<String>(), 0..4)) {
            if let Some(typed) = typed(&line) {
                prop_assert!(line.is_char_boundary(typed.start));
                let _ = typed.complete(&names);
            }
        }
    }
}
