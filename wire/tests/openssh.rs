//! Tests the client with OpenSSH's server.

mod sshd;

use std::fs;

use deploy_wire::client::{Client, ClientError, Exec, HostKey, Keys};
use deploy_wire::exit;
use sshd::{Sshd, make_key, sign, user};
use tokio::sync::mpsc;

const INTERNAL: &str = "internal-sftp";
/// An sftp server that announces no limits. As with the Go tool's server, the client then sends
/// requests of at most 32 KiB.
const OLD: &str = "internal-sftp -P limits";

/// Pseudo-random bytes. Every piece is different, so a test notices a missing or misplaced piece.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn put(client: &Client, path: &str, bytes: &[u8], chunk: usize) -> Result<u64, ClientError> {
    let (sender, chunks) = mpsc::channel(4);
    let pieces: Vec<Vec<u8>> = bytes.chunks(chunk).map(<[u8]>::to_vec).collect();
    tokio::spawn(async move {
        for piece in pieces {
            if sender.send(piece).await.is_err() {
                break;
            }
        }
    });
    let mut told = 0;
    client.put(path, None, chunks, |taken| told = taken).await.map(|()| told)
}

async fn get(client: &Client, path: &str, offset: u64) -> Result<Vec<u8>, ClientError> {
    let mut bytes = Vec::new();
    client
        .get(path, offset, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })
        .await
        .map(|()| bytes)
}

#[tokio::test]
async fn command_gets_all_its_input() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let client = sshd.client().await;
    // The input is larger than the windows of both sides.
    let input = noise(40 << 20);
    let answer = client.exec_with_input("cat; echo end >&2; exit 3", &input).await.unwrap();
    assert!(answer.stdout == input);
    assert_eq!((&answer.stderr[..], answer.code), (&b"end\n"[..], 3));
    let answer = client.exec_with_input("cat", b"").await.unwrap();
    assert_eq!(answer, Exec::default());
    let answer = client.exec_with_input("echo no; exit 7", &input).await.unwrap();
    assert_eq!((&answer.stdout[..], answer.code), (&b"no\n"[..], 7));
}

#[tokio::test]
async fn command_returns_output_and_exit_code() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let client = sshd.client().await;
    let answer = client.exec("echo out; echo err >&2; exit 6").await.unwrap();
    let expected = Exec { stdout: b"out\n".to_vec(), stderr: b"err\n".to_vec(), code: 6 };
    assert_eq!(answer, expected);
    let answer = client.exec("head -c 3000000 /dev/zero").await.unwrap();
    assert_eq!((answer.stdout.len(), answer.code), (3_000_000, 0));
    let killed = client.exec("kill -9 $$").await.unwrap_err();
    assert!(matches!(killed, ClientError::Lost(_)), "{killed}");
    assert!(client.is_alive());
    client.disconnect().await;
    assert!(client.exec("true").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_can_be_uploaded_and_downloaded() {
    for subsystem in [INTERNAL, OLD] {
        let Some(sshd) = Sshd::start(subsystem) else { return };
        let client = sshd.client().await;
        let path = sshd.remote("file");
        let bytes = noise((6 << 20) + 12_345);
        for chunk in [256 << 10, 1000 << 10, 255 << 10] {
            assert_eq!(put(&client, &path, &bytes, chunk).await.unwrap(), bytes.len() as u64);
            assert!(fs::read(&path).unwrap() == bytes, "{subsystem}: uploaded bytes differ");
        }
        for offset in [0, 1, 32 << 10, 6 << 20, bytes.len() - 1, bytes.len(), bytes.len() + 9] {
            let rest = get(&client, &path, offset as u64).await.unwrap();
            assert!(rest == bytes.get(offset..).unwrap_or_default(), "{subsystem}: {offset}");
        }
        put(&client, &path, b"", 1).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
        assert_eq!(get(&client, &path, 0).await.unwrap(), b"");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_share_a_connection() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let client = sshd.client().await;
    let bytes = noise(9 << 20);
    fs::write(sshd.path("file"), &bytes).unwrap();
    let path = sshd.remote("file");
    let offsets = [0, 1 << 20, 2 << 20, 3 << 20];
    let gets = offsets.map(|offset| get(&client, &path, offset as u64));
    for (offset, got) in offsets.iter().zip(futures_util::future::join_all(gets).await) {
        assert!(got.unwrap() == bytes[*offset..], "from {offset}");
    }
}

#[tokio::test]
async fn refused_files_do_not_end_the_session() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let client = sshd.client().await;
    let refused = put(&client, &sshd.remote("no/such/dir"), b"x", 1).await.unwrap_err();
    assert_eq!(refused.to_string(), "upload failure: No such file");
    let refused = get(&client, &sshd.remote("none"), 0).await.unwrap_err();
    assert!(refused.to_string().ends_with("none: No such file"), "{refused}");
    fs::write(sshd.path("file"), noise(3 << 20)).unwrap();
    let full = || ClientError::Setup("full".to_owned());
    let stopped = client.get(&sshd.remote("file"), 0, |_| Err(full())).await.unwrap_err();
    assert_eq!(stopped.to_string(), "full");
    assert!(client.is_alive());
    assert_eq!(get(&client, &sshd.remote("file"), 0).await.unwrap().len(), 3 << 20);
}

#[tokio::test]
async fn small_files_are_read_whole_and_larger_files_are_refused() {
    for (subsystem, answer) in [(INTERNAL, 255 << 10), (OLD, 32 << 10)] {
        let Some(sshd) = Sshd::start(subsystem) else { return };
        let client = sshd.client().await;
        let path = sshd.remote("small");
        assert_eq!(client.read_small(&path, 10).await.unwrap(), None);
        for length in [0, 1, 100, answer - 1, answer, answer + 1, 3 * answer] {
            let bytes = noise(length);
            fs::write(&path, &bytes).unwrap();
            let read = client.read_small(&path, length).await.unwrap();
            assert!(read == Some(bytes), "{subsystem}: {length}");
            if let Some(limit) = length.checked_sub(1) {
                let err = client.read_small(&path, limit).await.unwrap_err();
                assert!(matches!(err, ClientError::TooLarge { .. }), "{length}: {err}");
            }
        }
    }
}

#[tokio::test]
async fn server_without_sftp_is_reported() {
    let Some(sshd) = Sshd::start("none") else { return };
    let client = sshd.client().await;
    // The subsystem's program is missing, so the channel ends as soon as it is open.
    let err = client.read_small("/x", 10).await.unwrap_err();
    assert!(matches!(err, ClientError::Lost(_) | ClientError::Refused { .. }), "{err}");
    assert_eq!(client.exec("true").await.unwrap().code, 0);
}

#[tokio::test]
async fn host_key_fingerprints_are_checked() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let found = sshd.fingerprint();
    let mut connect = sshd.connect();
    connect.host = HostKey::Fingerprint(found.replace("SHA256", "sha256"));
    Client::connect(&connect).await.unwrap();
    for wrong in ["SHA256:AAAA", "", "MD5:x", &found.replace("SHA256", "SHA512"), &found[7..]] {
        let host = HostKey::Fingerprint(wrong.to_owned());
        let err = sshd.refusal(|connect| connect.host = host).await;
        let text = format!("ssh: handshake failed: host key fingerprint mismatch: {found}; ");
        assert!(err.to_string().starts_with(&text), "{wrong}: {err}");
    }
}

#[tokio::test]
async fn host_certificates_are_checked() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let file = sshd.path("known_hosts");
    let authority = |names: &str, key: &str| {
        let key = fs::read_to_string(sshd.path(key)).unwrap();
        fs::write(&file, format!("@cert-authority {names} {key}")).unwrap();
        HostKey::KnownHosts(file.clone())
    };
    let mut connect = sshd.connect();
    for names in ["127.0.0.1", "*", &format!("[127.0.0.1]:{}", &sshd.addr()[10..])] {
        connect.host = authority(names, "ca.pub");
        Client::connect(&connect).await.unwrap();
    }
    let host = authority("*", "stranger.pub");
    let err = sshd.refusal(|connect| connect.host = host).await.to_string();
    assert!(err.contains("the server's certificate is signed by another authority"), "{err}");
    let host = authority("elsewhere", "ca.pub");
    let err = sshd.refusal(|connect| connect.host = host).await;
    assert!(matches!(err, ClientError::HostUnknown { .. }), "{err}");

    // The key alone gives no access, but the certificate next to the key does.
    let keys = Keys::File(sshd.path("stranger"));
    let err = sshd.refusal(|connect| connect.keys = keys.clone()).await;
    assert!(matches!(err, ClientError::Denied { .. }), "{err}");
    sign(sshd.path("").as_path(), &["-n", "nobody-here", "stranger.pub"]);
    let err = sshd.refusal(|connect| connect.keys = keys.clone()).await.to_string();
    assert!(err.contains("stranger-cert.pub (refused)"), "{err}");
    sign(sshd.path("").as_path(), &["-n", &user(), "stranger.pub"]);
    connect = sshd.connect();
    connect.keys = keys;
    assert_eq!(Client::connect(&connect).await.unwrap().exec("exit 3").await.unwrap().code, 3);
}

#[tokio::test]
async fn known_hosts_files_are_checked() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let file = sshd.path("known_hosts");
    let with = |lines: &[String]| {
        fs::write(&file, lines.concat()).unwrap();
        HostKey::KnownHosts(file.clone())
    };
    let (right, ecdsa) = (sshd.known_line("host.pub"), sshd.known_line("host_ecdsa.pub"));
    let wrong = sshd.known_line("stranger.pub");
    let mut connect = sshd.connect();
    // The check works even if the server prefers another of its keys.
    for lines in [vec![right.clone()], vec![ecdsa.clone()], vec![wrong.clone(), right.clone()]] {
        connect.host = with(&lines);
        Client::connect(&connect).await.unwrap();
    }
    let hashed = with(&[ecdsa]);
    let hash = std::process::Command::new("ssh-keygen").arg("-Hf").arg(&file).output().unwrap();
    assert!(hash.status.success() && fs::read_to_string(&file).unwrap().starts_with("|1|"));
    connect.host = hashed;
    Client::connect(&connect).await.unwrap();

    let port = sshd.addr().split_once(':').unwrap().1.to_owned();
    let key = right.split_once(' ').unwrap().1;
    for line in [
        right.replace(' ', "\t"),
        format!("[127.0.0.*]:{port},other {key}"),
        format!("[*]:*,![127.0.0.2]:{port} {key}"),
        format!("127.0.0.1 {key}"),
        format!("127.0.0.1 ssh-ed25519 garbage\n{right}"),
    ] {
        connect.host = with(&[line]);
        Client::connect(&connect).await.unwrap();
    }
    for line in [format!("[*]:*,![127.0.0.1]:{port} {key}"), format!("[127.0.0.1]:1 {key}")] {
        let host = with(&[line]);
        let err = sshd.refusal(|connect| connect.host = host).await;
        assert!(matches!(err, ClientError::HostUnknown { .. }), "{err}");
    }
    let host = with(&[right.clone(), format!("@revoked\t*\t{key}")]);
    let err = sshd.refusal(|connect| connect.host = host).await;
    assert!(err.to_string().contains("revoked"), "{err}");

    let host = with(&[wrong]);
    let err = sshd.refusal(|connect| connect.host = host).await;
    assert!(matches!(err, ClientError::HostKeyMismatch { .. }), "{err}");
    let host = with(&["# nothing\n".to_owned()]);
    let err = sshd.refusal(|connect| connect.host = host).await.to_string();
    assert!(err.contains(&format!("host key of {} is not in", sshd.addr())), "{err}");
    assert!(err.contains(&sshd.fingerprint()), "{err}");
    let host = HostKey::KnownHosts(sshd.path("absent"));
    let err = sshd.refusal(|connect| connect.host = host).await.to_string();
    assert!(err.starts_with("open ") && err.contains("No such file or directory"), "{err}");
}

#[tokio::test]
async fn key_files_are_read_and_unusable_files_are_reported() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    make_key(&sshd.path(""), "locked", &["-t", "ed25519", "-N", "secret"]);
    fs::write(sshd.path("text"), "no key\n").unwrap();

    let mut connect = sshd.connect();
    connect.keys = Keys::File(sshd.path("id_rsa"));
    Client::connect(&connect).await.unwrap();

    let key = |name: &str| Keys::File(sshd.path(name));
    let err = sshd.refusal(|connect| connect.keys = key("stranger")).await;
    assert!(matches!(err, ClientError::Denied { .. }), "{err}");
    assert_eq!(err.code(), exit::DENIED);
    for (name, why) in [
        ("locked", "it is encrypted: give a key without"),
        ("text", ""),
        ("absent", "there is no such file: name another file with -key, or make a key"),
    ] {
        let err = sshd.refusal(|connect| connect.keys = key(name)).await;
        assert!(matches!(err, ClientError::KeyFile { .. }), "{err}");
        let err = err.to_string();
        let start = format!("failed to read/parse key file {:?}: ", sshd.remote(name));
        assert!(err.starts_with(&start) && err[start.len()..].starts_with(why), "{err}");
    }
}

#[tokio::test]
async fn unreachable_server_is_reported() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let mut connect = sshd.connect();
    drop(sshd);
    // The key file was removed together with the server.
    connect.keys = Keys::Auto;
    let err = Client::connect(&connect).await.unwrap_err();
    assert!(matches!(err, ClientError::Unreachable { .. }), "{err}");
    assert_eq!(err.code(), exit::UNREACHABLE);
    connect.addr = "localhost".to_owned();
    let err = Client::connect(&connect).await.unwrap_err().to_string();
    assert_eq!(err, "address \"localhost\" has no port: give host:port, like localhost:2022");
}

#[tokio::test]
async fn lost_server_is_reported() {
    let Some(sshd) = Sshd::start(INTERNAL) else { return };
    let client = sshd.client().await;
    fs::write(sshd.path("file"), noise(64 << 20)).unwrap();
    let pid = client.exec("echo $PPID").await.unwrap();
    let pid = String::from_utf8(pid.stdout).unwrap();
    let mut killed = false;
    let result = client
        .get(&sshd.remote("file"), 0, |_| {
            if !killed {
                killed = true;
                let kill = std::process::Command::new("kill").args(["-9", pid.trim()]).status();
                assert!(kill.unwrap().success());
            }
            Ok(())
        })
        .await;
    let err = result.unwrap_err();
    assert!(matches!(err, ClientError::Lost(_)), "{err}");
    assert!(!client.is_alive());
    assert_eq!(err.code(), exit::UNREACHABLE);
}
