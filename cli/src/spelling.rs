//! Flags are documented as Go's flag package spells them, with one dash; clap writes two.

/// `text` with one dash before each flag's name, whatever its colours.
pub fn one_dash(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Whether the place before is inside of a word.
    let mut in_word = false;
    while let Some(c) = rest.chars().next() {
        if let Some(escape) = rest.strip_prefix("\x1b[") {
            let length = 2 + escape.find('m').map_or(0, |end| end + 1);
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        let name = rest
            .strip_prefix("--")
            .filter(|name| !in_word && name.starts_with(|c: char| c.is_ascii_alphabetic()));
        if let Some(name) = name {
            out.push('-');
            rest = name;
            in_word = true;
            continue;
        }
        out.push(c);
        in_word = c.is_alphanumeric() || c == '-';
        rest = &rest[c.len_utf8()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes() {
        for (text, want) in [
            ("  --addr <ADDR>", "  -addr <ADDR>"),
            ("\x1b[1m--addr\x1b[0m", "\x1b[1m-addr\x1b[0m"),
            ("-q -- x '--fp=[--key]'", "-q -- x '-fp=[-key]'"),
            ("a--b ---x --", "a--b ---x --"),
        ] {
            assert_eq!(one_dash(text), want);
        }
    }
}
