//! Plays the files in `transcripts/` with a real ssh client and a real registry. The files have the
//! exact text that operators type and see. A line that begins with `#` is a comment.
//!
//! A line that begins with `$ ` is a command. If it ends with `<FILE`, the command reads this file
//! as its standard input. A line that begins with `! ` is a line of standard error. A line that
//! begins with `= ` shows an exit code other than 0. Every other line is standard output; a dot
//! stands for a blank line. `{a1}` is the sha256 of the uploaded archive `a1`. `{ID}` is any other
//! sha256, or 12 digits of one. `{TIME}` is any time, and `{KEY}` is the fingerprint of the
//! operator's key.
//!
//! If `UPDATE_TRANSCRIPTS` is set, the test rewrites the files. Check the diff before you commit.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use crate::rig::Rig;

/// Archives that are uploaded before every transcript.
const ARCHIVES: [&str; 5] = ["a1", "a2", "b1", "b2", "c1"];

fn check(name: &str) {
    let rig = Rig::start();
    let mut digests = BTreeMap::new();
    for archive in ARCHIVES {
        let digest = rig.archive(archive, archive.as_bytes());
        rig.put(archive);
        digests.insert(archive, digest);
    }
    for (name, bytes) in bad_archives(&rig) {
        fs::write(rig.path(name), bytes).unwrap();
        rig.put(name);
        digests.insert(name, rig.sha256(name));
    }
    let path = deploy_testing::package().join("tests/transcripts").join(name);
    let expected = fs::read_to_string(&path).unwrap();
    let seen: String = expected
        .lines()
        .filter(|line| line.starts_with("$ ") || line.starts_with('#') || line.is_empty())
        .map(|line| match line.strip_prefix("$ ") {
            Some(command) => format!("{line}\n{}", run(&rig, &digests, command)),
            None => format!("{line}\n"),
        })
        .collect();
    if std::env::var_os("UPDATE_TRANSCRIPTS").is_some() {
        fs::write(path, seen).unwrap();
        return;
    }
    for (number, (seen, expected)) in seen.lines().zip(expected.lines()).enumerate() {
        assert_eq!(seen, expected, "{name}:{}", number + 1);
    }
    assert_eq!(seen.lines().count(), expected.lines().count(), "{name}");
}

/// Archives that no agent could unpack.
fn bad_archives(rig: &Rig) -> [(&'static str, Vec<u8>); 5] {
    let whole = fs::read(rig.path("a1")).unwrap();
    let mut changed = whole.clone();
    let last = changed.len() - 6;
    changed[last] ^= 1;
    let mut tar = Command::new("tar");
    tar.args(["-cz", "-P", "--transform=s,^,../,", "file"]).current_dir(rig.dir.path());
    [
        ("empty", Vec::new()),
        ("text", b"no archive\n".to_vec()),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("changed", changed),
        ("outside", tar.output().unwrap().stdout),
    ]
}

fn run(rig: &Rig, digests: &BTreeMap<&str, String>, command: &str) -> String {
    let command = digests.iter().fold(command.to_owned(), |text, (name, digest)| {
        text.replace(&format!("{{{name}}}"), digest)
    });
    let output = match command.rsplit_once(" <") {
        Some((command, file)) => {
            let mut client = rig.client("ssh", "op");
            client.args(["me@127.0.0.1", command]);
            client.stdin(fs::File::open(rig.path(file)).unwrap()).output().unwrap()
        }
        None => rig.ssh("op", "me", &[&command]),
    };
    let plain = |text: &[u8]| mask(std::str::from_utf8(text).unwrap(), rig, digests);
    let line = |text: &str| if text.is_empty() { ".".to_owned() } else { text.to_owned() };
    let mut seen = String::new();
    for text in plain(&output.stdout).lines() {
        writeln!(seen, "{}", line(text)).unwrap();
    }
    for text in plain(&output.stderr).lines() {
        writeln!(seen, "! {text}").unwrap();
    }
    match output.status.code() {
        Some(0) => {}
        code => writeln!(seen, "= {}", code.unwrap()).unwrap(),
    }
    seen
}

/// Replaces everything that differs from run to run with names such as `{TIME}`.
fn mask(text: &str, rig: &Rig, digests: &BTreeMap<&str, String>) -> String {
    let keygen = Command::new("ssh-keygen").arg("-lf").arg(rig.path("op.pub")).output();
    let key = String::from_utf8(keygen.unwrap().stdout).unwrap();
    let fingerprint = key.split(' ').nth(1).unwrap();
    let mut text = text.replace(fingerprint, "{KEY}");
    for (name, digest) in digests {
        text = text.replace(digest, &format!("{{{name}}}"));
    }
    let mut masked = String::new();
    let mut rest = text.as_str();
    while let Some(first) = rest.chars().next() {
        let hex = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
        let timelike = |c: char| c.is_ascii_digit() || "-:.TZ".contains(c);
        let time = rest.find(|c| !timelike(c)).unwrap_or(rest.len());
        let taken = if rest[..time].parse::<jiff::Timestamp>().is_ok() {
            masked.push_str("{TIME}");
            time
        } else if hex == 64 || hex == 12 {
            masked.push_str("{ID}");
            hex
        } else {
            let word = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let taken = word.max(first.len_utf8());
            masked.push_str(&rest[..taken]);
            taken
        };
        rest = &rest[taken..];
    }
    masked
}

#[test]
fn transcript_of_every_verb() {
    check("verbs");
}

#[test]
fn transcript_of_every_refusal() {
    check("refusals");
}

#[test]
fn transcript_of_retention() {
    check("keeping");
}

#[test]
fn transcript_of_json() {
    check("json");
}
