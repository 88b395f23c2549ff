//! Reads the file of `-script-env-file`, which has variables for the script.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use deploy_store::Size;

/// Maximum size of the file in bytes. The size is limited, because the variables for the layers
/// leave little room in the environment.
pub const MAX_FILE: u64 = 64 << 10;
/// Variables that the agent sets. The agent also sets variables that begin with `LAYER_`, which are
/// not listed here.
const SET: [&[u8]; 5] = [b"OLDID", b"OLDROOT", b"NEWID", b"NEWROOT", b"STATEFILE"];

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read -script-env-file {}: {cause}; the script was not started", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// The file is too large, or a line is not a valid variable.
    #[error("-script-env-file {}: {reason}; the script was not started", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file, and in which line if a line is wrong.
        reason: String,
    },
}

/// Reads the variables in the file `path`. Without a path, the result is empty.
pub fn read(path: Option<&Path>) -> Result<Vec<(OsString, OsString)>, Error> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    let file = File::open(path);
    let read = file.and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|cause| Error::Read { path: path.to_owned(), cause })?;
    parse(&bytes).map_err(|reason| Error::Bad { path: path.to_owned(), reason })
}

/// Parses lines of the form `NAME=VALUE`. The value is the unchanged rest of the line, including
/// quotes. The function ignores empty lines and lines that begin with `#`.
fn parse(bytes: &[u8]) -> Result<Vec<(OsString, OsString)>, String> {
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!("the file is larger than {}", Size(MAX_FILE)));
    }
    let mut all = Vec::new();
    for (n, line) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let Some(equals) = line.iter().position(|&byte| byte == b'=') else {
            return Err(format!("line {n} has no =; write NAME=VALUE, or start a comment with #"));
        };
        let (name, value) = (&line[..equals], &line[equals + 1..]);
        if !is_name(name) {
            return Err(format!(
                "line {n}: {:?} is not a variable name; use letters, digits and _, without export or blanks",
                String::from_utf8_lossy(name)
            ));
        }
        if SET.contains(&name) {
            let name = String::from_utf8_lossy(name);
            return Err(format!("line {n}: {name} is set by the agent; use another name"));
        }
        if name.starts_with(b"LAYER_") {
            let name = String::from_utf8_lossy(name);
            return Err(format!(
                "line {n}: names that begin with LAYER_ are reserved for the agent; rename {name}"
            ));
        }
        if value.contains(&0) {
            return Err(format!("line {n} has a NUL in it"));
        }
        if value.ends_with(b"\r") {
            return Err(format!("line {n} ends in a carriage return; use LF line ends"));
        }
        all.push((OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec())));
    }
    Ok(all)
}

fn is_name(name: &[u8]) -> bool {
    let word = name.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'_');
    word && name.first().is_some_and(|first| !first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed_and_bad_lines_are_reported() {
        let found = parse(b"# of web1\n\nROLE=web\nEMPTY=\nQUOTED=\"a b\" = c\n_1=\xff").unwrap();
        let want: [(&str, &[u8]); 4] =
            [("ROLE", b"web"), ("EMPTY", b""), ("QUOTED", b"\"a b\" = c"), ("_1", b"\xff")];
        let want = want.map(|(name, value)| (name.into(), OsString::from_vec(value.to_vec())));
        assert_eq!(found, want);
        for (bad, want) in [
            ("A=1\nB", "line 2 has no ="),
            ("export A=1", "line 1: \"export A\" is not a variable name"),
            ("=1", "line 1: \"\" is not a variable name"),
            ("1A=1", "is not a variable name"),
            ("A B=1", "is not a variable name"),
            ("#\nNEWROOT=/", "line 2: NEWROOT is set by the agent"),
            ("LAYER_0_NAME=x", "LAYER_ are reserved for the agent; rename LAYER_0_NAME"),
            ("A=\0", "line 1 has a NUL"),
            ("A=1\r\n", "carriage return"),
            (&"A=1\n".repeat(20_000), "larger than 64 KiB"),
        ] {
            let err = parse(bad.as_bytes()).unwrap_err();
            assert!(err.contains(want), "{err}");
        }
        // If a name has several values, the last value counts. The file may also set variables that
        // the agent passes on from its own environment.
        assert_eq!(parse(b"PATH=/bin\nPATH=/usr/bin\n").unwrap().len(), 2);
        assert!(read(None).unwrap().is_empty());
        let err = read(Some(Path::new("/none/there"))).unwrap_err().to_string();
        assert!(err.contains("cannot read -script-env-file /none/there: No such file"), "{err}");
    }
}
