//! Tests hostile clients before their login: they send slow, broken and premature messages.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rig::Rig;
use russh::keys::{PrivateKeyWithHashAlg, load_secret_key};

use super::{LOGIN_TIME, PATIENCE, connect, noise, string};

#[test]
fn slow_handshakes_have_one_deadline() {
    let rig = Rig::start();
    let begun = Instant::now();
    let mut slow = Vec::new();
    // There are three slow clients. At first, one client sends nothing, another client sends an
    // identification and the beginning of a packet, and the third client sends one byte. After
    // that, each client sends one byte a second.
    for start in [&b""[..], b"SSH-2.0-slow\r\n\0\0\x40\0", b"S"] {
        let mut stream = TcpStream::connect(("127.0.0.1", rig.port())).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.write_all(start).unwrap();
        slow.push(Some(stream));
    }
    while slow.iter().any(Option::is_some) {
        assert!(begun.elapsed() < LOGIN_TIME + PATIENCE, "slow clients are still connected");
        for stream in &mut slow {
            let Some(open) = stream else { continue };
            let mut buffer = [0; 256];
            let ended = match open.read(&mut buffer) {
                Ok(n) => n == 0,
                Err(err) => err.kind() != std::io::ErrorKind::WouldBlock,
            };
            if ended || open.write_all(b"x").is_err() {
                assert!(begun.elapsed() + Duration::from_secs(2) > LOGIN_TIME, "ended too early");
                *stream = None;
            }
        }
        assert!(rig.ssh("op", "me", &["help"]).status.success(), "another client is not served");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A packet without encryption (RFC 4253, section 6).
fn plain(payload: &[u8]) -> Vec<u8> {
    let padding = 8 + (16 - (5 + payload.len() + 8) % 8) % 8;
    let length = u32::try_from(1 + payload.len() + padding).unwrap();
    let head = [&length.to_be_bytes()[..], &[u8::try_from(padding).unwrap()]].concat();
    [&head[..], payload, &vec![0; padding]].concat()
}

/// A KEXINIT message (RFC 4253, section 7.1) with these methods of key exchange and these ciphers.
fn kexinit(methods: &str, ciphers: &str) -> Vec<u8> {
    let mut payload = vec![20];
    payload.extend([7; 16]);
    let macs = "hmac-sha2-256";
    for list in [methods, "ssh-ed25519", ciphers, ciphers, macs, macs, "none", "none", "", ""] {
        payload.extend(string(list.as_bytes()));
    }
    payload.extend([0; 5]);
    payload
}

/// The kinds of the server's unencrypted packets, up to the disconnect.
fn kinds(mut said: &[u8]) -> Vec<u8> {
    let line = said.windows(2).position(|two| two == b"\r\n").map_or(said.len(), |at| at + 2);
    said = &said[line..];
    let mut kinds = Vec::new();
    while let Some((head, rest)) = said.split_first_chunk::<4>() {
        kinds.push(rest[1]);
        said = rest.get(u32::from_be_bytes(*head) as usize..).unwrap_or_default();
    }
    kinds
}

#[test]
fn broken_handshake_ends_only_its_connection() {
    let rig = Rig::start();
    let (curve, cipher) = ("curve25519-sha256", "aes256-gcm@openssh.com");
    let good = plain(&kexinit(curve, cipher));
    let zero = plain(&[&[30][..], &string(&[0; 32])].concat());
    let after = |packets: &[&[u8]]| [&good[..], &packets.concat()].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("noise", noise(64 << 10)),
        ("a packet of no bytes", vec![0; 512]),
        ("a packet of 4 GiB", [&[0xff; 4][..], &noise(512)].concat()),
        ("a packet of 40,000 bytes", [&40_000_u32.to_be_bytes()[..], &noise(50_000)].concat()),
        ("padding longer than its packet", b"\0\0\0\x0c\xff\x14aaaaaaaaaaaaaa".repeat(10)),
        ("a login that the client declares done", plain(&[52])),
        ("a channel without anything", plain(&[&[90][..], &string(b"session"), &[0; 12]].concat())),
        ("new keys without an exchange", plain(&[21])),
        ("lists that are cut off", plain(&kexinit(curve, cipher)[..40])),
        ("no method in common", plain(&kexinit("x", cipher))),
        ("no cipher in common", plain(&kexinit(curve, "none"))),
        ("lists of 30,000 bytes", plain(&kexinit(&"a,".repeat(15_000), cipher))),
        ("a point that is zero", after(&[&zero])),
        ("a point of no bytes", after(&[&plain(&[30, 0, 0, 0, 0])])),
        ("a login after half an exchange", after(&[&plain(&[50]), &plain(&[52])])),
        ("new keys after half an exchange", after(&[&plain(&[21]), &noise(1000)])),
    ];
    let before = rig.memory("VmRSS:");
    std::thread::scope(|scope| {
        for (what, bytes) in &cases {
            let address = ("127.0.0.1", rig.port());
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                let deadline = LOGIN_TIME + PATIENCE;
                stream.set_read_timeout(Some(deadline)).unwrap();
                // The server may disconnect before all bytes have arrived.
                let _ = stream.write_all(&[b"SSH-2.0-odd\r\n", &bytes[..]].concat());
                let mut said = Vec::new();
                let ended = stream.read_to_end(&mut said);
                let is_reset =
                    |err: &std::io::Error| err.kind() == std::io::ErrorKind::ConnectionReset;
                assert!(ended.as_ref().err().is_none_or(is_reset), "{what}: {ended:?}");
                // The server sends only KEXINIT and a disconnect message. It completes no key
                // exchange and grants no service.
                let kinds = kinds(&said);
                assert!(kinds.iter().all(|kind| matches!(kind, 1 | 20)), "{what}: {kinds:?}");
            });
        }
        assert!(rig.ssh("op", "me", &["help"]).status.success());
    });
    let after = rig.memory("VmHWM:");
    assert!(after < before + (32 << 10), "{before} KiB before, {after} at most");
    assert!(rig.ssh("op", "me", &["help"]).status.success());
    let log = rig.log();
    assert!(!log.iter().any(|line| line.contains("internal error")), "{log:#?}");
}

#[tokio::test]
async fn requests_before_login_are_refused() {
    let rig = Rig::start();
    let client = connect(&rig).await;
    let opened = tokio::time::timeout(Duration::from_secs(10), client.channel_open_session()).await;
    assert!(!matches!(opened, Ok(Ok(_))), "a channel opens without a login");
    // A key that is not in the key files gives no rights.
    let mut client = connect(&rig).await;
    let stranger = load_secret_key(rig.path("other"), None).unwrap();
    let stranger = PrivateKeyWithHashAlg::new(Arc::new(stranger), None);
    assert!(!client.authenticate_publickey("me", stranger).await.unwrap().success());
    let opened = tokio::time::timeout(Duration::from_secs(10), client.channel_open_session()).await;
    assert!(!matches!(opened, Ok(Ok(_))), "a channel opens for a stranger");
    assert!(rig.ssh("op", "me", &["help"]).status.success());
}
