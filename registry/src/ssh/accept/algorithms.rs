//! Defines the algorithms, sizes and times of the ssh protocol that the server uses.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};

use crate::ssh::auth::host_key::HostKey;

/// Maximum number of refused attempts to log in. Most clients first ask only for the login methods,
/// and this request counts, too.
pub const MAX_AUTH_ATTEMPTS: usize = 1 + 6;
/// A refused login takes at least this long, whatever the reason. The client's first request for
/// the login methods gets its answer immediately.
const REFUSAL_TIME: Duration = Duration::from_millis(50);
/// A peer that neither reads nor answers for this long counts as disconnected.
const STALLED: Duration = Duration::from_secs(180);
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVES_UNANSWERED: usize = 4;
/// A client may send this many bytes on a channel before the server confirms their receipt.
const WINDOW: u32 = 2 << 20;
/// Maximum length of a packet of channel data, in bytes. The ssh library allows no longer packets.
const MAX_PACKET: u32 = 65_535;
/// At most this many packets may wait for the task of a channel. If more packets arrive, the server
/// stops reading the connection.
const CHANNEL_BUFFER: usize = 128;
/// At most this many messages of channels may wait to be encrypted.
const EVENT_BUFFER: usize = 32;

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// Ciphers that processors accelerate.
const FAST: &[cipher::Name] = &[cipher::AES_128_GCM, cipher::AES_256_GCM];

const CIPHERS: &[cipher::Name] =
    &[cipher::CHACHA20_POLY1305, cipher::AES_256_CTR, cipher::AES_192_CTR, cipher::AES_128_CTR];

const MACS: &[mac::Name] =
    &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];

/// The algorithms for host keys and for users' keys. RSA with SHA-1 is not allowed.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::SkEd25519,
    Algorithm::SkEcdsaSha2NistP256,
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// The identification of the server, with the line end.
pub const ID: &str = concat!("SSH-2.0-deploy-registry_", env!("CARGO_PKG_VERSION"), "\r\n");

/// The configurations of the ssh library: one for clients with a fast cipher, and one for all other
/// clients.
#[derive(Debug)]
pub struct Offers {
    fast: Arc<Config>,
    all: Arc<Config>,
}

impl Offers {
    /// The configurations for a server with `host_key`.
    pub fn new(host_key: &HostKey) -> Self {
        Self { fast: Arc::new(config(host_key, FAST)), all: Arc::new(config(host_key, CIPHERS)) }
    }

    /// The configuration for a client that supports `ciphers`.
    pub fn to(&self, ciphers: &[String]) -> Arc<Config> {
        let has_fast = FAST.iter().any(|fast| ciphers.iter().any(|name| name == fast.as_ref()));
        Arc::clone(if has_fast { &self.fast } else { &self.all })
    }
}

fn config(host_key: &HostKey, ciphers: &'static [cipher::Name]) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed(ID.trim_ascii_end())),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REFUSAL_TIME,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key.key.clone()],
        certificates: host_key.certificate.clone().into_iter().collect(),
        window_size: WINDOW,
        maximum_packet_size: MAX_PACKET,
        channel_buffer_size: CHANNEL_BUFFER,
        event_buffer_size: EVENT_BUFFER,
        max_auth_attempts: MAX_AUTH_ATTEMPTS,
        inactivity_timeout: Some(STALLED),
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: KEEPALIVES_UNANSWERED,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Borrowed(KEYS),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(ciphers),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        ..Config::default()
    }
}
