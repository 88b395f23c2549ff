//! Checks that documents, comments and messages contain no forbidden phrase. docs/STYLE.md explains
//! the style.

use std::fs;

use crate::source::{sources, top};

/// Each forbidden phrase in lower case, and the words to write instead.
const FORBIDDEN: [(&str, &str); 24] = [
    ("is told", "is logged, is reported"),
    ("are told", "are logged, are reported"),
    ("told of", "reported"),
    ("tells of", "reports"),
    ("a comfort", "optional"),
    ("for as long as", "while"),
    ("at the door", "unauthenticated"),
    ("means harm", "hostile"),
    ("mean harm", "hostile"),
    ("goes on", "continues"),
    ("go on", "continue"),
    ("gone on", "continued"),
    ("whoever", "name the subject"),
    ("dearest", "most expensive"),
    ("taken note", "recorded"),
    ("takes note", "records"),
    ("let go", "released, disconnected"),
    ("turned away", "rate-limited, refused"),
    ("as ever", "as usual"),
    ("is waited for", "name the subject that waits"),
    ("are waited for", "name the subject that waits"),
    ("had his hands", "changed, modified"),
    ("of its own accord", "on its own"),
    ("who waits", "name the subject that waits"),
];

/// The documents at the top of the checkout and in `docs`, without docs/STYLE.md, which quotes
/// forbidden phrases.
fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in [top(), top().join("docs")] {
        for entry in fs::read_dir(folder).expect("a folder of the checkout") {
            let path = entry.expect("a readable folder").path();
            if path.extension().is_some_and(|ending| ending == "md")
                && !path.ends_with("docs/STYLE.md")
            {
                let text = fs::read_to_string(&path).expect("a document is text");
                found.push((path.display().to_string(), text));
            }
        }
    }
    assert!(found.len() >= 14, "only {} documents were found", found.len());
    found
}

fn violations(name: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for (phrase, instead) in FORBIDDEN {
            if has_phrase(&line, phrase) {
                found.push(format!("{name}:{}: \"{phrase}\"; write: {instead}", at + 1));
            }
        }
    }
    found
}

/// Whether a line contains the phrase as whole words.
fn has_phrase(line: &str, phrase: &str) -> bool {
    line.match_indices(phrase).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + phrase.len()..].chars().next();
        ![before, after].into_iter().flatten().any(|sign| sign.is_alphanumeric() || sign == '_')
    })
}

#[test]
fn documents_avoid_forbidden_phrases() {
    let found: Vec<String> =
        documents().iter().flat_map(|(name, text)| violations(name, text)).collect();
    assert!(found.is_empty(), "see docs/STYLE.md:\n{}", found.join("\n"));
}

#[test]
fn comments_and_messages_avoid_forbidden_phrases() {
    let found: Vec<String> =
        sources().iter().flat_map(|source| violations(&source.path, &source.text)).collect();
    assert!(found.is_empty(), "see docs/STYLE.md:\n{}", found.join("\n"));
}

#[test]
fn a_forbidden_phrase_is_found() {
    assert_eq!(violations("x", "one\nIt is told once.").len(), 1);
    assert_eq!(violations("x", "this toldness, is toldly").len(), 0);
}
