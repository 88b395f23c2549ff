//! Checks host certificates (PROTOCOL.certkeys): decides whether a certificate is valid for the
//! host that sends the certificate.

use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, PublicKey};

use crate::wildcard;

/// Fails if `certificate` is not valid for `host`. The error says why.
pub(super) fn check(
    certificate: &Certificate,
    authorities: &[PublicKey],
    revoked: &[PublicKey],
    host: &str,
) -> Result<(), String> {
    let signer = certificate.signature_key();
    if !authorities.iter().any(|authority| authority.key_data() == signer) {
        return Err("the server's certificate is signed by another authority".to_owned());
    }
    let is_revoked =
        |key: &PublicKey| key.key_data() == signer || key.key_data() == certificate.public_key();
    if revoked.iter().any(is_revoked) {
        return Err("the server's certificate or its authority is revoked".to_owned());
    }
    // Of the library's validations, only the complete one checks the signature. This function does
    // not use it, and checks the signature itself.
    let sound = certificate.verify_signature().is_ok();
    if !sound || certificate.signature().algorithm() == (Algorithm::Rsa { hash: None }) {
        return Err("the signature of the server's certificate is not accepted".to_owned());
    }
    if certificate.cert_type() != CertType::Host {
        return Err("the server's certificate is not a host certificate".to_owned());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    if now < certificate.valid_after() || now >= certificate.valid_before() {
        return Err("the server's certificate has expired, or is not valid yet".to_owned());
    }
    if !certificate.critical_options().is_empty() {
        return Err("the server's certificate has an unsupported critical option".to_owned());
    }
    let host = host.to_ascii_lowercase();
    let principals = certificate.valid_principals();
    // According to ssh-keygen(1), a certificate without names is valid for all hosts.
    if principals.is_empty()
        || principals.iter().any(|name| wildcard::matches(&name.to_ascii_lowercase(), &host))
    {
        return Ok(());
    }
    let names = deploy_store::escape(&principals.join(", "));
    Err(format!("the server's certificate is for {names}, not for {host}"))
}
