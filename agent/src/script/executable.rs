//! Finds the program of the script, and finds out why a program cannot be started.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

/// The error for a script that cannot be started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{program:?}: {reason}")]
pub struct Missing {
    /// The script as given on the command line.
    pub program: String,
    /// What is wrong with the script, and what to do.
    pub reason: &'static str,
}

/// Maximum number of bytes that are read from a script to find its first line.
const MOST_LOOKED_AT: u64 = 256;

const NOT_THERE: &str =
    "no such file or directory; create the script, or give another script with -script";
const NOT_IN_PATH: &str =
    "executable file not found in $PATH; to run a file of this directory, write ./ before its name";
const NOT_EXECUTABLE: &str = "permission denied; make the script executable with chmod +x, and let \
                              the agent's user enter the script's directory";
const DIRECTORY: &str = "is a directory; give a file with -script";
const NO_INTERPRETER: &str = "no such file or directory: the interpreter that the script's first \
                              line names is not installed";
const CARRIAGE_RETURN: &str = "no such file or directory: the script's first line ends in a \
                               carriage return, as on Windows, and so names no interpreter; save \
                               the script with LF line ends, for example with dos2unix";
const NO_FORMAT: &str =
    "exec format error; the script's first line must name an interpreter, for example #!/bin/sh";
const BUSY: &str = "text file busy; close the script in the program that has it open for writing";
const TOO_LONG: &str = "argument list too long; give the configuration fewer layers";

/// The file to run for `program`. If `program` contains a slash, the file is `program` itself.
/// Otherwise the file is the first executable with that name in the directories of `path`.
pub fn program(program: &str, path: Option<&OsStr>) -> Result<PathBuf, Missing> {
    let missing = |reason| Missing { program: program.to_owned(), reason };
    if program.contains('/') {
        let file = PathBuf::from(program);
        return check(&file).map(|()| file).map_err(missing);
    }
    let dirs = std::env::split_paths(path.unwrap_or_default());
    // By convention, an empty directory in `path` means the working directory.
    let files = dirs
        .map(|dir| if dir.as_os_str().is_empty() { PathBuf::from(".") } else { dir })
        .map(|dir| dir.join(program));
    let mut files = files.filter(|file| check(file).is_ok());
    files.next().ok_or_else(|| missing(NOT_IN_PATH))
}

fn check(file: &Path) -> Result<(), &'static str> {
    match std::fs::metadata(file) {
        Ok(meta) if meta.is_dir() => return Err(DIRECTORY),
        Ok(_) => {}
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => return Err(NOT_EXECUTABLE),
        Err(_) => return Err(NOT_THERE),
    }
    access(file, Access::EXEC_OK).map_err(|_| NOT_EXECUTABLE)?;
    if ends_in_carriage_return(file) { Err(CARRIAGE_RETURN) } else { Ok(()) }
}

/// Whether the name of the interpreter in the script's first line ends in a carriage return. If the
/// first line names `env`, the program that `env` searches for counts as the interpreter.
fn ends_in_carriage_return(file: &Path) -> bool {
    let mut start = Vec::new();
    // A program can be executable without being readable.
    let Ok(opened) = File::open(file) else { return false };
    if opened.take(MOST_LOOKED_AT).read_to_end(&mut start).is_err() {
        return false;
    }
    let Some(rest) = start.strip_prefix(b"#!") else { return false };
    let Some(line) = rest.split(|&byte| byte == b'\n').next() else { return false };
    let Some(line) = line.strip_suffix(b"\r") else { return false };
    let words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    match words.collect::<Vec<_>>()[..] {
        // A carriage return is no error if an interpreter with that name exists.
        [program] => !Path::new(OsStr::from_bytes(&[program, b"\r"].concat())).exists(),
        [program, _] => program.ends_with(b"/env"),
        _ => false,
    }
}

/// The reason why the system did not start `file`, if this function knows the reason.
pub fn reason(file: &Path, err: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(err)? {
        Errno::NOENT if ends_in_carriage_return(file) => Some(CARRIAGE_RETURN),
        Errno::NOENT if file.exists() => Some(NO_INTERPRETER),
        Errno::NOENT => Some(NOT_THERE),
        Errno::ACCESS => Some(NOT_EXECUTABLE),
        Errno::NOEXEC => Some(NO_FORMAT),
        Errno::TXTBSY => Some(BUSY),
        Errno::TOOBIG => Some(TOO_LONG),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn name_without_a_slash_is_searched_in_path() {
        let temp = tempfile::tempdir().unwrap();
        let bin = temp.path().join("bin");
        let other = temp.path().join("other");
        for (dir, mode) in [(&other, 0o644), (&bin, 0o755)] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("tool"), "#!/bin/sh\n").unwrap();
            fs::set_permissions(dir.join("tool"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = std::env::join_paths([&other, &bin]).unwrap();
        assert_eq!(program("tool", Some(&path)).unwrap(), bin.join("tool"));
        let reason = |name: &str| program(name, Some(&path)).unwrap_err().reason;
        assert_eq!(reason("nope"), NOT_IN_PATH);
        assert_eq!(reason(other.join("tool").to_str().unwrap()), NOT_EXECUTABLE);
        assert_eq!(reason(other.join("nope").to_str().unwrap()), NOT_THERE);
        assert_eq!(reason(other.to_str().unwrap()), DIRECTORY);
        assert_eq!(program("tool", None).unwrap_err().reason, NOT_IN_PATH);
        for (text, want) in [
            ("#!/bin/sh\r\n", Err(CARRIAGE_RETURN)),
            ("#! /usr/bin/env  sh\r\necho\r\n", Err(CARRIAGE_RETURN)),
            ("#!/bin/sh -e\r\n", Ok(())),
            ("#!/bin/sh\necho\r\n", Ok(())),
            ("\r\n", Ok(())),
        ] {
            let file = bin.join("tool");
            fs::write(&file, text).unwrap();
            let found = program(file.to_str().unwrap(), None).map(drop);
            assert_eq!(found.map_err(|missing| missing.reason), want, "{text:?}");
        }
        let nope = program("./nope.sh", None).unwrap_err().to_string();
        assert!(nope.starts_with("\"./nope.sh\": no such file or directory"), "{nope}");
    }
}
