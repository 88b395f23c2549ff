//! Reads the two key files, which list who may log in as an operator or as an agent.

use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use deploy_store::Digest;
use jiff::Timestamp;
use russh::keys::{Certificate, PublicKey};
use tokio::sync::watch;

use crate::ssh::auth::authorized_keys::{self, AuthorizedKey};
use crate::ssh::auth::user_certificate;
use crate::ssh::start_error::Error;

/// The user name of agents. Every other user name belongs to an operator.
pub const SERVICE_USER: &str = "deploy-agent";
/// Maximum size of a key file, in bytes.
pub const MAX_FILE: u64 = 16 << 20;

/// The rights of a logged-in client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The client may run commands, upload and download.
    Operator,
    /// The client may download, and run the commands `watch` and `report`.
    Service,
}

/// A logged-in client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The client's rights.
    pub role: Role,
    /// Fingerprint and comment of the client's key, or fingerprint, name and serial number of the
    /// client's certificate.
    pub label: String,
    /// Whether the client may have a terminal.
    pub pty: bool,
    /// Whether the client may forward a port to the page.
    pub forwarding: bool,
}

/// The key or certificate of a login.
#[derive(Debug, Clone)]
pub enum Proof {
    /// A key.
    Key(PublicKey),
    /// A certificate of a key.
    Certificate(Box<Certificate>),
}

impl AuthorizedKey {
    fn is_meant_by(&self, proof: &Proof) -> bool {
        match proof {
            Proof::Key(key) => !self.authority && self.key.key_data() == key.key_data(),
            Proof::Certificate(shown) => {
                self.authority && self.key.key_data() == shown.signature_key()
            }
        }
    }
}

/// The keys of operators and agents.
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

/// The properties of a file that show whether the file has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Keyring {
    /// Reads both files. Each file must have at least one key.
    pub fn load(operators: &Path, services: &Path) -> Result<Self, Error> {
        let (operators, services) = (KeyFile::load(operators)?, KeyFile::load(services)?);
        Ok(Self { operators, services, version: watch::Sender::new(0) })
    }

    /// Reads both files again. If a file cannot be used, the keys from its last successful reading
    /// stay valid.
    pub fn reload(&self) {
        self.replace(KeyFile::reload);
    }

    /// Like [`Keyring::reload`], but reads only files that have changed.
    pub fn reload_changed(&self) {
        self.replace(KeyFile::reload_changed);
    }

    fn replace(&self, reload: impl Fn(&KeyFile) -> bool) {
        // With `|` instead of `||`, the second file is reloaded even if the first file has changed.
        if reload(&self.operators) | reload(&self.services) {
            self.version.send_modify(|version| *version += 1);
        }
    }

    /// The digests of the two key files, as they are now: of the operators' file and of the agents'
    /// file. A file that cannot be read has an empty text.
    pub fn digests(&self) -> [String; 2] {
        [&self.operators, &self.services].map(|file| {
            let text = std::fs::read(&file.path);
            text.map(|text| Digest::of(&text).to_string()).unwrap_or_default()
        })
    }

    /// A counter that increases whenever a key file was read again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Identifies the client that logs in as `user` with `proof` from `address`, or returns the
    /// reason why the login is refused.
    pub fn identify(&self, user: &str, proof: &Proof, address: IpAddr) -> Result<Identity, String> {
        let (role, file, others) = match user {
            SERVICE_USER => (Role::Service, &self.services, &self.operators),
            _ => (Role::Operator, &self.operators, &self.services),
        };
        let now = Timestamp::now();
        let mut reason = None;
        for known in file.keys().iter().filter(|known| known.is_meant_by(proof)) {
            let checked = known.check(address, now).map_err(str::to_owned);
            let checked = checked.and_then(|()| match proof {
                Proof::Key(_) => {
                    let AuthorizedKey { pty, forwarding, .. } = *known;
                    Ok(Identity { role, label: known.label(), pty, forwarding })
                }
                Proof::Certificate(shown) => {
                    let admitted = user_certificate::check(shown, known, user, address, now)?;
                    let pty = known.pty && admitted.pty;
                    let forwarding = known.forwarding && admitted.forwarding;
                    Ok(Identity { role, label: admitted.label, pty, forwarding })
                }
            });
            match checked {
                Ok(identity) => return Ok(identity),
                Err(why) => reason = Some(why),
            }
        }
        Err(reason.unwrap_or_else(|| {
            let path = file.path.display();
            let is_others = others.keys().iter().any(|known| known.is_meant_by(proof));
            match (role, is_others) {
                (_, false) => format!("key is not in {path}"),
                (Role::Operator, true) => {
                    let others = others.path.display();
                    format!(
                        "key is not in {path}, but in {others}: agents log in as {SERVICE_USER}"
                    )
                }
                (Role::Service, true) => {
                    let others = others.path.display();
                    format!("key is not in {path}, but in {others}: operators use other user names")
                }
            }
        }))
    }

    /// Whether the key file for `user` lists an authority that signs certificates.
    pub fn has_authorities(&self, user: &str) -> bool {
        let file = if user == SERVICE_USER { &self.services } else { &self.operators };
        file.keys().iter().any(|known| known.authority)
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
                tracing::warn!("{err}; the registry continues to use the keys that it read before");
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

/// The number of keys in the key file `text`, or the error of its first bad line.
pub fn keys_in(text: &str) -> Result<usize, String> {
    let (keys, refused) = authorized_keys::parse(text);
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
    let text = String::from_utf8_lossy(&bytes);
    if text.starts_with("-----BEGIN") {
        return Err(Error::Private { path: path.to_owned() });
    }
    let (keys, refused) = authorized_keys::parse(&text);
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
