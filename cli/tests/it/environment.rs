//! Tests that every flag has an environment variable, and that `-h` shows the variable. The
//! exceptions are the flags of deployctl's subcommands and of `man`, and flags that only print help
//! or the version. Because the test reads the programs' output, it also finds a new flag without a
//! variable.

use std::collections::BTreeSet;
use std::process::Command;

use crate::stage::program;

/// The programs, and the prefixes of their variables.
const PROGRAMS: [(&str, &str); 4] = [
    ("deployctl", "DEPLOYCTL_"),
    ("deploy-from-docker", "DEPLOY_FROM_DOCKER_"),
    ("deploy-agent", "DEPLOY_AGENT_"),
    ("deploy-registry", "DEPLOY_REGISTRY_"),
];
/// Flags that only print help or the version.
const QUESTIONS: [&str; 3] = ["h", "help", "version"];
/// Subcommands that only print documentation of the program.
const ABOUT: [&str; 3] = ["completion", "help", "man"];

/// Whether the program runs on an operator's machine.
fn is_operators(name: &str) -> bool {
    matches!(name, "deployctl" | "deploy-from-docker")
}

/// The output of the program for `words` and `-h`.
fn help(name: &str, words: &[&str]) -> String {
    let mut command = Command::new(program(name));
    let output = command.args(words).arg("-h").env("COLUMNS", "200").output().unwrap();
    assert!(output.status.success(), "{name} {words:?} -h: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The subcommands below the heading `Commands:`, except for those in [`ABOUT`].
fn subcommands(help: &str) -> Vec<&str> {
    let section = help.split("\nCommands:\n").nth(1).unwrap_or_default();
    let lines = section.split("\n\n").next().unwrap_or_default().lines();
    let first = lines.filter_map(|line| line.split_whitespace().next());
    first.filter(|name| !ABOUT.contains(name)).collect()
}

/// The longest name of each flag, with the help of the flag.
fn flags(help: &str) -> Vec<(String, String)> {
    let mut flags: Vec<(String, String)> = Vec::new();
    for line in help.lines() {
        if let Some(rest) = line.strip_prefix("  -") {
            let names = rest.split("  ").next().unwrap_or_default().split(", ");
            let name = |name: &str| {
                let name = name.trim_start_matches('-');
                name.split([' ', '=', '[']).next().unwrap_or_default().to_owned()
            };
            let longest = names.map(name).max_by_key(String::len).unwrap();
            flags.push((longest, line.to_owned()));
        } else if let Some((_, text)) = flags.last_mut().filter(|_| line.starts_with("   ")) {
            text.push(' ');
            text.push_str(line.trim());
        }
    }
    flags
}

/// The variable that a flag's help states, in clap's form or in the Go tool's form.
fn variable(text: &str) -> Option<String> {
    let after = text.split("[env: ").nth(1).or_else(|| text.split(" $").nth(1))?;
    let end = after.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(after.len());
    Some(after[..end].to_owned())
}

#[test]
fn every_flag_has_an_environment_variable_in_its_help() {
    for (name, prefix) in PROGRAMS {
        let own = help(name, &[]);
        // The flags of deployctl's subcommands belong to the registry's command language. The same
        // flags also work through ssh, where variables would have no effect.
        let subs = if is_operators(name) { Vec::new() } else { subcommands(&own) };
        assert!(is_operators(name) || subs.len() >= 2, "{name}: {subs:?}");
        let pages = subs.iter().map(|sub| help(name, &[sub])).chain([own.clone()]);
        let all: BTreeSet<(String, String)> = pages.flat_map(|page| flags(&page)).collect();
        assert!(all.len() > 4, "{name}: {all:?}");
        for (flag, text) in all.iter().filter(|(flag, _)| !QUESTIONS.contains(&flag.as_str())) {
            let expected = match flag.as_str() {
                // These variables have the same names as in the Go tool, because both programs
                // connect as an operator.
                "fp" if is_operators(name) => "DEPLOYCTL_FINGERPRINT".to_owned(),
                "addr" | "key" | "user" if is_operators(name) => {
                    format!("DEPLOYCTL_{}", flag.to_uppercase())
                }
                _ => format!("{prefix}{}", flag.to_uppercase().replace('-', "_")),
            };
            assert_eq!(variable(text), Some(expected), "{name} -{flag}: {text}");
        }
    }
}

/// The number of rows of a terminal of the usual size.
const SCREEN: usize = 24;

#[test]
fn subcommand_help_fits_a_screen_with_its_own_flags_first() {
    for (name, _) in PROGRAMS.iter().filter(|(name, _)| !is_operators(name)) {
        let own = help(name, &[]);
        for sub in subcommands(&own) {
            let mut command = Command::new(program(name));
            let output = command.args([sub, "-h"]).env("COLUMNS", "80").output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            assert!(text.lines().count() <= SCREEN, "{name} {sub}: {text}");
            let heads = text.lines().filter(|line| line.ends_with(':') && !line.starts_with(' '));
            let heads: Vec<&str> = heads.filter(|line| *line != "Arguments:").collect();
            assert_eq!(heads[0], "Options:", "{name} {sub}: {text}");
            let mut whole = Command::new(program(name));
            let whole = whole.args([sub, "--help"]).output().unwrap().stdout;
            let whole = String::from_utf8(whole).unwrap();
            assert!(whole.contains("-log-format") && whole.contains("-dir"), "{whole}");
        }
    }
}

#[test]
fn subcommand_flag_overrides_its_variable() {
    let dir = tempfile::tempdir().unwrap();
    let status = |variable: &str, words: &[&str]| {
        let mut agent = Command::new(program("deploy-agent"));
        agent.args(["status", "-dir", "."]).args(words).current_dir(dir.path());
        let output = agent.env("DEPLOY_AGENT_JSON", variable).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(status("true", &[]).starts_with('{'));
    assert!(!status("false", &[]).starts_with('{'));
    assert!(!status("true", &["-json=false"]).starts_with('{'));
    assert!(status("0", &["-json"]).starts_with('{'));
}
