//! Plays the files in `transcripts/`, which contain commands of users and the exact output of these
//! commands. A shell runs the real programs and `OpenSSH`'s clients against a real registry. The
//! test checks JSON output against docs/schemas.
//!
//! A line that begins with `$ ` is a command for bash. The lines below it are the command's
//! standard output, with a dot for a blank line. A line that begins with `! ` is standard error. A
//! line that begins with `= ` is the exit code, if the code is not 0. A line that begins with `& `
//! is a command that runs in parallel with later commands. `~ PATTERN => NAME` gives a name to
//! output that differs from run to run. If `UPDATE_TRANSCRIPTS` is set, the test writes the files
//! again. Check the diff afterwards.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::stage::{Stage, program};
use regex::Regex;
use serde_json::Value;

/// The programs for which the test requires a transcript of every flag.
const PROGRAMS: [&str; 4] = ["deployctl", "deploy-agent", "deploy-registry", "deploy-from-docker"];
/// The patterns of output that differs from run to run, for all transcripts.
const MASKS: [(&str, &str); 9] = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "{TIME}"),
    (r"\b[0-9a-f]{64}\b", "{ID}"),
    (r"\b[0-9a-f]{12}\b", "{SHORT}"),
    (r"SHA256:[A-Za-z0-9+/]{43}", "{FINGERPRINT}"),
    (r"127\.0\.0\.1:[1-9]\d+", "{ADDR}"),
    (r"pid \d+", "pid {PID}"),
    (r"\d+\.\d+\.\d+ \(([0-9a-f]{9,}(\\?-modified)?|no commit)\)", "{VERSION}"),
    (r"\b\d{4}/\d\d/\d\d \d\d:\d\d:\d\d", "{DATE}"),
    (r"\b\d+(\.\d+)? ?ms\b", "{MS}"),
];

fn directory() -> PathBuf {
    deploy_testing::package().join("tests/transcripts")
}

fn check(name: &str, flags: &[&str]) {
    let mut stage = Stage::set(flags);
    let path = directory().join(name);
    let expected = fs::read_to_string(&path).unwrap();
    let mut masks: Vec<(Regex, String)> = MASKS
        .iter()
        .map(|(pattern, name)| (Regex::new(pattern).unwrap(), (*name).to_owned()))
        .collect();
    let mut seen = String::new();
    let mut background = 0;
    for line in expected.lines() {
        let is_ours = ["#", "$ ", "& ", "~ "].iter().any(|start| line.starts_with(start));
        if !is_ours && !line.is_empty() {
            continue;
        }
        writeln!(seen, "{line}").unwrap();
        if let Some(mask) = line.strip_prefix("~ ") {
            let (pattern, name) = mask.rsplit_once(" => ").expect("a pattern and its name");
            masks.push((Regex::new(pattern).unwrap(), name.to_owned()));
        } else if let Some(command) = line.strip_prefix("& ") {
            background += 1;
            stage.start(command, &format!("background{background}.log"));
        } else if let Some(command) = line.strip_prefix("$ ") {
            seen += &play(&stage, &masks, command);
        }
    }
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        fs::write(path, seen).unwrap();
        return;
    }
    for (number, (seen, expected)) in seen.lines().zip(expected.lines()).enumerate() {
        assert_eq!(seen, expected, "{name}:{}", number + 1);
    }
    assert_eq!(seen.lines().count(), expected.lines().count(), "{name}");
}

fn play(stage: &Stage, masks: &[(Regex, String)], command: &str) -> String {
    // The command may contain names that the transcript has given to output. The function replaces
    // these names with the real texts.
    let named = |text: &str, (value, name): &(String, String)| text.replace(name, value);
    let line = stage.known.iter().fold(command.to_owned(), |text, known| named(&text, known));
    let output = stage.play(&line);
    let plain = |text: &[u8]| {
        let text = String::from_utf8(text.to_vec()).unwrap().replace('\r', "{CR}");
        let text = text.replace('\x1b', "{ESC}");
        let known = stage.known.iter();
        let text = known.fold(text, |text, (value, name)| text.replace(value, name));
        masks.iter().fold(text, |text, (mask, name)| {
            mask.replace_all(&text, regex::NoExpand(name)).into_owned()
        })
    };
    let is_log = command.contains("-log-format json");
    if !is_log && (output.stdout.starts_with(b"{") || output.stdout.starts_with(b"[")) {
        check_json(command, &output.stdout);
    }
    let mut seen = String::new();
    for text in plain(&output.stdout).lines() {
        writeln!(seen, "{}", if text.is_empty() { "." } else { text }).unwrap();
    }
    for text in plain(&output.stderr).lines() {
        writeln!(seen, "! {text}").unwrap();
    }
    let code = output.status.code().unwrap_or_else(|| panic!("{command} does not end"));
    assert_ne!(code, 137, "{command} does not end: {seen}");
    if code != 0 {
        writeln!(seen, "= {code}").unwrap();
    }
    seen
}

fn schemas() -> PathBuf {
    deploy_testing::package().join("../docs/schemas")
}

/// The schema of a command's output, if the output is JSON.
fn schema_of(command: &str) -> Option<PathBuf> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let is_json = |word: &&str| word.trim_start_matches('-').split('=').next() == Some("json");
    if !words.iter().any(|word| word.starts_with('-') && is_json(word)) {
        return None;
    }
    let kind = if words.contains(&"deploy-agent") { "agent" } else { "registry" };
    words
        .iter()
        .map(|word| schemas().join(kind).join(format!("{word}.json")))
        .find(|at| at.exists())
}

/// Checks a document against its schema. If the document has a field that the schema lacks, the
/// check fails.
fn check_json(command: &str, text: &[u8]) {
    let path = schema_of(command).unwrap_or_else(|| panic!("{command}: no schema for this JSON"));
    let document: Value = serde_json::from_slice(text).unwrap();
    let mut schema: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    close(&mut schema);
    let options = jsonschema::options().should_validate_formats(true);
    let validator = options.build(&schema).unwrap();
    let wrong: Vec<String> = validator
        .iter_errors(&document)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(wrong.is_empty(), "{command}: {}: {wrong:#?}\n{document:#}", path.display());
}

/// Forbids fields that the schema does not describe.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            if fields.get("properties").is_some_and(Value::is_object) {
                fields.entry("additionalProperties").or_insert(Value::Bool(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// All commands in these transcripts and in the transcripts of the registry's console. The commands
/// of the console get the prefix `ssh registry`.
fn commands() -> Vec<String> {
    let console = deploy_testing::package().join("../registry/tests/transcripts");
    [(directory(), ""), (console, "ssh registry ")]
        .iter()
        .flat_map(|(dir, head)| {
            let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
            files.flat_map(move |file| {
                let text = fs::read_to_string(file).unwrap();
                let ours = |line: &str| {
                    let command = line.strip_prefix("$ ").or_else(|| line.strip_prefix("& "));
                    command.map(|command| format!("{head}{command}"))
                };
                text.lines().filter_map(ours).collect::<Vec<_>>()
            })
        })
        .collect()
}

/// A subcommand and a flag. One of the two may be empty.
type Usage = (String, String);

/// The subcommands and flags of a program, according to its own completions for fish.
fn offered(name: &str) -> BTreeSet<Usage> {
    let script = std::process::Command::new(program(name)).args(["completion", "fish"]).output();
    let script = String::from_utf8(script.unwrap().stdout).unwrap();
    let mut all = BTreeSet::new();
    for line in script.lines().filter(|line| line.starts_with("complete ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let after = |flag: &str| words.iter().skip_while(move |word| **word != flag).nth(1);
        let sub = line.split("using_subcommand ").nth(1);
        let sub = sub.and_then(|rest| rest.split(['"', ';', ' ']).next()).unwrap_or_default();
        // A flag with several names counts as used if one name is used.
        if let Some(flag) = after("-o").or_else(|| after("-s")) {
            all.insert((sub.to_owned(), (*flag).to_owned()));
        } else if let Some(verb) = after("-a").filter(|_| sub.is_empty()) {
            all.insert((verb.trim_matches('"').to_owned(), String::new()));
        }
    }
    all
}

/// The verbs and flags of the console, according to its help.
fn offered_by_console() -> BTreeSet<Usage> {
    let verbs = deploy_wire::command::VERBS.iter();
    verbs
        .flat_map(|verb| {
            let flags = verb.flags.iter().map(|flag| flag.name).chain(["", "h"]);
            flags.map(|flag| (verb.name.to_owned(), flag.to_owned()))
        })
        .collect()
}

#[test]
fn every_verb_and_flag_has_a_transcript() {
    let commands = commands();
    let mut missing = Vec::new();
    let programs = PROGRAMS.iter().map(|&name| (name, offered(name)));
    for (program, offered) in programs.chain([("ssh registry", offered_by_console())]) {
        assert!(offered.len() > 10, "{program}: {offered:?}");
        let everywhere: BTreeSet<&str> =
            offered.iter().filter(|(sub, _)| sub.is_empty()).map(|(_, flag)| &**flag).collect();
        for (sub, flag) in &offered {
            // A flag that all subcommands accept needs only one transcript.
            let sub = if everywhere.contains(&**flag) { "" } else { sub };
            let used = commands.iter().any(|command| uses(command, program, sub, flag));
            let what = format!("{program} {sub} -{flag}");
            if !used && !missing.contains(&what) {
                missing.push(what);
            }
        }
    }
    assert!(missing.is_empty(), "no transcript has: {missing:#?}");
}

fn uses(command: &str, program: &str, sub: &str, flag: &str) -> bool {
    let Some((_, rest)) = command.split_once(program) else { return false };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let is_flag = |word: &&str| {
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
        name.is_some_and(|name| name.split('=').next() == Some(flag))
    };
    (sub.is_empty() || words.contains(&sub)) && (flag.is_empty() || words.iter().any(is_flag))
}

#[test]
fn every_json_flag_has_a_schema_and_every_schema_a_transcript() {
    let commands = commands();
    let mut files = BTreeSet::new();
    for kind in ["agent", "registry"] {
        let entries = fs::read_dir(schemas().join(kind)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().path()));
    }
    let used: BTreeSet<PathBuf> =
        commands.iter().filter_map(|command| schema_of(command)).collect();
    assert_eq!(files, used);
    for (program, kind) in [("deployctl", "registry"), ("deploy-agent", "agent")] {
        for (sub, _) in offered(program).iter().filter(|(_, flag)| flag == "json") {
            let path = schemas().join(kind).join(format!("{sub}.json"));
            assert!(path.exists(), "{program} {sub} -json has no schema");
        }
    }
}

#[test]
fn schemas_refuse_wrong_documents() {
    let right = br#"{"component":"a","version":"1","hash":"HASH","bytes":1}"#;
    let right = String::from_utf8_lossy(right).replace("HASH", &"ab".repeat(32));
    check_json("ssh registry put -json", right.as_bytes());
    for wrong in [
        right.replace("\"bytes\"", "\"size\""),
        right.replace(":1}", ":-1}"),
        right.replace(":1}", ":1,\"more\":1}"),
        right.replace("abab", "xyxy"),
    ] {
        let check =
            std::panic::catch_unwind(|| check_json("ssh registry put -json", wrong.as_bytes()));
        assert!(check.is_err(), "{wrong}");
    }
}

#[test]
fn deployctl() {
    check("deployctl", &[]);
}

#[test]
fn deploy_agent() {
    check("deploy-agent", &[]);
}

#[test]
fn deploy_registry() {
    check("deploy-registry", &[]);
}

#[test]
fn deploy_from_docker() {
    check("deploy-from-docker", &[]);
}

#[test]
fn console() {
    check("console", &[]);
}

#[test]
fn conventions() {
    check("conventions", &[]);
}

#[test]
fn fleet() {
    check("fleet", &[]);
}

#[test]
fn rollouts() {
    check("rollouts", &[]);
}
