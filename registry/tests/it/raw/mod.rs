//! Defines an ssh client that can send any messages, even messages that the protocol forbids. The
//! client knows one key exchange (RFC 8731) and one cipher (RFC 5647), and logs in with an Ed25519
//! key.
#![allow(dead_code, reason = "each test file uses only a part of this module")]

pub mod sftp;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use russh::keys::load_secret_key;

use crate::rig::{PATIENCE, Rig};

/// Message numbers (RFC 4250, section 4.1).
pub const DISCONNECT: u8 = 1;
pub const KEXINIT: u8 = 20;
pub const REQUEST_SUCCESS: u8 = 81;
pub const REQUEST_FAILURE: u8 = 82;
pub const OPEN: u8 = 90;
pub const CONFIRMATION: u8 = 91;
pub const REFUSAL: u8 = 92;
pub const ADJUST: u8 = 93;
pub const DATA: u8 = 94;
pub const EXTENDED_DATA: u8 = 95;
pub const EOF: u8 = 96;
pub const CLOSE: u8 = 97;
pub const REQUEST: u8 = 98;

const TAG: usize = 16;

/// A string of the protocol: first its length, then its bytes.
pub fn string(text: &[u8]) -> Vec<u8> {
    [&number(text.len())[..], text].concat()
}

/// A number (`uint32`) of the protocol.
pub fn number(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap().to_be_bytes()
}

/// A KEXINIT message with the algorithms of this client.
pub fn kexinit() -> Vec<u8> {
    let (cipher, mac) = ("aes256-gcm@openssh.com", "hmac-sha2-256");
    let mut payload = vec![KEXINIT];
    payload.extend([7; 16]);
    for list in ["curve25519-sha256", "ssh-ed25519", cipher, cipher, mac, mac, "none", "none"] {
        payload.extend(string(list.as_bytes()));
    }
    payload.extend([0; 4 + 4 + 5]);
    payload
}

/// The key of one direction, and the nonce of its next packet.
struct Keys {
    key: LessSafeKey,
    nonce: [u8; 12],
}

impl Keys {
    fn new(derive: impl Fn(u8) -> Vec<u8>, nonce: u8, key: u8) -> Self {
        let nonce = derive(nonce)[..12].try_into().unwrap();
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &derive(key)).unwrap());
        Self { key, nonce }
    }

    fn next(&mut self) -> Nonce {
        let nonce = Nonce::assume_unique_for_key(self.nonce);
        let counter = u64::from_be_bytes(self.nonce[4..].try_into().unwrap());
        self.nonce[4..].copy_from_slice(&counter.wrapping_add(1).to_be_bytes());
        nonce
    }
}

/// A client that is logged in.
pub struct Raw {
    stream: TcpStream,
    to_server: Keys,
    from_server: Keys,
}

impl Raw {
    /// Logs in with one of the rig's keys.
    pub fn log_in(rig: &Rig, key: &str, user: &str) -> Self {
        Self::log_in_as(rig, key, user, "SSH-2.0-raw")
    }

    /// Like [`Raw::log_in`], with another ssh identification.
    pub fn log_in_as(rig: &Rig, key: &str, user: &str, hello: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", rig.port())).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let (session, to_server, from_server) = exchange(&mut stream, hello.as_bytes());
        let mut raw = Self { stream, to_server, from_server };
        raw.send(&[&[5][..], &string(b"ssh-userauth")].concat()).unwrap();
        raw.wait_for(6).expect("the server did not accept the service");
        let secret = load_secret_key(rig.path(key), None).unwrap();
        let secret =
            secret.key_data().ed25519().expect("the key is not an Ed25519 key").private.to_bytes();
        let pair = Ed25519KeyPair::from_seed_unchecked(&secret).unwrap();
        let algorithm = string(b"ssh-ed25519");
        let public = [&algorithm[..], &string(pair.public_key().as_ref())].concat();
        let mut request = vec![50];
        for text in [user, "ssh-connection", "publickey"] {
            request.extend(string(text.as_bytes()));
        }
        request.push(1);
        request.extend([&algorithm[..], &string(&public)].concat());
        let signature = pair.sign(&[&string(&session)[..], &request].concat());
        let signature = [&algorithm[..], &string(signature.as_ref())].concat();
        request.extend(string(&signature));
        raw.send(&request).unwrap();
        raw.wait_for(52).expect("the login failed");
        raw
    }

    /// Sends one message.
    pub fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let padding = 4 + (16 - (1 + payload.len() + 4) % 16) % 16;
        let mut packet = vec![u8::try_from(padding).unwrap()];
        packet.extend_from_slice(payload);
        packet.extend(vec![0; padding]);
        let length = number(packet.len());
        self.send_packet(length, packet)
    }

    /// Sends a packet with `length` as its length field. The real length may differ.
    pub fn send_packet(&mut self, length: [u8; 4], mut packet: Vec<u8>) -> io::Result<()> {
        let nonce = self.to_server.next();
        let aad = Aad::from(length);
        let tag = self.to_server.key.seal_in_place_separate_tag(nonce, aad, &mut packet).unwrap();
        self.stream.write_all(&[&length[..], &packet, tag.as_ref()].concat())
    }

    /// Sends bytes that are not a packet.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next message.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut packet = vec![0; u32::from_be_bytes(length) as usize + TAG];
        self.stream.read_exact(&mut packet)?;
        let nonce = self.from_server.next();
        self.from_server.key.open_in_place(nonce, Aad::from(length), &mut packet).unwrap();
        let end = packet.len() - TAG - usize::from(packet[0]);
        Ok(packet[1..end].to_vec())
    }

    /// The next message of this kind. `None` if the connection ends before such a message arrives.
    pub fn wait_for(&mut self, kind: u8) -> Option<Vec<u8>> {
        loop {
            match self.read() {
                Ok(message) if message[0] == kind => return Some(message),
                Ok(_) => {}
                Err(err) => {
                    let waits = io::ErrorKind::WouldBlock;
                    assert!(
                        err.kind() != waits,
                        "neither message {kind} nor the end of the connection arrived"
                    );
                    return None;
                }
            }
        }
    }

    /// Opens a channel for a session. Returns the server's number for the channel.
    pub fn open(&mut self, window: u32) -> Option<[u8; 4]> {
        self.send(&open(window)).ok()?;
        loop {
            match self.read().ok()? {
                message if message[0] == CONFIRMATION => return message[5..9].try_into().ok(),
                message if message[0] == REFUSAL => return None,
                _ => {}
            }
        }
    }

    /// Runs a command. Returns the command's exit code and its output on both streams.
    pub fn run(&mut self, line: &str) -> (u8, String) {
        let channel = self.open(1 << 21).expect("the server opened no channel");
        self.send(&request(channel, "exec", true, &string(line.as_bytes()))).unwrap();
        let (mut code, mut said) = (u8::MAX, Vec::new());
        loop {
            let message = self.read().unwrap();
            match message[0] {
                DATA => said.extend_from_slice(&message[9..]),
                EXTENDED_DATA => said.extend_from_slice(&message[13..]),
                REQUEST if message[9..].starts_with(b"exit-status") => {
                    code = *message.last().unwrap();
                }
                CLOSE => return (code, String::from_utf8(said).unwrap()),
                _ => {}
            }
        }
    }

    /// Whether the server still answers on this connection.
    pub fn answers(&mut self) -> bool {
        let alive = [&[80][..], &string(b"keepalive@openssh.com"), &[1]].concat();
        if self.send(&alive).is_err() {
            return false;
        }
        loop {
            match self.read() {
                Ok(message) if matches!(message[0], REQUEST_SUCCESS | REQUEST_FAILURE) => {
                    return true;
                }
                Ok(_) => {}
                Err(err) => {
                    assert!(
                        err.kind() != io::ErrorKind::WouldBlock,
                        "neither an answer nor the end of the connection arrived"
                    );
                    return false;
                }
            }
        }
    }

    /// Sets how long a write waits for room.
    pub fn write_timeout(&mut self, time: Duration) {
        self.stream.set_write_timeout(Some(time)).unwrap();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// A message that asks for a session channel.
pub fn open(window: u32) -> Vec<u8> {
    let sizes = [7_u32, window, 32_768].map(u32::to_be_bytes).concat();
    [&[OPEN][..], &string(b"session"), &sizes].concat()
}

/// A message with a request on a channel.
pub fn request(channel: [u8; 4], name: &str, wants_reply: bool, fields: &[u8]) -> Vec<u8> {
    let name = string(name.as_bytes());
    [&[REQUEST][..], &channel, &name, &[u8::from(wants_reply)], fields].concat()
}

/// A message with data on a channel.
pub fn data(channel: [u8; 4], bytes: &[u8]) -> Vec<u8> {
    [&[DATA][..], &channel, &string(bytes)].concat()
}

/// A packet without encryption (RFC 4253, section 6).
fn plain(payload: &[u8]) -> Vec<u8> {
    let padding = 4 + (8 - (5 + payload.len() + 4) % 8) % 8;
    let head = [&number(1 + payload.len() + padding)[..], &[u8::try_from(padding).unwrap()]];
    [&head.concat()[..], payload, &vec![0; padding]].concat()
}

fn read_plain(stream: &mut TcpStream) -> Vec<u8> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut packet = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut packet).unwrap();
    packet[1..packet.len() - usize::from(packet[0])].to_vec()
}

fn read_line(stream: &mut TcpStream) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        line.extend(byte);
    }
    line.truncate(line.len() - 2);
    line
}

/// A large number (`mpint`) in the form of RFC 4251.
fn mpint(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len());
    let bytes = &bytes[start..];
    let sign: &[u8] = if bytes.first().is_some_and(|&byte| byte >= 0x80) { &[0] } else { &[] };
    string(&[sign, bytes].concat())
}

/// Sends the client's identification, and agrees on keys with the server. Accepts any host key.
/// Returns the session's id and the keys of both directions.
fn exchange(stream: &mut TcpStream, hello: &[u8]) -> (Vec<u8>, Keys, Keys) {
    let ours = kexinit();
    let random = SystemRandom::new();
    let secret = EphemeralPrivateKey::generate(&X25519, &random).unwrap();
    let point = secret.compute_public_key().unwrap();
    let init = [&[30][..], &string(point.as_ref())].concat();
    stream.write_all(&[hello, b"\r\n", &plain(&ours)].concat()).unwrap();
    let their_hello = read_line(stream);
    let theirs = read_plain(stream);
    stream.write_all(&plain(&init)).unwrap();
    let reply = read_plain(stream);
    assert_eq!((theirs[0], reply[0]), (KEXINIT, 31));
    let mut rest = &reply[1..];
    let mut field = || {
        let length = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let (field, after) = rest[4..].split_at(length);
        rest = after;
        field.to_vec()
    };
    let (host_key, their_point) = (field(), field());
    let peer = UnparsedPublicKey::new(&X25519, &their_point[..]);
    let shared = agree_ephemeral(secret, peer, (), |shared| Ok(mpint(shared))).unwrap();
    let mut hashed = Vec::new();
    for part in [hello, &their_hello[..], &ours, &theirs, &host_key, point.as_ref(), &their_point] {
        hashed.extend(string(part));
    }
    hashed.extend_from_slice(&shared);
    let session = digest(&SHA256, &hashed).as_ref().to_vec();
    let derive = |letter: u8| {
        let text = [&shared[..], &session, &[letter], &session].concat();
        digest(&SHA256, &text).as_ref().to_vec()
    };
    stream.write_all(&plain(&[21])).unwrap();
    assert_eq!(read_plain(stream), [21]);
    let (to_server, from_server) = (Keys::new(derive, b'A', b'C'), Keys::new(derive, b'B', b'D'));
    (session, to_server, from_server)
}
