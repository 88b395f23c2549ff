//! Logging in: with a key file, or with what the ssh agent and `~/.ssh` have.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::client::Handle;
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, load_secret_key};

use super::ClientError;
use super::host::HostCheck;

/// What to log in with.
#[derive(Debug, Clone)]
pub enum Keys {
    /// A private key file, not encrypted.
    File(PathBuf),
    /// The ssh agent's keys, then the usual files in `~/.ssh`.
    Auto,
}

/// RSA keys sign with SHA-512; no server that is left takes only SHA-1.
const RSA_HASH: Option<HashAlg> = Some(HashAlg::Sha512);

/// Logs in as `user`, or tells which keys were tried.
pub(super) async fn log_in(
    handle: &mut Handle<HostCheck>,
    user: &str,
    keys: &Keys,
) -> Result<(), ClientError> {
    let mut tried = Vec::new();
    let done = match keys {
        Keys::File(path) => with_file(handle, user, path, &mut tried).await?,
        Keys::Auto => {
            with_agent(handle, user, &mut tried).await?
                || with_usual_files(handle, user, &mut tried).await?
        }
    };
    if done {
        return Ok(());
    }
    if tried.is_empty() {
        return Err(ClientError::Setup(
            "no key to log in with: cannot connect to ssh-agent, check if SSH_AUTH_SOCK is set, \
             or give a key with -key"
                .to_owned(),
        ));
    }
    Err(ClientError::Denied { user: user.to_owned(), tried: tried.join(", ") })
}

async fn with_file(
    handle: &mut Handle<HostCheck>,
    user: &str,
    path: &Path,
    tried: &mut Vec<String>,
) -> Result<bool, ClientError> {
    let key = load_secret_key(path, None).map_err(|err| ClientError::KeyFile {
        path: path.to_owned(),
        why: match err {
            russh::keys::Error::KeyIsEncrypted => {
                "it is encrypted: add it to ssh-agent with ssh-add".to_owned()
            }
            err => err.to_string(),
        },
    })?;
    tried.push(path.display().to_string());
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), RSA_HASH);
    Ok(handle.authenticate_publickey(user, key).await?.success())
}

/// Tries the agent's keys; that there is no agent is no error.
async fn with_agent(
    handle: &mut Handle<HostCheck>,
    user: &str,
    tried: &mut Vec<String>,
) -> Result<bool, ClientError> {
    if std::env::var_os("SSH_AUTH_SOCK").is_none_or(|path| path.is_empty()) {
        return Ok(false);
    }
    let failed = |err: &dyn std::fmt::Display| {
        let text = "cannot connect to ssh-agent, check if SSH_AUTH_SOCK is set";
        ClientError::Setup(format!("{text}: {err}"))
    };
    let mut agent = AgentClient::connect_env().await.map_err(|err| failed(&err))?;
    for identity in agent.request_identities().await.map_err(|err| failed(&err))? {
        let AgentIdentity::PublicKey { key, .. } = identity else { continue };
        tried.push(format!("agent's {}", key.fingerprint(HashAlg::Sha256)));
        let hash = if key.algorithm().is_rsa() { RSA_HASH } else { None };
        let result = handle.authenticate_publickey_with(user, key, hash, &mut agent).await;
        if result.map_err(|err| failed(&err))?.success() {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn with_usual_files(
    handle: &mut Handle<HostCheck>,
    user: &str,
    tried: &mut Vec<String>,
) -> Result<bool, ClientError> {
    let Some(home) = std::env::home_dir() else { return Ok(false) };
    for name in ["id_ed25519", "id_ecdsa", "id_rsa"] {
        let path = home.join(".ssh").join(name);
        if !path.exists() {
            continue;
        }
        match with_file(handle, user, &path, tried).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            // One of several: the others may do.
            Err(ClientError::KeyFile { path, why }) => {
                tried.push(format!("{} ({why})", path.display()));
            }
            Err(err) => return Err(err),
        }
    }
    Ok(false)
}
