//! Makes sure that all registries that share a catalogue have the same host key. Otherwise a client
//! that goes to another registry would refuse its key.

use std::path::Path;

use super::host_key::{HostKey, NAME, host_key};
use crate::catalog::Catalog;
use crate::ssh::fingerprint;
use crate::ssh::start_error::Error;

/// The note with this name holds the fingerprint of the host key.
const NOTE: &str = "host_key";

/// The host key in `dir`, as [`host_key`] returns it. If several registries may use the catalogue,
/// the first of them records the fingerprint of its key. The function fails if the key in `dir` is
/// another one; it makes a key only for the first registry.
pub async fn shared_host_key(dir: &Path, catalog: &Catalog) -> Result<HostKey, Error> {
    if !catalog.is_shared() {
        return host_key(dir);
    }
    let path = dir.join(NAME);
    let refused = |own: Option<&str>, shared: &str| Error::HostKey {
        path: dir.join(NAME),
        reason: refusal(own, shared),
    };
    let recorded: Option<String> = catalog.note(NOTE).await?;
    if let Some(shared) = recorded.filter(|_| !path.exists()) {
        return Err(refused(None, &shared));
    }
    let key = host_key(dir)?;
    let own = fingerprint(&key);
    let shared = catalog.claim_note(NOTE, own.clone()).await?;
    if own == shared { Ok(key) } else { Err(refused(Some(&own), &shared)) }
}

/// Records the fingerprint of the host key in `dir`, if there is one, for the registries that are about
/// to share the catalogue. Replaces an earlier record.
pub async fn record_host_key(dir: &Path, catalog: &Catalog) -> Result<(), Error> {
    if dir.join(NAME).exists() {
        catalog.set_note(NOTE, &fingerprint(&host_key(dir)?)).await?;
    }
    Ok(())
}

/// Why a registry with the key `own` cannot use a catalogue whose registries have the key `shared`.
fn refusal(own: Option<&str>, shared: &str) -> String {
    let has = own.map_or("is missing".to_owned(), |own| format!("has the fingerprint {own}"));
    format!(
        "{has}, but the registries of this catalogue have the host key {shared}; copy host_key \
         (and host_key-cert.pub, if there is one) from the directory of another registry"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_says_which_key_is_needed() {
        assert!(refusal(None, "SHA256:b").starts_with("is missing, but the registries"));
        let text = refusal(Some("SHA256:a"), "SHA256:b");
        assert!(text.starts_with("has the fingerprint SHA256:a, but"), "{text}");
        assert!(text.contains("host key SHA256:b; copy host_key"), "{text}");
    }
}
