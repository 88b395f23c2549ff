//! Converts flags to the spelling that clap reads, and reads values in Go's spelling. Users may
//! spell flags as in the Go tool or as in GNU tools.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

/// For the flags in `known`, converts `-name v` and `-name=v` to `--name v` and `--name=v`. A flag
/// of one letter gets one dash. Words after `--` and words that are not known flags stay
/// unchanged.
pub fn normalize(arguments: impl IntoIterator<Item = OsString>, known: &[String]) -> Vec<OsString> {
    let mut done = false;
    let mut one = |argument: OsString| {
        done |= argument == "--";
        if done { argument } else { normalize_one(argument, known) }
    };
    arguments.into_iter().map(&mut one).collect()
}

fn normalize_one(argument: OsString, known: &[String]) -> OsString {
    let bytes = argument.as_bytes();
    let Some(rest) = bytes.strip_prefix(b"-") else { return argument };
    let rest = rest.strip_prefix(b"-").unwrap_or(rest);
    let end = rest.iter().position(|&byte| byte == b'=').unwrap_or(rest.len());
    if known.iter().any(|flag| flag.as_bytes() == &rest[..end]) { dashed(rest) } else { argument }
}

/// Rewrites an unknown `-flag` as `--flag`, so that clap's error names the whole flag and not only
/// its first letter.
pub fn name_in_full(word: OsString) -> OsString {
    match word.as_bytes() {
        [b'-', b'a'..=b'z', b'a'..=b'z', ..] => ["-".into(), word].into_iter().collect(),
        _ => word,
    }
}

/// Splits the arguments of a program whose subcommands have their own grammar. Returns the leading
/// flags in clap's spelling, and all later words unchanged. `valued` lists the flags with a value.
/// The value may be the next word, and may start with a dash. `--` ends the flags, and is not in
/// the result.
pub fn leading(
    arguments: impl IntoIterator<Item = OsString>,
    valued: &[String],
) -> (Vec<OsString>, Vec<OsString>) {
    let mut arguments = arguments.into_iter();
    let mut own = Vec::new();
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        let name = bytes.strip_prefix(b"-").filter(|name| !name.is_empty());
        let Some(name) = name.map(|name| name.strip_prefix(b"-").unwrap_or(name)) else {
            return (own, std::iter::once(argument).chain(arguments).collect());
        };
        if name.is_empty() {
            break;
        }
        let mut flag = dashed(name);
        if valued.iter().any(|valued| valued.as_bytes() == name)
            && let Some(value) = arguments.next()
        {
            flag.push("=");
            flag.push(value);
        }
        own.push(flag);
    }
    (own, arguments.collect())
}

/// Puts the dashes that clap expects before `name` or `name=value`.
fn dashed(flag: &[u8]) -> OsString {
    let end = flag.iter().position(|&byte| byte == b'=').unwrap_or(flag.len());
    let dashes: &[u8] = if end == 1 { b"-" } else { b"--" };
    OsString::from_vec([dashes, flag].concat())
}

/// Reads a boolean in Go's spelling.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

/// Reads a duration in Go's spelling, such as `30s`, `1h30m`, `1.5h`, `300ms` or `0`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration; write it like 30s, 5m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = &rest[end..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(total) }
}

/// Reads a number of bytes, such as `1024`, `64K`, `10G` or `512MiB`. Units are powers of 1024.
pub fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size; write it like 1048576, 512MiB or 10G");
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().map_err(|_| bad())?;
    let shift = match text[end..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(bad()),
    };
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn normalized(line: &str) -> String {
        let known = ["name", "v", "force"].map(str::to_owned);
        let words = normalize(line.split(' ').map(OsString::from), &known);
        words.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn flags_in_both_spellings_are_normalized() {
        assert_eq!(normalized("-name x --name=y -name=z"), "--name x --name=y --name=z");
        assert_eq!(normalized("--v -v=T -force=0"), "-v -v=T --force=0");
        assert_eq!(normalized("-other -5 - -- -name"), "-other -5 - -- -name");
    }

    fn led(line: &str) -> String {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(OsString::from);
        let (own, rest) = leading(words, &["addr", "key", "u"].map(str::to_owned));
        format!("{own:?} {rest:?}").replace('"', "")
    }

    #[test]
    fn leading_flags_end_at_the_first_other_word() {
        for (line, expected) in [
            ("-addr a:1 -q addver -name x", "[--addr=a:1, -q] [addver, -name, x]"),
            ("--q=true --addr=a -key= verb", "[-q=true, --addr=a, --key=] [verb]"),
            ("-key -odd -u x -help", "[--key=-odd, -u=x, --help] []"),
            ("-bogus -- -x verb", "[--bogus] [-x, verb]"),
            ("-addr", "[--addr] []"),
            ("- -q", "[] [-, -q]"),
            ("", "[] []"),
        ] {
            assert_eq!(led(line), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_argument_is_lost_and_nothing_panics(
            words in vec(vec(any::<u8>(), 0..9), 0..6),
            flags in vec("-{0,3}(addr|key|q|=|-)?(=x)?", 0..6),
        ) {
            let words: Vec<OsString> = words.into_iter().map(OsString::from_vec).collect();
            let flags: Vec<OsString> = flags.into_iter().map(OsString::from).collect();
            let all = [flags, words].concat();
            let known = ["addr", "key", "q"].map(str::to_owned);
            prop_assert_eq!(normalize(all.clone(), &known).len(), all.len());
            let (own, rest) = leading(all.clone(), &known);
            prop_assert!(all.ends_with(&rest));
            prop_assert!(own.iter().all(|flag| flag.as_bytes().starts_with(b"-")));
        }

        #[test]
        fn reading_any_value_does_not_panic(text in "[0-9.a-zA-Zµ]{0,12}") {
            let _ = (duration(&text), size(&text), boolean(&text));
        }
    }

    #[test]
    fn durations_and_sizes_are_read() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("300ms"), Ok(Duration::from_millis(300)));
        for bad in ["", "5", "s", "1x", "-1s", "1..2s", "9e99h"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(size("10G"), Ok(10 << 30));
        assert_eq!(size("512MiB"), Ok(512 << 20));
        assert_eq!(size("7"), Ok(7));
        for bad in ["", "G", "1X", "-1", "99999999T"] {
            assert!(size(bad).is_err(), "{bad:?}");
        }
    }
}
