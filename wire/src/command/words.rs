//! Splits a line into words as a shell would, with quotes and backslash, but without any expansion.

use super::Refusal;

/// Maximum length of a command line, in bytes.
pub const MAX_LINE: usize = 1 << 20;

/// Splits `line` into words. The function refuses unquoted shell syntax, because the author of the
/// line may expect a shell to interpret this syntax. The error names the syntax.
pub fn split(line: &str) -> Result<Vec<String>, Refusal> {
    if line.len() > MAX_LINE {
        return Err(Refusal::usage(format!("command line is longer than {MAX_LINE} bytes")));
    }
    let unbalanced = || Refusal::usage("invalid command line string".to_owned());
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().push(chars.next().ok_or_else(unbalanced)?),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or_else(unbalanced)? {
                        '\'' => break,
                        c => word.push(c),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or_else(unbalanced)? {
                        '"' => break,
                        '\\' => word.push(chars.next().ok_or_else(unbalanced)?),
                        c => word.push(c),
                    }
                }
            }
            ';' | '&' | '|' | '<' | '>' | '`' => return Err(syntax(&c.to_string())),
            '$' if chars.peek() == Some(&'(') => return Err(syntax("$(")),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn syntax(what: &str) -> Refusal {
    Refusal::usage(format!(
        "unquoted {what} is shell syntax, which is not supported here; quote it to use it literally"
    ))
}

/// Quotes `word` if necessary, so that [`split`] returns the same word.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+@~-/:=,%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    quote_always(word)
}

/// `word` in double quotes.
pub fn quote_always(word: &str) -> String {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_are_split_as_in_a_shell() {
        let words = |line| split(line).map_err(|refusal| refusal.text);
        assert_eq!(
            words(r#"a  "b c"'d' e\ f "" 'x"y'"#).unwrap(),
            ["a", "b cd", "e f", "", "x\"y"]
        );
        for bad in ["a \"b", "a 'b", "a\\"] {
            assert_eq!(words(bad).unwrap_err(), "invalid command line string");
        }
        for syntax in ["help; ls", "a|b", "a&b", "a>b", "a<b", "`a`", "$(a)"] {
            assert!(words(syntax).unwrap_err().contains("shell syntax"), "{syntax}");
        }
        assert_eq!(words("'a;b' \"$(c)\" $d").unwrap(), ["a;b", "$(c)", "$d"]);
    }

    proptest! {
        #[test]
        fn quoted_words_are_split_unchanged(words in prop::collection::vec(any::<String>(), 0..5)) {
            let line: Vec<String> = words.iter().map(|word| quote(word)).collect();
            prop_assert_eq!(split(&line.join(" ")).unwrap(), words);
        }

        #[test]
        fn splitting_any_line_does_not_panic(line in any::<String>()) {
            let _ = split(&line);
        }
    }
}
