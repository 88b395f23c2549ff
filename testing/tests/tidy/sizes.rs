//! Checks the sizes of files, functions and lines. A function should fit on one screen, and a
//! reader should be able to read a file in one sitting.

use std::fs;

use crate::source::{all_files, sources};

const FILE: usize = 400;
const FUNCTION: usize = 70;
const LINE: usize = 110;

#[test]
fn files_have_at_most_400_lines_before_their_tests() {
    let long: Vec<String> = sources()
        .iter()
        .map(|source| (source.code.lines().count(), &source.path))
        .filter(|(lines, _)| *lines > FILE)
        .map(|(lines, path)| format!("{path}: {lines} lines; split the file by topic"))
        .collect();
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn functions_have_at_most_70_lines() {
    let mut long = Vec::new();
    for source in sources() {
        for (name, at, lines) in functions(&source.text) {
            if lines > FUNCTION {
                long.push(format!("{}:{at}: {name} has {lines} lines", source.path));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

#[test]
fn lines_have_at_most_110_characters() {
    let mut long = Vec::new();
    for path in all_files() {
        let text = fs::read_to_string(&path).expect("a source file is text");
        for (at, line) in text.lines().enumerate() {
            // Strings may be longer, because rustfmt does not break long strings, and tests contain
            // whole programs in other languages.
            let is_text =
                line.contains('"') || line.ends_with('\\') || path.ends_with("clients.rs");
            if line.chars().count() > LINE && !is_text {
                long.push(format!("{}:{}", path.display(), at + 1));
            }
        }
    }
    assert!(long.is_empty(), "{}", long.join("\n"));
}

/// The name, the number of the first line and the number of lines of every function. The search
/// relies on rustfmt, which ends a function with a brace at the indentation of its `fn`.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let indent = line.len() - words.len();
        let head = words.split('(').next().unwrap_or_default();
        let Some(name) = head.split("fn ").nth(1).filter(|_| !words.starts_with("//")) else {
            continue;
        };
        let starts = ["fn ", "pub", "async", "const", "unsafe"];
        if !starts.iter().any(|start| words.starts_with(start)) || words.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[at..].iter().position(|line| *line == end) {
            found.push((name.to_owned(), at + 1, length + 1));
        }
    }
    found
}

#[test]
fn a_long_function_is_found() {
    let body = "    step();\n".repeat(80);
    let text =
        format!("impl X {{\n    pub async fn long(\n        self,\n    ) {{\n{body}    }}\n}}\n");
    let found = functions(&text);
    assert_eq!(found, [("long".to_owned(), 2, 84)]);
}
