//! Tests hostile clients before and after their login. No client can end the server, or make the
//! server use much memory. No client can make other clients wait, or write anything but text to a
//! log.

mod before_login;

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::rig::{Rig, both, wait_until};
use deploy_store::Digest;
use russh::client::{self, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use russh::{ChannelMsg, Disconnect};

/// Maximum time from the acceptance of a connection to the login; see `ssh/accept/connection.rs`.
const LOGIN_TIME: Duration = Duration::from_secs(20);
/// Maximum time that a quick step may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Maximum memory that a registry with little work may use, in KiB.
const MUCH_KIB: u64 = 128 << 10;

struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

async fn connect(rig: &Rig) -> Handle<Trusting> {
    let config = Arc::new(client::Config::default());
    client::connect(config, ("127.0.0.1", rig.port()), Trusting).await.unwrap()
}

async fn log_in(rig: &Rig, key: &str, user: &str) -> Handle<Trusting> {
    let mut client = connect(rig).await;
    let key = load_secret_key(rig.path(key), None).unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(client.authenticate_publickey(user, key).await.unwrap().success());
    client
}

#[tokio::test]
async fn channels_and_requests_are_limited() {
    let rig = Rig::start();
    let client = log_in(&rig, "op", "me").await;
    let mut open = Vec::new();
    for _ in 0..10 {
        open.push(client.channel_open_session().await.unwrap());
    }
    assert!(client.channel_open_session().await.is_err(), "an eleventh channel was opened");
    let channel = &mut open[0];
    channel.exec(true, "components").await.unwrap();
    assert!(wait(channel).await, "the first request was refused");
    for again in 0..100 {
        if channel.exec(true, "components").await.is_err() || !wait(channel).await {
            break;
        }
        assert!(again < 1, "one channel grants requests without end");
    }
    channel.request_subsystem(true, "sftp").await.ok();
    drop(open);
    // A client may open any number of channels one after another.
    let before = rig.memory("VmRSS:");
    for n in 0..1000 {
        let opened = loop {
            match client.channel_open_session().await {
                Ok(channel) => break channel,
                // The server frees a closed channel only after a short time.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        opened.close().await.unwrap();
        assert!(n > 0 || rig.memory("VmRSS:") < MUCH_KIB);
    }
    let after = rig.memory("VmRSS:");
    assert!(after < before + (16 << 10), "{before} KiB before, {after} after");
    assert!(rig.ssh("op", "me", &["help"]).status.success());
}

/// Whether a request was granted. If the channel has ended, the result is false.
async fn wait(channel: &mut russh::Channel<client::Msg>) -> bool {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return true,
            Some(ChannelMsg::Failure | ChannelMsg::Close) | None => return false,
            Some(_) => {}
        }
    }
}

#[tokio::test]
async fn terminal_with_thousands_of_modes_does_not_stop_the_server() {
    let rig = Rig::start();
    let client = log_in(&rig, "op", "me").await;
    let channel = client.channel_open_session().await.unwrap();
    let modes: Vec<(russh::Pty, u32)> = vec![(russh::Pty::ECHO, 1); 5_000];
    let _ = channel.request_pty(true, &"x".repeat(20_000), u32::MAX, 0, 0, 0, &modes).await;
    let _ = channel.request_shell(true).await;
    let _ = channel.window_change(0, 0, u32::MAX, u32::MAX).await;
    let _ = channel.data(&b"\x1b[999999999C\x1b[200~\xff\xfe\0help\r"[..]).await;
    let _ = client.disconnect(Disconnect::ByApplication, "", "").await;
    assert!(rig.ssh("op", "me", &["help"]).status.success());
}

/// An sftp session in which the test makes the packets.
struct Raw {
    ssh: Child,
    stdin: ChildStdin,
}

impl Raw {
    fn start(rig: &Rig, key: &str, user: &str) -> Self {
        let mut command = rig.client("ssh", key);
        command.args(["-s", &format!("{user}@127.0.0.1"), "sftp"]);
        let mut ssh = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = ssh.stdin.take().unwrap();
        stdin.write_all(b"\0\0\0\x05\x01\0\0\0\x03").unwrap();
        Self { ssh, stdin }
    }

    fn send(&mut self, kind: u8, id: u32, fields: &[&[u8]]) -> std::io::Result<()> {
        let body = fields.concat();
        let length = u32::try_from(5 + body.len()).unwrap();
        let head = [&length.to_be_bytes()[..], &[kind], &id.to_be_bytes()].concat();
        self.stdin.write_all(&[head, body].concat())
    }

    fn read_packet(&mut self) -> Vec<u8> {
        let out = self.ssh.stdout.as_mut().unwrap();
        let mut length = [0; 4];
        out.read_exact(&mut length).unwrap();
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        out.read_exact(&mut packet).unwrap();
        packet
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

fn string(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..bytes).map(|_| next()).collect()
}

#[test]
fn client_that_reads_nothing_costs_little_memory_and_delays_nobody() {
    let rig = Rig::start();
    let digest = rig.archive("large", &noise(8 << 20));
    rig.put("large");
    rig.ok(&format!("addver -name c -version v -hash {digest}"));
    let before = rig.memory("VmRSS:");
    let mut greedy: Vec<Raw> = (0..8).map(|_| Raw::start(&rig, "srv", "deploy-agent")).collect();
    for client in &mut greedy {
        let path = string(format!("/files/{digest}").as_bytes());
        client.send(3, 1, &[&path, &1_u32.to_be_bytes(), &0_u32.to_be_bytes()]).unwrap();
    }
    // Each client asks for half a gigabyte and reads nothing.
    let asking: Vec<_> = greedy
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for id in 2..2_000_u32 {
                    let (offset, length) = (0_u64.to_be_bytes(), (255_u32 << 10).to_be_bytes());
                    if client.send(5, id, &[&string(b"up0"), &offset, &length]).is_err() {
                        break;
                    }
                }
                client
            })
        })
        .collect();
    std::thread::sleep(Duration::from_secs(3));
    let begun = Instant::now();
    assert!(rig.ssh("op", "me", &["components"]).status.success());
    assert!(begun.elapsed() < PATIENCE, "another client had to wait {:?}", begun.elapsed());
    let peak = rig.memory("VmHWM:");
    assert!(peak < before + (96 << 10), "{before} KiB before, {peak} at most");
    let greedy: Vec<Raw> = asking.into_iter().map(|thread| thread.join().unwrap()).collect();
    drop(greedy);
    assert!(rig.ok("components").contains('c'));
}

#[test]
fn upload_slots_are_released_and_abandoned_uploads_removed() {
    let rig = Rig::start();
    let create = 0x1a_u32.to_be_bytes();
    let mut clients: Vec<Raw> = (0..5).map(|_| Raw::start(&rig, "op", "me")).collect();
    let (mut opened, mut refused) = (0, 0);
    for client in &mut clients {
        client.read_packet();
        for id in 0..66 {
            client.send(3, id, &[&string(b"x"), &create, &0_u32.to_be_bytes()]).unwrap();
            match client.read_packet()[0] {
                102 => opened += 1,
                101 => refused += 1,
                other => panic!("unexpected answer of kind {other}"),
            }
        }
        // Writes one byte. One file gets the byte at its start, and one file gets it at a large
        // offset, which leaves a hole. For a third file, the offsets are too large.
        let write = |client: &mut Raw, handle: &[u8], offset: u64| {
            let offset = offset.to_be_bytes();
            client.send(6, 7, &[&string(handle), &offset, &string(b"x")]).unwrap();
            client.read_packet()
        };
        write(client, b"up0", 0);
        write(client, b"up1", 1 << 30);
        for far in [1 << 40, 1 << 62, i64::MAX as u64, u64::MAX] {
            write(client, b"up2", far);
        }
    }
    // A quarter of all 256 uploads is reserved for other keys.
    assert_eq!(
        (opened, refused),
        (192, 5 * 66 - 192),
        "expected 64 uploads for each session, 192 for one key"
    );
    drop(clients);
    wait_until("the open uploads are removed", || rig.uploads().is_empty());
    rig.archive("a", b"fine");
    rig.put("a");
    assert_eq!(rig.uploads().len(), 1);
}

#[test]
fn sparse_upload_is_hashed_in_bounded_time() {
    let rig = Rig::start_with(&["-max-upload", "64M"]);
    let mut client = Raw::start(&rig, "op", "me");
    client.read_packet();
    let create = 0x1a_u32.to_be_bytes();
    client.send(3, 1, &[&string(b"x"), &create, &0_u32.to_be_bytes()]).unwrap();
    client.read_packet();
    for offset in [(64_u64 << 20) - 1, 5] {
        client.send(6, 2, &[&string(b"up0"), &offset.to_be_bytes(), &string(b"x")]).unwrap();
        client.read_packet();
    }
    let begun = Instant::now();
    client.send(4, 3, &[&string(b"up0")]).unwrap();
    let closed = client.read_packet();
    assert_eq!(closed[5..9], [0; 4], "{closed:?}");
    assert!(begun.elapsed() < PATIENCE);
    let mut bytes = vec![0; 64 << 20];
    (bytes[5], bytes[(64 << 20) - 1]) = (b'x', b'x');
    assert_eq!(rig.uploads(), [Digest::of(&bytes).to_string()]);
}

#[test]
fn transfers_survive_constant_rekeying() {
    let rig = Rig::start();
    let digest = rig.archive("large", &noise(6 << 20));
    fs::write(rig.path("batch"), "put large\n").unwrap();
    let sftp = |key: &str, user: &str| {
        let mut command = rig.client("sftp", key);
        command.args(["-q", "-o", "RekeyLimit=64K", "-b", "batch", &format!("{user}@127.0.0.1")]);
        command.output().unwrap()
    };
    let put = sftp("op", "me");
    assert!(put.status.success(), "{}", both(&put));
    rig.ok(&format!("addver -name c -version v -hash {digest}"));
    fs::write(rig.path("batch"), format!("get files/{digest} back\n")).unwrap();
    let get = sftp("srv", "deploy-agent");
    assert!(get.status.success(), "{}", both(&get));
    assert_eq!(rig.sha256("back"), digest);
}

#[tokio::test]
async fn client_text_cannot_control_a_terminal() {
    let mut rig = Rig::start();
    let odd = "\x1b]0;owned\x07\x1b[2J\u{202e}\r\n2026-01-01 00:00:00 login user=root";
    let mut stranger = connect(&rig).await;
    let key = PrivateKeyWithHashAlg::new(
        Arc::new(load_secret_key(rig.path("other"), None).unwrap()),
        None,
    );
    assert!(!stranger.authenticate_publickey(odd, key).await.unwrap().success());
    // A client that may log in sends odd text as its user name and in commands, labels, layers and
    // names. Stock clients do not send such text.
    let friend = log_in(&rig, "op", odd).await;
    let mut channel = friend.channel_open_session().await.unwrap();
    channel.exec(true, format!("showconf -name '{odd}'")).await.unwrap();
    let mut answer = Vec::new();
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. } = message {
            answer.extend_from_slice(&data);
        }
    }
    let mut texts = vec![String::from_utf8(answer).unwrap()];
    assert!(texts[0].contains("owned"), "{texts:?}");
    for line in [
        format!("addver -name '{odd}' -version v -hash {}", "0".repeat(64)),
        format!("addconf -name p -layer '{odd}:v'"),
        format!("history -name \"{odd}\""),
        format!("refs '{odd}'"),
        format!("'{odd}'"),
        format!("components '{odd}"),
        "audit".to_owned(),
        "audit -json".to_owned(),
        "configurations".to_owned(),
    ] {
        texts.push(both(&rig.ssh("op", "me", &[&line])));
    }
    let mut client = Raw::start(&rig, "op", "me");
    client.read_packet();
    let create = 0x1a_u32.to_be_bytes();
    client.send(3, 1, &[&string(odd.as_bytes()), &create, &0_u32.to_be_bytes()]).unwrap();
    client.read_packet();
    client.send(4, 2, &[&string(b"up0")]).unwrap();
    client.read_packet();
    drop(client);
    rig.wait_for_log("upload ok");
    let log = rig.log();
    assert!(log.len() > 5);
    assert!(rig.stop("-TERM").success());
    for text in &texts {
        assert!(!text.chars().any(drives), "the registry printed control characters: {text:?}");
    }
    for line in log {
        assert!(!line.chars().any(drives), "the log has control characters: {line:?}");
        // A forged log line would begin with this date.
        assert!(!line.starts_with("2026-01-01"), "the log has a forged line: {line:?}");
    }
}

/// Whether a character controls a terminal, or changes the direction of text.
fn drives(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}')
}

#[test]
fn login_stays_quick_with_a_huge_key_file() {
    let rig = Rig::idle();
    rig.make_key("many", "ed25519");
    let one = rig.public_key("many");
    let mut text = String::new();
    for n in 0..10_000 {
        write!(text, "from=\"10.0.0.{}\" {one}", n % 250).unwrap();
    }
    text.push_str(&"x".repeat(200_000));
    text.push('\n');
    text.push_str(&rig.public_key("op"));
    fs::write(rig.path("op.keys"), text).unwrap();
    let mut rig = rig;
    rig.run();
    let begun = Instant::now();
    assert!(rig.ssh("op", "me", &["help"]).status.success());
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert!(Command::new("kill").args(["-0", &rig.pid().to_string()]).status().unwrap().success());
}
