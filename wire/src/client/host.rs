//! Identifies the server by a given fingerprint, or with `known_hosts` files.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use russh::client::Handler;
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Preferred, keys};

use super::known::Known;
use super::{ClientError, certificate};

/// The system-wide file of known hosts, which ssh also reads.
const OF_ALL: &str = "/etc/ssh/ssh_known_hosts";

/// The number of characters of a SHA-256 fingerprint after `SHA256:`.
const DIGITS: usize = 43;

/// The way in which the client identifies the server.
#[derive(Debug, Clone)]
pub enum HostKey {
    /// A fingerprint `SHA256:…`, as ssh prints it.
    Fingerprint(String),
    /// A `known_hosts` file.
    KnownHosts(PathBuf),
}

/// Checks the server's key.
pub struct HostCheck {
    how: HostKey,
    addr: String,
    host: String,
    known: Known,
}

impl HostCheck {
    pub(super) fn new(how: &HostKey, addr: &str) -> Result<Self, ClientError> {
        let (host, port) = split(addr)?;
        let mut known = Known::default();
        match how {
            HostKey::Fingerprint(_) => {}
            HostKey::KnownHosts(path) => {
                let of_all = std::fs::read(OF_ALL).ok();
                match std::fs::read(path) {
                    Ok(text) => known.read(&String::from_utf8_lossy(&text), host, port),
                    Err(err) if of_all.is_none() => return Err(unreadable(path, &err.into())),
                    Err(_) => {}
                }
                let of_all = of_all.unwrap_or_default();
                known.read(&String::from_utf8_lossy(&of_all), host, port);
            }
        }
        Ok(Self { how: how.clone(), addr: addr.to_owned(), host: host.to_owned(), known })
    }

    /// The host key algorithms that the client requests. The algorithms of the known keys come
    /// first, because a server with several keys shows only one key. The list has no algorithm with
    /// SHA-1.
    pub(super) fn algorithms(&self) -> Cow<'static, [Algorithm]> {
        let Known { keys, without_port, .. } = &self.known;
        let keys = if keys.is_empty() { without_port } else { keys };
        let is_known = |algorithm: &Algorithm| {
            keys.iter().map(PublicKey::algorithm).any(|known| match algorithm {
                Algorithm::Rsa { .. } => known.is_rsa(),
                other => known == *other,
            })
        };
        let mut algorithms = Preferred::DEFAULT.key.into_owned();
        algorithms.retain(|algorithm| *algorithm != Algorithm::Rsa { hash: None });
        algorithms.sort_by_key(|algorithm| !is_known(algorithm));
        algorithms.into()
    }

    /// The certificate algorithms that the client requests. If no authority is known, the list is
    /// empty.
    pub(super) fn certificates(&self) -> Cow<'static, [Algorithm]> {
        if self.known.authorities.is_empty() { Cow::Borrowed(&[]) } else { self.algorithms() }
    }

    fn check(&self, key: &PublicKey) -> Result<(), ClientError> {
        let found = key.fingerprint(HashAlg::Sha256).to_string();
        let Known { keys, without_port, revoked, .. } = &self.known;
        let has = |keys: &[PublicKey]| keys.iter().any(|known| known.key_data() == key.key_data());
        if let (true, HostKey::KnownHosts(file)) = (has(revoked), &self.how) {
            let expected = format!("another key: this key is revoked in {}", file.display());
            return Err(ClientError::HostKeyMismatch { found, expected });
        }
        let expected = match &self.how {
            HostKey::Fingerprint(expected) if is_fingerprint(expected, &found) => return Ok(()),
            HostKey::Fingerprint(expected) => format!("{expected}{}", flaw(expected)),
            HostKey::KnownHosts(_) if has(keys) => return Ok(()),
            HostKey::KnownHosts(_) if keys.is_empty() && has(without_port) => return Ok(()),
            HostKey::KnownHosts(file) if keys.is_empty() => {
                let (addr, file) = (self.addr.clone(), file.clone());
                return Err(ClientError::HostUnknown { addr, found, file });
            }
            HostKey::KnownHosts(file) => format!("one of the keys in {}", file.display()),
        };
        Err(ClientError::HostKeyMismatch { found, expected })
    }

    /// Checks the host's certificate. If the certificate is not valid for the host, the client
    /// checks the key in the certificate instead.
    fn check_certificate(&self, shown: &Certificate) -> Result<(), ClientError> {
        let Known { authorities, revoked, .. } = &self.known;
        let Err(why) = certificate::check(shown, authorities, revoked, &self.host) else {
            return Ok(());
        };
        let key = PublicKey::new(shown.public_key().clone(), "");
        self.check(&key).map_err(|err| match (err, &self.how) {
            (ClientError::HostUnknown { found, .. }, HostKey::KnownHosts(file)) => {
                let file = file.display();
                let expected = format!("a certificate from an authority in {file}, but {why}");
                ClientError::HostKeyMismatch { found, expected }
            }
            (err, _) => err,
        })
    }
}

fn split(addr: &str) -> Result<(&str, u16), ClientError> {
    // In an IPv6 address without brackets, the last part looks like a port.
    let bare = addr.matches(':').count() > 1 && !addr.starts_with('[');
    let Some((host, port)) = addr.rsplit_once(':').filter(|_| !bare && !addr.ends_with(']')) else {
        let host = if bare { format!("[{addr}]") } else { addr.to_owned() };
        let text = format!("address {addr:?} has no port: give host:port, like {host}:2022");
        return Err(ClientError::Setup(text));
    };
    let port = port.parse().map_err(|_| {
        ClientError::Setup(format!("address {addr:?} is not host:port: {port:?} is not a port"))
    })?;
    Ok((host.trim_matches(['[', ']']), port))
}

/// The reason why `print` cannot be a fingerprint; empty if `print` has the form of a fingerprint.
fn flaw(print: &str) -> String {
    let digits = print.split_once(':').filter(|(hash, _)| hash.eq_ignore_ascii_case("sha256"));
    match digits {
        Some((_, digits)) if digits.len() == DIGITS => String::new(),
        Some(_) => format!(" (it lacks the {DIGITS} characters after SHA256:)"),
        None if print.is_empty() => "nothing (no fingerprint is given)".to_owned(),
        None if print.len() == DIGITS => " (it lacks its prefix, SHA256:)".to_owned(),
        None => " (it is not a SHA-256 fingerprint, as ssh-keygen -l prints them)".to_owned(),
    }
}

/// Compares two fingerprints and ignores the case of their prefix. The help of `deployctl` shows
/// `sha256:`, but ssh prints `SHA256:`.
fn is_fingerprint(expected: &str, found: &str) -> bool {
    match (expected.split_once(':'), found.split_once(':')) {
        (Some((hash, digits)), Some((of, right))) => {
            hash.eq_ignore_ascii_case(of) && digits == right
        }
        _ => false,
    }
}

fn unreadable(path: &Path, err: &keys::Error) -> ClientError {
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
            PublicKeyOrCertificate::Certificate(certificate) => {
                self.check_certificate(certificate).map(|()| true)
            }
        }
    }
}
