//! Finding the script, and saying what is wrong with it when it cannot be started.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

/// A script that cannot be started.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{program:?}: {reason}")]
pub struct Missing {
    /// The script as it was named.
    pub program: String,
    /// What is wrong with it, and what next.
    pub reason: &'static str,
}

const NOT_THERE: &str = "no such file or directory; create it or name another with -script";
const NOT_IN_PATH: &str =
    "executable file not found in $PATH; for one in this directory write ./ before its name";
const NOT_EXECUTABLE: &str = "permission denied; make it executable with chmod +x";
const DIRECTORY: &str = "is a directory; name a file with -script";
const NO_INTERPRETER: &str =
    "no such file or directory: the interpreter that its first line names is not installed";
const NO_FORMAT: &str =
    "exec format error; begin it with a line that names its interpreter, as #!/bin/sh";
const BUSY: &str = "text file busy; close it in the program that is writing it";
const TOO_LONG: &str = "argument list too long; give the configuration fewer layers";

/// The file to run for `program`: itself when it has a slash, else the first executable
/// of that name in `path`.
pub fn program(program: &str, path: Option<&OsStr>) -> Result<PathBuf, Missing> {
    let missing = |reason| Missing { program: program.to_owned(), reason };
    if program.contains('/') {
        let file = PathBuf::from(program);
        return check(&file).map(|()| file).map_err(missing);
    }
    let dirs = std::env::split_paths(path.unwrap_or_default());
    // An empty part means the working directory, by old custom.
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
    access(file, Access::EXEC_OK).map_err(|_| NOT_EXECUTABLE)
}

/// What the system meant when it did not start `file`, where that is known.
pub fn reason(file: &Path, err: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(err)? {
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
    fn a_name_goes_through_the_path_and_a_path_does_not() {
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
        let nope = program("./nope.sh", None).unwrap_err().to_string();
        assert!(nope.starts_with("\"./nope.sh\": no such file or directory"), "{nope}");
    }
}
