//! Reads and writes the state file, which contains the configuration that was deployed last, in the
//! registry's JSON format.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use deploy_store::disk::Dir;
use deploy_store::{Configuration, Error, MAX_JSON, Result, replace_file};
use rustix::fs::{Access, AtFlags, StatxAttributes, StatxFlags, access, statx};

/// Permissions of the state file. Scripts and people may read the state file.
const MODE: u32 = 0o644;

/// Reads the state file; `None` if there is no state file. A damaged state file is renamed to
/// `NAME.damaged`, with a warning, and counts as missing. The agent then deploys again and writes a
/// new state file.
pub fn read(path: &Path) -> Result<Option<Configuration>> {
    match peek(path) {
        Err(err @ (Error::BadConfiguration { .. } | Error::BadName { .. })) => {
            let aside = set_aside(path)?;
            tracing::warn!(
                event = "state_damaged",
                path = %path.display(),
                "state file {path:?} is damaged, and was renamed to {aside:?}: {err}; the agent \
                 deploys as on a first run"
            );
            Ok(None)
        }
        other => other,
    }
}

/// Like [`read`], but a damaged file is an error and is not renamed.
pub fn peek(path: &Path) -> Result<Option<Configuration>> {
    let file = match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) if err.kind() == io::ErrorKind::PermissionDenied => {
            let text = "permission denied; the agent's user must be able to read the state file";
            return Err(Error::io("open", path, io::Error::new(err.kind(), text)));
        }
        other => other.map_err(|err| Error::io("open", path, err))?,
    };
    let mut json = Vec::new();
    let limit = MAX_JSON as u64 + 1;
    file.take(limit).read_to_end(&mut json).map_err(|err| Error::io("read", path, err))?;
    Configuration::from_json(&json).map(Some)
}

/// Checks that the agent can replace the state file. If the agent could not record the success of
/// the script, the script would run again and again.
pub fn check(path: &Path) -> Result<()> {
    let (dir, name) = split(path)?;
    access(dir.path(), Access::WRITE_OK | Access::EXEC_OK)
        .map_err(|err| Error::io("write state file in", dir.path(), err))?;
    let attributes = statx(&dir, &name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    if attributes.is_ok_and(|found| found.stx_attributes.intersects(fixed)) {
        let reason = "the file is immutable or append-only; chattr -i -a removes these attributes";
        return Err(Error::io("replace", path, io::Error::other(reason)));
    }
    Ok(())
}

/// Replaces the state file, durably.
pub fn write(path: &Path, state: &Configuration) -> Result<()> {
    replace_file(path, &state.to_json(), MODE)
}

fn set_aside(path: &Path) -> Result<std::path::PathBuf> {
    let (dir, name) = split(path)?;
    let mut aside = name.as_bytes().to_vec();
    aside.extend(b".damaged");
    let aside = CString::new(aside).expect("the suffix adds no NUL to the name");
    dir.rename(&name, &dir, &aside)?;
    dir.sync()?;
    Ok(dir.path_of(&aside))
}

/// Opens the directory of `path`, and returns it with the last part of `path`.
pub(crate) fn split(path: &Path) -> Result<(Dir, CString)> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let no_name = || Error::io("open", path, io::Error::from(io::ErrorKind::InvalidInput));
    let name = path.file_name().ok_or_else(no_name)?;
    let name = CString::new(name.as_bytes()).map_err(|_| no_name())?;
    Ok((Dir::open(parent.unwrap_or(Path::new(".")))?, name))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use deploy_store::{Digest, Layer};

    use super::*;

    fn sample() -> Configuration {
        let layer = Layer {
            component: "code".parse().unwrap(),
            version: "v01".parse().unwrap(),
            digest: Digest::of(b"x"),
            created: "2026-11-23T03:49:00.957450761Z".parse().unwrap(),
        };
        let modified = "2026-11-23T03:49:03Z".parse().unwrap();
        Configuration::new("p".parse().unwrap(), vec![layer], modified).unwrap()
    }

    #[test]
    fn state_is_read_as_written_and_readable_for_others() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("state.json");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, &sample()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), sample().to_json());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(read(&path).unwrap(), Some(sample()));
    }

    #[test]
    fn damaged_file_is_renamed_and_counts_as_missing() {
        let good = String::from_utf8(sample().to_json()).unwrap();
        let other_id = good.replace(&sample().id().to_string(), &Digest::of(b"y").to_string());
        let upper = good.replace(&Digest::of(b"x").to_string(), "ABC");
        for bad in ["", "{", &good[..good.len() / 2], "\0\0\0\0", &other_id, &upper] {
            let temp = tempfile::tempdir().unwrap();
            let path = temp.path().join("state.json");
            fs::write(&path, bad).unwrap();
            assert!(peek(&path).is_err(), "{bad:?}");
            assert_eq!(read(&path).unwrap(), None, "{bad:?}");
            let kept = temp.path().join("state.json.damaged");
            assert_eq!(fs::read_to_string(kept).unwrap(), bad);
            assert!(!path.exists());
        }
    }

    #[test]
    fn missing_directory_of_the_state_file_is_found_by_the_check() {
        let temp = tempfile::tempdir().unwrap();
        check(&temp.path().join("state.json")).unwrap();
        check(Path::new("state.json")).unwrap();
        assert!(check(&temp.path().join("none/state.json")).is_err());
    }

    #[test]
    fn unreadable_file_is_an_error_and_not_damage() {
        let temp = tempfile::tempdir().unwrap();
        assert!(matches!(read(temp.path()), Err(Error::Io { .. })));
        assert!(temp.path().exists());
    }
}
