//! Knowing the server: by a fingerprint given beforehand, or by `known_hosts`.

use std::borrow::Cow;
use std::path::PathBuf;

use russh::client::Handler;
use russh::keys::known_hosts::known_host_keys_path;
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Preferred, keys};

use super::ClientError;

/// How to know the server.
#[derive(Debug, Clone)]
pub enum HostKey {
    /// `SHA256:…`, as ssh prints it.
    Fingerprint(String),
    /// A `known_hosts` file.
    KnownHosts(PathBuf),
}

/// Checks the key that a server shows.
pub struct HostCheck {
    how: HostKey,
    addr: String,
    /// The keys that `known_hosts` has for it.
    known: Vec<PublicKey>,
    /// Those that it calls revoked, for whatever host.
    revoked: Vec<PublicKey>,
}

impl HostCheck {
    pub(super) fn new(how: &HostKey, addr: &str) -> Result<Self, ClientError> {
        let bad = || ClientError::Setup(format!("address {addr:?} is no host:port"));
        let (host, port) = addr.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let host = host.trim_matches(['[', ']']);
        let known = match how {
            HostKey::Fingerprint(_) => Vec::new(),
            HostKey::KnownHosts(path) => std::fs::metadata(path)
                .map_err(keys::Error::from)
                .and_then(|_| known_host_keys_path(host, port, path))
                .map_err(|err| unreadable(path, &err))?,
        };
        let known = known.into_iter().map(|(_, key)| key).collect();
        let revoked = match how {
            HostKey::Fingerprint(_) => Vec::new(),
            HostKey::KnownHosts(path) => {
                let text = std::fs::read(path).map_err(|err| unreadable(path, &err.into()))?;
                revoked(&String::from_utf8_lossy(&text))
            }
        };
        Ok(Self { how: how.clone(), addr: addr.to_owned(), known, revoked })
    }

    /// The algorithms to ask for, those of the known keys first: of several keys a server
    /// shows only one. No SHA-1.
    pub(super) fn algorithms(&self) -> Cow<'static, [Algorithm]> {
        let is_known = |algorithm: &Algorithm| {
            self.known.iter().map(PublicKey::algorithm).any(|known| match algorithm {
                Algorithm::Rsa { .. } => known.is_rsa(),
                other => known == *other,
            })
        };
        let mut algorithms = Preferred::DEFAULT.key.into_owned();
        algorithms.retain(|algorithm| *algorithm != Algorithm::Rsa { hash: None });
        algorithms.sort_by_key(|algorithm| !is_known(algorithm));
        algorithms.into()
    }

    fn check(&self, key: &PublicKey) -> Result<(), ClientError> {
        let found = key.fingerprint(HashAlg::Sha256).to_string();
        let is_revoked = self.revoked.iter().any(|revoked| revoked.key_data() == key.key_data());
        if let (true, HostKey::KnownHosts(file)) = (is_revoked, &self.how) {
            let expected = format!("any but this, which is revoked in {}", file.display());
            return Err(ClientError::HostKeyMismatch { found, expected });
        }
        let expected = match &self.how {
            HostKey::Fingerprint(expected) if is_fingerprint(expected, &found) => return Ok(()),
            HostKey::Fingerprint(expected) => expected.clone(),
            HostKey::KnownHosts(_)
                if self.known.iter().any(|known| known.key_data() == key.key_data()) =>
            {
                return Ok(());
            }
            HostKey::KnownHosts(file) if self.known.is_empty() => {
                let (addr, file) = (self.addr.clone(), file.clone());
                return Err(ClientError::HostUnknown { addr, found, file });
            }
            HostKey::KnownHosts(file) => format!("one of {}", file.display()),
        };
        Err(ClientError::HostKeyMismatch { found, expected })
    }
}

/// The keys under `@revoked` (sshd(8), on the file of known hosts), which russh passes over.
fn revoked(known_hosts: &str) -> Vec<PublicKey> {
    let lines = known_hosts.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (marker, _hosts, kind, key) =
            (words.next()?, words.next()?, words.next()?, words.next()?);
        (marker == "@revoked").then(|| PublicKey::from_openssh(&format!("{kind} {key}")).ok())?
    });
    lines.collect()
}

/// `deployctl`'s help has always said `sha256:`, while ssh prints `SHA256:`.
fn is_fingerprint(expected: &str, found: &str) -> bool {
    match (expected.split_once(':'), found.split_once(':')) {
        (Some((hash, digits)), Some((of, right))) => {
            hash.eq_ignore_ascii_case(of) && digits == right
        }
        _ => false,
    }
}

fn unreadable(path: &std::path::Path, err: &keys::Error) -> ClientError {
    ClientError::Setup(format!(
        "open {}: {err}; give the server's fingerprint with -fp, or connect with ssh once",
        path.display()
    ))
}

impl Handler for HostCheck {
    type Error = ClientError;

    async fn check_server_key(
        &mut self,
        key: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => self.check(key).map(|()| true),
            PublicKeyOrCertificate::Certificate(_) => Ok(false),
        }
    }
}
