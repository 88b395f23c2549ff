//! Reads the host key in any common format, or creates a host key.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, PrivateKey, decode_secret_key};

use crate::ssh::start_error::{Error, plain};

/// The file name of the host key.
pub(super) const NAME: &str = "host_key";
/// The file name of the certificate, as `ssh-keygen -s` chooses it.
const CERTIFICATE: &str = "host_key-cert.pub";
/// Maximum size of a host key file, in bytes. The file of an RSA key of 16,384 bits has 13 KiB.
const MAX_BYTES: u64 = 64 << 10;

/// The identity of a server.
#[derive(Debug, Clone)]
pub struct HostKey {
    /// The key.
    pub key: PrivateKey,
    /// The certificate of the key, if there is one.
    pub certificate: Option<Certificate>,
}

/// The host key of the registry in `dir`, with the certificate beside it. The file `host_key` may
/// have the format OpenSSH, PEM or PKCS#8. The Go tool's EC key works, too. If there is no such
/// file, the function creates an Ed25519 key.
pub fn host_key(dir: &Path) -> Result<HostKey, Error> {
    let key = private_key(dir)?;
    let path = dir.join(CERTIFICATE);
    let certificate = match Certificate::read_file(&path) {
        Ok(certificate) => Some(certificate),
        Err(_) if !path.exists() => None,
        Err(err) => {
            let reason =
                format!("is not a readable certificate ({err}); remove the file or make a new one");
            return Err(Error::HostKey { path, reason });
        }
    };
    if certificate.as_ref().is_some_and(|certificate| {
        certificate.cert_type() != CertType::Host
            || certificate.public_key() != key.public_key().key_data()
    }) {
        let reason =
            "is not a certificate of host_key; make one with ssh-keygen -h -s CA".to_owned();
        return Err(Error::HostKey { path, reason });
    }
    Ok(HostKey { key, certificate })
}

fn private_key(dir: &Path) -> Result<PrivateKey, Error> {
    let path = dir.join(NAME);
    match File::open(&path) {
        Ok(file) => read(&file).map_err(|reason| Error::HostKey { path, reason }),
        Err(err) if err.kind() == io::ErrorKind::NotFound => create(&path),
        Err(err) => Err(Error::HostKey { path, reason: plain(&err) }),
    }
}

fn read(mut file: &File) -> Result<PrivateKey, String> {
    let meta = file.metadata().map_err(|err| plain(&err))?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "other users have access to the file (mode {mode:04o}); run chmod 600"
        ));
    }
    let mut text = String::new();
    file.by_ref()
        .take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|err| format!("cannot be read: {}", plain(&err)))?;
    decode_secret_key(&text, None).map_err(|err| match err {
        russh::keys::Error::KeyIsEncrypted => {
            "has a passphrase, which a server cannot ask for; remove the passphrase".to_owned()
        }
        err => format!(
            "is not a valid private key ({err}); restore the file, \
             or remove the file so that the registry makes a new key"
        ),
    })
}

fn create(path: &Path) -> Result<PrivateKey, Error> {
    let failed = |err: russh::keys::ssh_key::Error| Error::HostKey {
        path: path.to_owned(),
        reason: format!("cannot be made: {err}"),
    };
    let mut random = russh::keys::key::safe_rng();
    let key = PrivateKey::random(&mut random, Algorithm::Ed25519).map_err(failed)?;
    let text = key.to_openssh(LineEnding::LF).map_err(failed)?;
    deploy_store::replace_file(path, text.as_bytes(), 0o600)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, text: &str, mode: u32) {
        let path = dir.join(NAME);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn created_key_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let made = host_key(dir.path()).unwrap().key;
        let bits = std::fs::metadata(dir.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!((made.algorithm(), bits & 0o777), (Algorithm::Ed25519, 0o600));
        assert_eq!(host_key(dir.path()).unwrap().key.public_key(), made.public_key());
    }

    #[test]
    fn go_tool_pem_key_is_read() {
        // `ssh-keygen -t ecdsa -m PEM` created this key, in the format of the Go tool's keys.
        let pem = include_str!("testdata/ec_private_key.pem");
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), pem, 0o600);
        let key = host_key(dir.path()).unwrap().key;
        assert_eq!(key.algorithm().as_str(), "ecdsa-sha2-nistp256");
    }

    #[test]
    fn damaged_key_and_key_that_others_can_read_are_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        for (text, mode, want) in [
            (include_str!("testdata/ec_private_key.pem"), 0o644, "mode 0644"),
            ("garbage", 0o600, "not a valid private key"),
            ("", 0o600, "not a valid private key"),
            (include_str!("testdata/encrypted_key"), 0o600, "passphrase"),
        ] {
            put(dir.path(), text, mode);
            let message = host_key(dir.path()).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
            assert_eq!(std::fs::read_to_string(dir.path().join(NAME)).unwrap(), text);
        }
    }
}
