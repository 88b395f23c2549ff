//! Knowing the server: by a fingerprint given beforehand, or by `known_hosts`.

use std::path::PathBuf;

use russh::client::Handler;
use russh::keys::{HashAlg, PublicKey, PublicKeyOrCertificate, check_known_hosts_path};

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
    host: String,
    port: u16,
}

impl HostCheck {
    pub(super) fn new(how: &HostKey, address: &str) -> Result<Self, ClientError> {
        if let HostKey::KnownHosts(path) = how
            && let Err(err) = std::fs::metadata(path)
        {
            return Err(ClientError::Setup(format!(
                "open {}: {err}; give the server's fingerprint with -fp, or connect with ssh once",
                path.display()
            )));
        }
        let bad = || ClientError::Setup(format!("address {address:?} is no host:port"));
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { how: how.clone(), host, port })
    }

    fn check(&self, key: &PublicKey) -> Result<(), ClientError> {
        let found = key.fingerprint(HashAlg::Sha256).to_string();
        match &self.how {
            HostKey::Fingerprint(expected) => {
                // deployctl's help has always said sha256:, ssh prints SHA256:.
                let same = expected.split_once(':').is_some_and(|(_, digits)| {
                    found.split_once(':').is_some_and(|f| f.1 == digits)
                });
                let expected = expected.clone();
                if same { Ok(()) } else { Err(ClientError::HostKeyMismatch { found, expected }) }
            }
            HostKey::KnownHosts(path) => {
                let known = check_known_hosts_path(&self.host, self.port, key, path);
                let expected = format!("one of {}", path.display());
                match known {
                    Ok(true) => Ok(()),
                    Ok(false) | Err(_) => Err(ClientError::HostKeyMismatch { found, expected }),
                }
            }
        }
    }
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
