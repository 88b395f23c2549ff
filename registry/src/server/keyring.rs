//! The two key files and whom they let in: operators and agents.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jiff::Timestamp;
use russh::keys::PublicKey;
use tokio::sync::watch;

use super::authorized::{self, AuthorizedKey};
use super::error::Error;

/// The user name of services, which download; every other user name is an operator's.
pub const SERVICE_USER: &str = "deploy-agent";
/// Longest key file that is read.
pub const MAX_FILE: u64 = 16 << 20;

/// What whoever logged in may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs commands and uploads.
    Operator,
    /// Downloads.
    Service,
}

/// Whoever logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// What they may do.
    pub role: Role,
    /// The key they signed with: fingerprint and comment.
    pub label: String,
    /// Whether they may have a terminal.
    pub pty: bool,
}

/// The keys that let people and services in.
#[derive(Debug)]
pub struct Keyring {
    operators: KeyFile,
    services: KeyFile,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    keys: RwLock<Arc<Vec<AuthorizedKey>>>,
    seen: Mutex<Option<Stamp>>,
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Keyring {
    /// Reads both files; each must hold a key.
    pub fn load(operators: &Path, services: &Path) -> Result<Self, Error> {
        let (operators, services) = (KeyFile::load(operators)?, KeyFile::load(services)?);
        Ok(Self { operators, services, version: watch::Sender::new(0) })
    }

    /// Reads both files again. One that cannot be used keeps the keys it had.
    pub fn reload(&self) {
        self.replace(KeyFile::reload);
    }

    /// As [`Keyring::reload`], for the files that have changed.
    pub fn reload_changed(&self) {
        self.replace(KeyFile::reload_changed);
    }

    fn replace(&self, reload: impl Fn(&KeyFile) -> bool) {
        // Both, whatever the first says.
        if reload(&self.operators) | reload(&self.services) {
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// Changes whenever the keys do.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Who `user` with `key` from `address` is, or why they are nobody.
    pub fn identify(
        &self,
        user: &str,
        key: &PublicKey,
        address: IpAddr,
    ) -> Result<Identity, &'static str> {
        let (role, file) = match user {
            SERVICE_USER => (Role::Service, &self.services),
            _ => (Role::Operator, &self.operators),
        };
        let keys = file.keys();
        let mut reason = "key is not known";
        for known in keys.iter().filter(|known| known.key.key_data() == key.key_data()) {
            match known.check(address, Timestamp::now()) {
                Ok(()) => return Ok(Identity { role, label: known.label(), pty: known.pty }),
                Err(why) => reason = why,
            }
        }
        Err(reason)
    }
}

impl KeyFile {
    fn load(path: &Path) -> Result<Self, Error> {
        let (keys, stamp) = read(path)?;
        let keys = RwLock::new(Arc::new(keys));
        Ok(Self { path: path.to_owned(), keys, seen: Mutex::new(Some(stamp)) })
    }

    fn keys(&self) -> Arc<Vec<AuthorizedKey>> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self) -> bool {
        match read(&self.path) {
            Ok((keys, stamp)) => {
                tracing::info!(file = %self.path.display(), keys = keys.len(), "keys read");
                self.remember(Some(stamp));
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                true
            }
            Err(err) => {
                tracing::warn!("{err}; the keys read before stay in force");
                self.remember(stamp_of(&self.path).ok());
                false
            }
        }
    }

    fn reload_changed(&self) -> bool {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        stamp_of(&self.path).ok() != seen && self.reload()
    }

    fn remember(&self, stamp: Option<Stamp>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = stamp;
    }
}

/// How many keys `text`, a key file, holds; or why a line of it holds none.
pub fn keys_in(text: &str) -> Result<usize, String> {
    let (keys, refused) = authorized::parse(text);
    match refused.first() {
        Some(line) => Err(format!("line {}: {}", line.line, line.reason)),
        None => Ok(keys.len()),
    }
}

fn read(path: &Path) -> Result<(Vec<AuthorizedKey>, Stamp), Error> {
    let unreadable = |cause| Error::KeyFile { path: path.to_owned(), cause };
    let file = File::open(path).map_err(unreadable)?;
    let stamp = Stamp::of(&file.metadata().map_err(unreadable)?);
    let mut bytes = Vec::new();
    (&file).take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Error::KeyFileTooLong { path: path.to_owned(), limit: MAX_FILE });
    }
    let (keys, refused) = authorized::parse(&String::from_utf8_lossy(&bytes));
    for line in refused {
        tracing::warn!("{}:{}: line is not used: {}", path.display(), line.line, line.reason);
    }
    if keys.is_empty() {
        return Err(Error::NoKeys { path: path.to_owned() });
    }
    Ok((keys, stamp))
}

fn stamp_of(path: &Path) -> io::Result<Stamp> {
    std::fs::metadata(path).map(|meta| Stamp::of(&meta))
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        let modified = (meta.mtime(), meta.mtime_nsec());
        Self { inode: meta.ino(), size: meta.size(), modified }
    }
}
