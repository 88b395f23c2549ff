//! Signs logins with the certificate of an RSA key (RFC 8332). If the key came from a file, the ssh
//! library would use the algorithm's old name. The old name stands for SHA-1, which servers refuse.

use russh::keys::agent::AgentIdentity;
use russh::keys::signature::Signer as _;
use russh::keys::ssh_key::Signature;
use russh::keys::ssh_key::private::RsaKeypair;
use russh::keys::{Error, HashAlg};
use russh::{AgentAuthError, Signer};

/// Signs with the private key of a certificate.
pub(super) struct RsaSigner<'a>(pub &'a RsaKeypair);

impl Signer for RsaSigner<'_> {
    type Error = AgentAuthError;

    /// Returns the data to sign, followed by the signature.
    async fn auth_sign(
        &mut self,
        _key: &AgentIdentity,
        hash: Option<HashAlg>,
        mut data: Vec<u8>,
    ) -> Result<Vec<u8>, AgentAuthError> {
        let hash = hash.unwrap_or(HashAlg::Sha512);
        let signed: Signature = (self.0, Some(hash)).try_sign(&data).map_err(unsigned)?;
        let signature = Vec::<u8>::try_from(signed).map_err(Error::from)?;
        let length = u32::try_from(signature.len()).map_err(|_| Error::CouldNotReadKey)?;
        data.extend(length.to_be_bytes());
        data.extend(signature);
        Ok(data)
    }
}

fn unsigned(err: russh::keys::signature::Error) -> Error {
    Error::from(russh::keys::ssh_key::Error::from(err))
}
