//! Stores the private paths of an agent's directory. A path becomes private when its file is found
//! changed or renamed in a root, or open for writing. Each new root gets its own copy of the file
//! at a private path.
//!
//! With hardlinks, the cache and several roots share a file. If a script changes the owner of the
//! file, or a service writes to the file, the file changes in the cache and in all these roots.
//! Without private paths, the same script or service would damage the shared file again in each new
//! root.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::disk::{Dir, replace_file};
use crate::error::{Error, Result};
use crate::layer::entry::EntryPath;
use crate::layer::objects::reason::PrivateReason;
use crate::limits::Limits;

/// The name of the file, in the agent's directory, that holds the private paths. Each line is
/// `REASON<TAB>PATH`, with the path escaped.
const FILE: &str = "private";
/// The maximum number of paths that are remembered individually. If more paths are added, all files
/// become private.
const MOST: usize = 100_000;
/// The maximum number of bytes that are read from the file.
const MOST_BYTES: u64 = 64 << 20;

/// The paths that are private in an agent's directory.
#[derive(Debug, Default)]
pub struct Learned(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    paths: BTreeMap<Box<[u8]>, PrivateReason>,
    /// Whether paths were added since the file was last written.
    unwritten: bool,
}

impl Learned {
    /// Reads the paths that an earlier run of the agent saved in the directory `top`. Invalid lines
    /// are ignored, because the agent will find the changed files again.
    pub fn read(top: &Dir) -> Result<Self> {
        use std::io::Read as _;
        let name = std::ffi::CString::new(FILE).expect("the name has no NUL");
        if !top.contains(&name)? {
            return Ok(Self::default());
        }
        let mut text = Vec::new();
        let path = top.path_of(&name);
        let file = top.open_file(&name)?;
        file.take(MOST_BYTES)
            .read_to_end(&mut text)
            .map_err(|err| Error::io("read", &path, err))?;
        let paths = text.split(|byte| *byte == b'\n').filter_map(parse_line).collect();
        Ok(Self(Mutex::new(State { paths, unwritten: false })))
    }

    /// Whether the file at `path` is private.
    pub fn has(&self, path: &EntryPath) -> bool {
        let state = self.lock();
        state.paths.len() > MOST || state.paths.contains_key(path.as_bytes())
    }

    /// Whether there are no private paths.
    pub fn is_empty(&self) -> bool {
        self.lock().paths.is_empty()
    }

    /// Makes `path` private from now on. Returns `true` if the path was not private before.
    pub fn learn(&self, path: &EntryPath, why: PrivateReason) -> bool {
        let mut state = self.lock();
        if state.paths.len() > MOST || state.paths.contains_key(path.as_bytes()) {
            return false;
        }
        state.paths.insert(path.as_bytes().into(), why);
        state.unwritten = true;
        true
    }

    /// All private paths with their reasons, sorted by path.
    pub fn all(&self) -> Vec<(EntryPath, PrivateReason)> {
        let state = self.lock();
        let path = |bytes: &[u8]| EntryPath::from_archive(bytes, Limits::STANDARD).ok();
        let all = state.paths.iter().filter_map(|(bytes, why)| Some((path(bytes)?, *why)));
        all.collect()
    }

    /// Saves the private paths in the agent's directory `dir`, if paths were added.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let text = {
            let mut state = self.lock();
            if !state.unwritten {
                return Ok(());
            }
            // A path that is added from now on is unwritten, even if it is added during the write.
            state.unwritten = false;
            let lines = state.paths.iter().map(|(path, why)| line(path, *why));
            lines.collect::<String>()
        };
        let written = replace_file(&dir.join(FILE), text.as_bytes(), 0o644);
        if written.is_err() {
            self.lock().unwritten = true;
        }
        written
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The private paths of the agent's directory `dir` with their reasons, sorted by path.
pub fn private_paths(dir: &Path) -> Result<Vec<(EntryPath, PrivateReason)>> {
    Ok(Learned::read(&Dir::open(dir)?)?.all())
}

fn line(path: &[u8], why: PrivateReason) -> String {
    format!("{}\t{}\n", why.word(), path.escape_ascii())
}

fn parse_line(line: &[u8]) -> Option<(Box<[u8]>, PrivateReason)> {
    let (word, path) = std::str::from_utf8(line).ok()?.split_once('\t')?;
    let path = unescape(path)?;
    // A line without a valid path is ignored.
    EntryPath::from_archive(&path, Limits::STANDARD).ok()?;
    Some((path.into(), PrivateReason::from_word(word)?))
}

/// The reverse of `escape_ascii`.
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next()? {
            b't' => b'\t',
            b'r' => b'\r',
            b'n' => b'\n',
            b'x' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let value = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
                u8::try_from(value).ok()?
            }
            other @ (b'\\' | b'\'' | b'"') => other,
            _ => return None,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(bytes: &[u8]) -> EntryPath {
        EntryPath::from_archive(bytes, Limits::STANDARD).unwrap()
    }

    #[test]
    fn private_paths_survive_a_restart() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let learned = Learned::read(&dir).unwrap();
        assert!(learned.is_empty());
        let odd = path(b"a/\xff\tb\n'\"\\c");
        assert!(learned.learn(&odd, PrivateReason::Written));
        assert!(!learned.learn(&odd, PrivateReason::Metadata), "the path was private already");
        assert!(learned.learn(&path(b"etc/x"), PrivateReason::Open));
        learned.write(temp.path()).unwrap();
        let again = Learned::read(&dir).unwrap();
        assert_eq!(
            again.all(),
            [(odd, PrivateReason::Written), (path(b"etc/x"), PrivateReason::Open)]
        );
        assert!(again.has(&path(b"etc/x")) && !again.has(&path(b"etc")));
        std::fs::write(temp.path().join(FILE), "nonsense\nopen\t../x\nopen\tb\\q\nopen\tc\n")
            .unwrap();
        assert_eq!(Learned::read(&dir).unwrap().all(), [(path(b"c"), PrivateReason::Open)]);
    }
}
