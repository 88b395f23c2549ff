//! Checks users' certificates (PROTOCOL.certkeys): decides whether the holder of a certificate may
//! log in, and with which rights.

use std::net::IpAddr;

use deploy_store::escape;
use jiff::Timestamp;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, HashAlg};

use crate::ssh::auth::authorized_keys::AuthorizedKey;
use crate::ssh::auth::source_patterns::{Source, parse_sources};

/// The registry prints at most this many characters of a certificate's name.
const MAX_NAME: usize = 100;

/// The rights that a certificate gives.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Fingerprint of the certificate's key, and the certificate's escaped name and serial number.
    pub label: String,
    /// Whether the holder of the certificate may have a terminal.
    pub pty: bool,
    /// Whether the holder of the certificate may forward a port to the page.
    pub forwarding: bool,
}

/// The rights that `certificate` gives to `user` from `address` at `now`, or the reason why the
/// certificate gives no rights. The ssh library has verified the certificate's signature.
/// `authority` is the line of the key that signed the certificate.
pub fn check(
    certificate: &Certificate,
    authority: &AuthorizedKey,
    user: &str,
    address: IpAddr,
    now: Timestamp,
) -> Result<Admitted, String> {
    if certificate.cert_type() != CertType::User {
        return Err("certificate is not a user certificate".to_owned());
    }
    if certificate.signature().algorithm() == (Algorithm::Rsa { hash: None }) {
        return Err("certificate is signed with SHA-1".to_owned());
    }
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    if now < certificate.valid_after() {
        return Err("certificate is not valid yet".to_owned());
    }
    if now >= certificate.valid_before() {
        return Err("certificate has expired".to_owned());
    }
    if !authority.covers(certificate.valid_principals(), user) {
        let names = escape(&certificate.valid_principals().join(", "));
        let names = if names.is_empty() { "none".to_owned() } else { names };
        let user = escape(user);
        return Err(format!("certificate does not allow a login as {user}; its names: {names}"));
    }
    for (name, value) in certificate.critical_options().iter() {
        // As in sshd, an unknown option is a restriction, so the login is refused.
        let sources = (name == "source-address").then(|| parse_sources(value));
        match sources {
            Some(Ok(sources)) if Source::any_matches(&sources, address) => {}
            Some(Ok(_)) => return Err("certificate may not be used from this address".to_owned()),
            _ => {
                return Err(format!(
                    "certificate has the critical option {:?}, which the registry cannot apply",
                    escape(name)
                ));
            }
        }
    }
    let fingerprint = certificate.public_key().fingerprint(HashAlg::Sha256);
    let name: String = certificate.key_id().chars().take(MAX_NAME).collect();
    let label = format!("{fingerprint} {} (certificate {})", escape(&name), certificate.serial());
    let permits = |what: &str| certificate.extensions().contains_key(what);
    Ok(Admitted {
        label,
        pty: permits("permit-pty"),
        forwarding: permits("permit-port-forwarding"),
    })
}
