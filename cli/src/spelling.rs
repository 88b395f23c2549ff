//! Converts the flags in texts from clap, which have two dashes, to flags with one dash, as in Go's
//! flag package.

/// Returns `text` with one dash before each flag's name. `text` may contain colours, which the
/// function keeps.
pub fn one_dash(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    // Whether the previous character is part of a word.
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

/// Returns help from clap with one dash before each flag's name. The columns stay aligned, because
/// blanks replace the removed dashes.
pub fn help(text: &str) -> String {
    text.split_inclusive('\n').map(help_line).collect()
}

fn help_line(line: &str) -> String {
    let bare = plain(line);
    let indent = line.len() - line.trim_start_matches(' ').len();
    let gap = line[indent..].find("  ").filter(|_| bare.trim_start().starts_with('-'));
    let (flag, about) = line.split_at(gap.map_or(line.len(), |gap| indent + gap));
    // Before a long flag, clap leaves room for a flag of one letter. The function removes this
    // room, because all flags have one dash.
    let short = if bare.starts_with("      --") { &flag[4..] } else { flag };
    let spelt = one_dash(short);
    let lost = plain(flag).chars().count() - plain(&spelt).chars().count();
    let room = if gap.is_some() { " ".repeat(lost) } else { String::new() };
    format!("{spelt}{room}{}", one_dash(about))
}

/// `text` without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    first + &parts.map(|part| part.split_once('m').map_or("", |(_, rest)| rest)).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_get_one_dash() {
        for (text, want) in [
            ("  --addr <ADDR>", "  -addr <ADDR>"),
            ("\x1b[1m--addr\x1b[0m", "\x1b[1m-addr\x1b[0m"),
            ("-q -- x '--fp=[--key]'", "-q -- x '-fp=[-key]'"),
            ("a--b ---x --", "a--b ---x --"),
        ] {
            assert_eq!(one_dash(text), want);
        }
    }

    #[test]
    fn help_columns_stay_aligned() {
        let text = "Options:\n      --addr <A>  To [as --x]\n                  --more\n  -v            \
                    Log\n  -h, --help      \x1b[1mPrint\x1b[0m\n      \x1b[1m--fp\x1b[0m <F>    Key\n";
        let want = "Options:\n  -addr <A>       To [as -x]\n                  -more\n  -v            \
                    Log\n  -h, -help       \x1b[1mPrint\x1b[0m\n  \x1b[1m-fp\x1b[0m <F>         Key\n";
        assert_eq!(help(text), want);
    }
}
