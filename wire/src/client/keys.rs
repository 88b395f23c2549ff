//! Logs in with a key file, or with the keys of the ssh agent and `~/.ssh`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use deploy_store::replace_file;
use russh::client::Handle;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::KeypairData;
use russh::keys::{
    Algorithm, Certificate, HashAlg, PrivateKey, PrivateKeyWithHashAlg, load_secret_key,
};

use super::ClientError;
use super::host::HostCheck;
use super::rsa::RsaSigner;

/// The keys for logging in.
#[derive(Debug, Clone)]
pub enum Keys {
    /// A private key file that is not encrypted.
    File(PathBuf),
    /// The ssh agent's keys first, and then the usual files in `~/.ssh`.
    Auto,
}

/// The number of bytes that the client examines at the start of a file to recognise a public key.
const MAX_LOOKED_AT: usize = 64;
/// The usual key files, in the order in which the client tries them.
const USUAL: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// Reads the key file, if one was given. The client reads the file before it connects, so that an
/// unusable key fails early.
pub(super) fn load(keys: &Keys) -> Result<Option<PrivateKey>, ClientError> {
    match keys {
        Keys::File(path) => read(path).map(Some),
        Keys::Auto => Ok(None),
    }
}

/// Logs in as `user`, or reports which keys were tried.
pub(super) async fn log_in(
    handle: &mut Handle<HostCheck>,
    user: &str,
    keys: &Keys,
    loaded: Option<PrivateKey>,
) -> Result<(), ClientError> {
    let mut login = Login { handle, user, tried: Vec::new(), skipped: Vec::new() };
    let done = match (keys, loaded) {
        (Keys::File(path), Some(key)) => login.with_key(path, key).await?,
        _ => login.with_agent().await? || login.with_usual_files().await?,
    };
    if done { Ok(()) } else { Err(login.refused()) }
}

/// A login in progress.
struct Login<'a> {
    handle: &'a mut Handle<HostCheck>,
    user: &'a str,
    /// The keys that were offered, and the ssh agent's certificates.
    tried: Vec<String>,
    /// The keys, certificates and ssh agent that could not be used, with the reasons.
    skipped: Vec<String>,
}

impl Login<'_> {
    async fn with_key(&mut self, path: &Path, key: PrivateKey) -> Result<bool, ClientError> {
        if self.with_certificate(path, &key).await {
            return Ok(true);
        }
        let hash = self.rsa_hash(key.algorithm()).await;
        self.tried.push(path.display().to_string());
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let result = self.handle.authenticate_publickey(self.user, key).await;
        match result {
            Ok(result) => Ok(result.success()),
            Err(err) if self.tried.len() == 1 => Err(err.into()),
            // The server may disconnect after too many keys.
            Err(_) => Ok(false),
        }
    }

    /// Tries the certificate that is stored next to a key, as ssh does. If the certificate does not
    /// work, the caller tries the key itself.
    async fn with_certificate(&mut self, path: &Path, key: &PrivateKey) -> bool {
        let mut beside = path.as_os_str().to_owned();
        beside.push("-cert.pub");
        let beside = Path::new(&beside);
        if !beside.exists() {
            return false;
        }
        let name = beside.display();
        let certificate = match Certificate::read_file(beside) {
            Ok(certificate) => certificate,
            Err(err) => {
                self.skipped.push(format!("{name} is not a readable certificate: {err}"));
                return false;
            }
        };
        let done = match key.key_data() {
            KeypairData::Rsa(pair) => {
                let hash = self.rsa_hash(key.algorithm()).await;
                let mut signer = RsaSigner(pair);
                let (handle, user) = (&mut *self.handle, self.user);
                let done =
                    handle.authenticate_certificate_with(user, certificate, hash, &mut signer);
                done.await.map_err(|err| err.to_string())
            }
            _ => {
                let key = Arc::new(key.clone());
                let done = self.handle.authenticate_openssh_cert(self.user, key, certificate);
                done.await.map_err(|err| err.to_string())
            }
        };
        match done {
            Ok(result) if result.success() => true,
            Ok(_) => {
                self.skipped.push(format!("{name} (refused)"));
                false
            }
            Err(err) => {
                self.skipped.push(format!("{name}: {err}"));
                false
            }
        }
    }

    /// Tries the ssh agent's keys. If there is no ssh agent, the function returns `false` instead
    /// of an error, because other keys may work.
    async fn with_agent(&mut self) -> Result<bool, ClientError> {
        let failed = |err: &dyn std::fmt::Display| {
            format!("cannot connect to ssh-agent, check if SSH_AUTH_SOCK is set: {err}")
        };
        let mut agent = match AgentClient::connect_env().await {
            Ok(agent) => agent,
            Err(err) => {
                self.skipped.push(failed(&err));
                return Ok(false);
            }
        };
        let identities = match agent.request_identities().await {
            Ok(identities) => identities,
            Err(err) => {
                self.skipped.push(failed(&err));
                return Ok(false);
            }
        };
        if identities.is_empty() {
            self.skipped.push("ssh-agent has no keys: add one with ssh-add".to_owned());
        }
        for identity in identities {
            let algorithm = match &identity {
                AgentIdentity::PublicKey { key, .. } => key.algorithm(),
                AgentIdentity::Certificate { certificate, .. } => certificate.algorithm(),
            };
            let hash = self.rsa_hash(algorithm).await;
            let (handle, user) = (&mut *self.handle, self.user);
            let result = match identity {
                AgentIdentity::PublicKey { key, .. } => {
                    self.tried.push(format!("agent's {}", key.fingerprint(HashAlg::Sha256)));
                    handle.authenticate_publickey_with(user, key, hash, &mut agent).await
                }
                AgentIdentity::Certificate { certificate, .. } => {
                    let print = certificate.public_key().fingerprint(HashAlg::Sha256);
                    self.tried.push(format!("agent's certificate of {print}"));
                    handle.authenticate_certificate_with(user, certificate, hash, &mut agent).await
                }
            };
            match result {
                Ok(result) if result.success() => return Ok(true),
                Ok(_) => {}
                // The ssh agent may ask its user for permission, and the user may refuse.
                Err(err) => self.skipped.push(format!("ssh-agent does not sign: {err}")),
            }
        }
        Ok(false)
    }

    async fn with_usual_files(&mut self) -> Result<bool, ClientError> {
        let Some(home) = std::env::home_dir() else { return Ok(false) };
        for name in USUAL {
            let path = home.join(".ssh").join(name);
            if !path.exists() {
                continue;
            }
            match read(&path) {
                Ok(key) => {
                    if self.with_key(&path, key).await? {
                        return Ok(true);
                    }
                }
                // The other keys may still work.
                Err(err) => self.skipped.push(err.to_string()),
            }
        }
        Ok(false)
    }

    /// The hash for a signature with an RSA key. The hash is never SHA-1. `None` for other
    /// algorithms.
    async fn rsa_hash(&self, algorithm: Algorithm) -> Option<HashAlg> {
        if !algorithm.is_rsa() {
            return None;
        }
        match self.handle.best_supported_rsa_hash().await {
            Ok(Some(Some(hash))) => Some(hash),
            _ => Some(HashAlg::Sha512),
        }
    }

    fn refused(self) -> ClientError {
        if self.tried.is_empty() {
            let why = self.skipped.join("; ");
            return ClientError::Setup(format!(
                "no key to log in with: {why}; give a key with -key"
            ));
        }
        if self.tried.len() == 1 && self.handle.is_closed() {
            return ClientError::Lost("the server closed the connection at login".to_owned());
        }
        let tried = [vec![self.tried.join(", ")], self.skipped].concat().join("; ");
        ClientError::Denied { user: self.user.to_owned(), tried }
    }
}

/// Makes an Ed25519 key file with mode 0600 at `path`, and writes the public key to a file next to
/// `path`. If `path` exists, the function reads the existing key instead. Returns the public key as
/// a line of a key file.
pub fn make_key(path: &Path, comment: &str) -> Result<String, ClientError> {
    let line = |key: &PrivateKey| key.public_key().to_openssh().map_err(|err| failed(path, &err));
    if path.exists() {
        return line(&read(path)?);
    }
    let mut random = russh::keys::key::safe_rng();
    let key = PrivateKey::random(&mut random, Algorithm::Ed25519);
    let mut key = key.map_err(|err| failed(path, &err))?;
    key.set_comment(comment);
    let text = key.to_openssh(LineEnding::LF).map_err(|err| failed(path, &err))?;
    let public = line(&key)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".pub");
    replace_file(Path::new(&beside), format!("{public}\n").as_bytes(), 0o644)
        .and_then(|()| replace_file(path, text.as_bytes(), 0o600))
        .map_err(|err| failed(path, &err))?;
    Ok(public)
}

fn failed(path: &Path, err: &impl std::fmt::Display) -> ClientError {
    ClientError::KeyFile { path: path.to_owned(), why: err.to_string() }
}

fn read(path: &Path) -> Result<PrivateKey, ClientError> {
    load_secret_key(path, None).map_err(|err| ClientError::KeyFile {
        path: path.to_owned(),
        why: match err {
            russh::keys::Error::KeyIsEncrypted => {
                "it is encrypted: give a key without a passphrase, or, with deployctl, add this key to ssh-agent with ssh-add and leave out -key".to_owned()
            }
            err => what_it_is(path).unwrap_or_else(|| err.to_string()),
        },
    })
}

/// The reason why a file cannot be a private key; `None` if no reason is obvious.
fn what_it_is(path: &Path) -> Option<String> {
    let is_missing = |path: &Path| {
        let found = path.symlink_metadata();
        found.is_err_and(|err| err.kind() == std::io::ErrorKind::NotFound)
    };
    if is_missing(path) {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        if let Some(dir) = dir.filter(|dir| is_missing(dir)) {
            return Some(format!("there is no directory {}", dir.display()));
        }
        return Some(
            "there is no such file: name another file with -key, or make a key, for example with ssh-keygen; deploy-agent init makes a key for an agent".to_owned(),
        );
    }
    if path.is_dir() {
        return Some("it is a directory: give a private key file".to_owned());
    }
    let text = std::fs::read(path).ok()?;
    let line = String::from_utf8_lossy(text.get(..text.len().min(MAX_LOOKED_AT))?).into_owned();
    let kinds = ["ssh-", "ecdsa-", "sk-"];
    if !kinds.iter().any(|kind| line.starts_with(kind)) {
        return None;
    }
    let public = path.display().to_string();
    let private = public.strip_suffix(".pub").map(|private| format!(", {private}"));
    Some(format!("it is a public key: give the private key{}", private.unwrap_or_default()))
}
