//! The host key: read in any form that ssh knows, made if there is none.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, HashAlg, PrivateKey, load_secret_key};

/// The host key in `dir/host_key`, made there if it is missing.
pub fn host_key(dir: &Path) -> Result<PrivateKey> {
    let path = dir.join("host_key");
    let shown = path.display();
    match std::fs::metadata(&path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return make(&path),
        Err(err) => return Err(err).with_context(|| format!("stat {shown}")),
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            let mode = meta.permissions().mode() & 0o777;
            bail!("host key {shown} has mode {mode:04o}, others may read it: chmod 600 {shown}")
        }
        Ok(_) => {}
    }
    load_secret_key(&path, None).with_context(|| {
        format!("host key {shown} cannot be read; remove it to have a new one made")
    })
}

fn make(path: &Path) -> Result<PrivateKey> {
    let key = PrivateKey::random(&mut rand::rng(), Algorithm::Ed25519).context("make host key")?;
    let text = key.to_openssh(LineEnding::LF).context("encode host key")?;
    deploy_store::replace_file(path, text.as_bytes(), 0o600)?;
    Ok(key)
}

/// `SHA256:…` of the key, as ssh prints it.
pub fn fingerprint(key: &PrivateKey) -> String {
    key.public_key().fingerprint(HashAlg::Sha256).to_string()
}
