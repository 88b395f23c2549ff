//! Reads or makes the file `instance` in the agent's directory, which contains a random id. Several
//! machines may have the same name and the same key. The id allows the registry to distinguish
//! their agents.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use deploy_store::disk::Dir;
use deploy_store::{Error, Result, replace_file};

const NAME: &CStr = c"instance";
const RANDOM: &str = "/dev/urandom";
/// Number of hexadecimal digits of the id.
const DIGITS: usize = 32;

/// The id of the agent's directory `dir`. If the file is missing or damaged, or is a symlink, the
/// function makes a new file with a new id.
pub fn get(dir: &Path) -> Result<String> {
    if let Some(id) = read(dir) {
        return Ok(id);
    }
    let mut bytes = [0; DIGITS / 2];
    File::open(RANDOM)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|err| Error::io("read", RANDOM, err))?;
    let id = format!("{:032x}", u128::from_be_bytes(bytes));
    replace_file(&dir.join(&*NAME.to_string_lossy()), format!("{id}\n").as_bytes(), 0o644)?;
    Ok(id)
}

fn read(dir: &Path) -> Option<String> {
    let file = Dir::open(dir).ok()?.open_file(NAME).ok()?;
    let mut text = String::new();
    file.take(2 * DIGITS as u64).read_to_string(&mut text).ok()?;
    let id = text.trim_end();
    let is_id = id.len() == DIGITS && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn id_is_made_once_and_a_symlink_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path();
        let id = get(dir).unwrap();
        assert_eq!((id.len(), get(dir).unwrap()), (DIGITS, id.clone()));
        let file = dir.join("instance");
        let aside = dir.join("aside");
        fs::rename(&file, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &file).unwrap();
        let other = get(dir).unwrap();
        assert!(other != id && fs::symlink_metadata(&file).unwrap().is_file());
        assert_eq!(fs::read_to_string(&aside).unwrap(), format!("{id}\n"));
        for damaged in ["", "xyz", &"g".repeat(DIGITS)] {
            fs::write(&file, damaged).unwrap();
            assert_eq!(get(dir).unwrap().len(), DIGITS);
        }
    }
}
