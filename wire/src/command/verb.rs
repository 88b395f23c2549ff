//! Describes a verb and its flags. The parser, the usage texts, the completion and `deployctl` all
//! use this description.

use std::fmt::Write;

/// A verb of the console.
#[derive(Debug)]
pub struct Verb {
    /// The name.
    pub name: &'static str,
    /// A description of the verb in a few words.
    pub about: &'static str,
    /// The flags, sorted by name.
    pub flags: &'static [Flag],
    /// Example command lines, as a user types them at the prompt. Examples that read standard input
    /// are for a shell, because commands at the prompt have no input.
    pub examples: &'static [&'static str],
    /// Whether the verb can change the registry. Even if this field is `true`, a dry run or an
    /// action that only shows something changes nothing.
    pub changes: bool,
    /// Whether the verb reads standard input without the flag `-`.
    pub reads_input: bool,
}

/// A flag of a verb.
#[derive(Debug)]
pub struct Flag {
    /// The name.
    pub name: &'static str,
    /// The meaning of the flag.
    pub about: &'static str,
    /// The kind of value that the flag takes.
    pub takes: Takes,
}

/// The kind of value of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names explain the variants")]
pub enum Takes {
    Nothing,
    Text,
    Number,
    Layer,
    Component,
    Configuration,
    /// A version of the component that the nearest earlier component flag names.
    Version,
}

/// A flag that takes any text.
pub const fn text(name: &'static str, about: &'static str) -> Flag {
    Flag { name, about, takes: Takes::Text }
}

/// A flag without a value.
pub const fn switch(name: &'static str, about: &'static str) -> Flag {
    Flag { name, about, takes: Takes::Nothing }
}

/// A flag that takes a component's name.
pub const fn component(name: &'static str, about: &'static str) -> Flag {
    Flag { name, about, takes: Takes::Component }
}

/// A flag that takes a configuration's name.
pub const fn configuration(name: &'static str, about: &'static str) -> Flag {
    Flag { name, about, takes: Takes::Configuration }
}

/// A flag that takes a version of a component.
pub const fn version(name: &'static str, about: &'static str) -> Flag {
    Flag { name, about, takes: Takes::Version }
}

/// A flag that takes a number.
pub const fn number(name: &'static str, about: &'static str) -> Flag {
    Flag { name, about, takes: Takes::Number }
}

/// Name of the flag `-`, which reads standard input.
pub const INPUT: &str = "";
/// Name of the switch for a dry run.
pub(super) const DRY_RUN: &str = "n";
/// Name of the switch that turns progress off.
pub(super) const QUIET: &str = "q";

pub(super) const JSON: Flag = switch("json", "print one JSON document");
pub(super) const QUIET_FLAG: Flag = switch(QUIET, "show no progress");
pub(super) const LAYER: Flag = Flag {
    name: "layer",
    about: "layer in component:version format; can be set multiple times",
    takes: Takes::Layer,
};
pub(super) const UPPER_LAYER: Flag = Flag {
    name: "layer",
    about: "layer on top of the image's layers, in component:version format; can be set multiple times",
    takes: Takes::Layer,
};
pub(super) const CONFIGURATION: Flag =
    Flag { name: "name", about: "configuration name", takes: Takes::Configuration };
pub(super) const COMPONENT: Flag = component("name", "component name");
pub(super) const VERSION: Flag = version("version", "unique version id");
pub(super) const HASH: Flag =
    text("hash", "sha256 content hash in hex representation (64 chars, or the first 8 or more)");
pub(super) const IF_HASH: Flag =
    text("if-hash", "change only if this is the configuration's current hash");
/// Name of the switch that allows the change of a frozen configuration.
pub(super) const OVERRIDE: &str = "override";

pub(super) const OVERRIDE_FLAG: Flag =
    switch(OVERRIDE, "change the configuration even if it is frozen");
pub(super) const TIMEOUT: Flag =
    text("timeout", "with -wait: maximum time to wait, as in 5m (default: 10m)");
pub(super) const WAIT: Flag = switch("wait", "wait until the hosts have deployed the change");
pub(super) const HOST: Flag = text("host", "name of the host");
pub(super) const GROUP: Flag = text("group", "only hosts of this group");
pub(super) const FORCE_STATE: Flag =
    switch("force", "remove even if an earlier state of a configuration uses it");

/// The output of `help` for `verbs`.
pub fn listing_of<'a>(verbs: impl IntoIterator<Item = &'a Verb>) -> String {
    let mut text = String::new();
    for verb in verbs {
        writeln!(text, "{:<16}{}", verb.name, verb.about).expect("a string takes any text");
    }
    text + "\nuse -h flag to get more help on a specific command\n"
}

impl Verb {
    /// The flag called `name`.
    pub fn flag(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    /// The usage text, in the form of Go's flag package.
    pub fn usage(&self) -> String {
        let mut text = format!("Usage of {}:\n", self.name);
        for Flag { name, about, takes } in self.flags {
            let kind = match takes {
                Takes::Nothing if name.len() < 2 => {
                    writeln!(text, "  -{name}\t{about}").expect("a string takes any text");
                    continue;
                }
                Takes::Nothing => "",
                Takes::Text | Takes::Component | Takes::Configuration | Takes::Version => " string",
                Takes::Number => " uint",
                Takes::Layer => " value",
            };
            writeln!(text, "  -{name}{kind}\n    \t{about}").expect("a string takes any text");
        }
        text
    }
}

impl Verb {
    /// The output of `help` for the verb: the usage text and the examples.
    pub fn help(&self) -> String {
        self.help_with(self.examples)
    }

    /// The output of `help` for the verb, with `examples` instead of the verb's own examples.
    pub fn help_with(&self, examples: &[&str]) -> String {
        let mut text = self.usage();
        for (n, line) in examples.iter().enumerate() {
            let head = if n == 0 { "\nExamples:\n" } else { "" };
            writeln!(text, "{head}  {line}").expect("a string takes any text");
        }
        text
    }
}

/// The name in `names` that is most similar to `word`; `None` if no name is similar.
pub fn closest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = names.map(|name| (distance(word, name), name)).min()?;
    (near.0 <= 2 && near.0 < word.len()).then_some(near.1)
}

/// The Damerau-Levenshtein distance of two words: the number of insertions, deletions, replacements
/// and swaps of neighbouring characters. No part of a word is changed twice.
fn distance(one: &str, other: &str) -> usize {
    // A word that is far longer than every verb is not a misspelt verb.
    let one: Vec<char> = one.chars().take(64).collect();
    let other: Vec<char> = other.chars().collect();
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let (a, b) = (one[i - 1], other[j - 1]);
            let replaced = rows[i - 1][j - 1] + usize::from(a != b);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a == other[j - 2] && one[i - 2] == b {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::super::verbs::{VERBS, find};
    use super::*;

    #[test]
    fn usage_text_has_the_form_of_the_go_flag_package() {
        assert_eq!(
            find("addver").unwrap().usage(),
            "Usage of addver:\n  -hash string\n    \tsha256 content hash in hex representation \
             (64 chars, or the first 8 or more)\n  -name string\n    \tcomponent name\n  -version string\n    \tunique \
             version id\n"
        );
        assert!(find("showconf").unwrap().usage().contains("  -v\tshow extra details\n"));
    }

    #[test]
    fn flags_are_sorted_and_close_verbs_are_found() {
        for verb in VERBS {
            assert!(verb.flags.is_sorted_by_key(|flag| flag.name), "{}", verb.name);
        }
        let names = || VERBS.iter().map(|verb| verb.name);
        assert_eq!(closest("adver", names()), Some("addver"));
        assert_eq!(closest("pni", names()), Some("pin"));
        assert_eq!(closest("gte", ["gc", "get"].into_iter()), Some("get"));
        assert_eq!(closest("x", names()), None);
        assert_eq!(closest("frobnicate", names()), None);
    }
}
