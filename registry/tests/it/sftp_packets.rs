//! Sends single sftp packets through `ssh -s`. Tests which files agents can read and which requests
//! the registry refuses.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use crate::rig::{Rig, both};
use russh_sftp::client::RawSftpSession;
use russh_sftp::client::error::Error;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};

/// An sftp client over stock ssh.
pub struct Client {
    sftp: RawSftpSession,
    _ssh: tokio::process::Child,
}

impl Client {
    pub async fn connect(rig: &Rig, key: &str, user: &str) -> Self {
        let mut command: tokio::process::Command = rig.client("ssh", key).into();
        command.args(["-s", &format!("{user}@127.0.0.1"), "sftp"]).kill_on_drop(true);
        let mut ssh = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stream = tokio::io::join(ssh.stdout.take().unwrap(), ssh.stdin.take().unwrap());
        let sftp = RawSftpSession::new(stream);
        sftp.set_timeout(Duration::from_secs(30).as_secs());
        sftp.init().await.unwrap();
        Self { sftp, _ssh: ssh }
    }

    pub async fn open(&self, path: &str) -> Result<String, StatusCode> {
        let opened = self.sftp.open(path, OpenFlags::READ, FileAttributes::empty()).await;
        opened.map(|handle| handle.handle).map_err(code)
    }

    async fn create(&self, path: &str) -> Result<String, StatusCode> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let opened = self.sftp.open(path, flags, FileAttributes::empty()).await;
        opened.map(|handle| handle.handle).map_err(code)
    }

    /// Begins an upload, and announces its size. Returns the handle, or the server's error.
    async fn announce(&self, path: &str, size: u64) -> Result<String, String> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
        let attributes = FileAttributes { size: Some(size), ..FileAttributes::empty() };
        let opened = self.sftp.open(path, flags, attributes).await;
        opened.map(|handle| handle.handle).map_err(|err| err.to_string())
    }

    async fn read(&self, handle: &str, offset: u64, length: u32) -> Result<Vec<u8>, StatusCode> {
        self.sftp.read(handle, offset, length).await.map(|data| data.data).map_err(code)
    }

    async fn write(&self, handle: &str, offset: u64, data: &[u8]) -> Result<(), StatusCode> {
        self.sftp.write(handle, offset, data.to_vec()).await.map(drop).map_err(code)
    }

    async fn close(&self, handle: &str) -> Result<(), StatusCode> {
        self.sftp.close(handle).await.map(drop).map_err(code)
    }

    async fn list(&self, path: &str) -> Vec<(String, u64, String)> {
        let handle = self.sftp.opendir(path).await.unwrap().handle;
        let mut names = Vec::new();
        while let Ok(page) = self.sftp.readdir(&handle).await {
            names.extend(
                page.files
                    .into_iter()
                    .map(|file| (file.filename, file.attrs.size.unwrap(), file.longname)),
            );
        }
        self.close(&handle).await.unwrap();
        names
    }
}

fn code(err: Error) -> StatusCode {
    match err {
        Error::Status(status) => status.status_code,
        other => panic!("{other}"),
    }
}

/// Returns a registry with a configuration `p` of one blob, and the blob's digest and bytes.
fn with_configuration() -> (Rig, String, Vec<u8>) {
    let rig = Rig::start();
    let digest = rig.archive("a.tar.gz", b"some bytes");
    rig.put("a.tar.gz");
    rig.ok(&format!("addver -name c -version v -hash {digest}"));
    rig.ok("addconf -name p -layer c:v");
    let bytes = fs::read(rig.path("a.tar.gz")).unwrap();
    (rig, digest, bytes)
}

#[tokio::test]
async fn open_files_per_key_are_limited() {
    let mut rig = Rig::idle();
    rig.run_under(&["prlimit", "--nofile=256:256"]);
    let digest = rig.archive("a.tar.gz", b"some bytes");
    rig.put("a.tar.gz");
    rig.ok(&format!("addver -name c -version v -hash {digest}"));
    rig.ok("addconf -name p -layer c:v");
    let greedy = Client::connect(&rig, "srv", "deploy-agent").await;
    let path = format!("files/{digest}");
    let mut open = Vec::new();
    let refused = loop {
        match greedy.open(&path).await {
            Ok(handle) => open.push(handle),
            Err(code) => break code,
        }
    };
    // For reading, all clients together may open half of the files that the process may open. One
    // key may open a quarter of this half.
    assert_eq!((open.len(), refused), (32, StatusCode::Failure));
    // Several agents may share a key. An agent that reads many files must not block the other
    // agents.
    let configuration = greedy.open("configs/p.json").await.unwrap();
    assert!(greedy.read(&configuration, 0, 100).await.unwrap().starts_with(b"{"));
    let mut lists = Vec::new();
    while let Ok(list) = greedy.sftp.opendir("files").await {
        lists.push(list.handle);
    }
    assert_eq!(lists.len(), 16);
    let other = Client::connect(&rig, "op", "me").await;
    other.open(&path).await.unwrap();
    assert_eq!(other.list("/files").await.len(), 1);
    for handle in open.iter().chain(&lists) {
        greedy.close(handle).await.unwrap();
    }
    greedy.open(&path).await.unwrap();
}

#[tokio::test]
async fn reads_are_exact_in_any_order() {
    let (rig, digest, bytes) = with_configuration();
    let client = Client::connect(&rig, "srv", "deploy-agent").await;
    let handle = client.open(&format!("files/{digest}")).await.unwrap();
    let size = bytes.len() as u64;
    assert_eq!(client.read(&handle, 0, u32::MAX).await.unwrap(), bytes);
    assert_eq!(client.read(&handle, size - 5, 100).await.unwrap(), bytes[bytes.len() - 5..]);
    assert_eq!(client.read(&handle, 3, 4).await.unwrap(), bytes[3..7]);
    assert_eq!(client.read(&handle, 0, 0).await, Err(StatusCode::Eof));
    for offset in [size, size + 1, 1 << 62, u64::MAX] {
        assert_eq!(client.read(&handle, offset, 10).await, Err(StatusCode::Eof), "{offset}");
    }
    client.close(&handle).await.unwrap();
    assert_eq!(client.read(&handle, 0, 1).await, Err(StatusCode::Failure));
    assert_eq!(client.close(&handle).await, Err(StatusCode::Failure));

    let json = client.open("/configs/./../configs/p.json").await.unwrap();
    let text = client.read(&json, 0, 100_000).await.unwrap();
    assert!(text.starts_with(b"{\n\t\"Name\": \"p\",\n") && text.ends_with(b"}\n"));
    assert_eq!(client.read(&json, text.len() as u64, 1).await, Err(StatusCode::Eof));
    assert_eq!(
        client.sftp.stat("configs/p.json").await.unwrap().attrs.size,
        Some(text.len() as u64)
    );
}

#[tokio::test]
async fn missing_files_and_changes_are_refused() {
    let (rig, digest, _) = with_configuration();
    let client = Client::connect(&rig, "srv", "deploy-agent").await;
    let unknown = "0".repeat(64);
    for path in [
        "configs/nope.json",
        "configs/p",
        "configs/p.json/x",
        "configs/*.json",
        "host_key",
        "files/../host_key",
        "files/../uploads/x",
        "files/..%2fhost_key",
        "/etc/passwd",
        &format!("files/{unknown}"),
        &format!("files/{}", digest.to_uppercase()),
        &format!("files/{}", "x".repeat(60_000)),
    ] {
        assert_eq!(client.open(path).await, Err(StatusCode::NoSuchFile), "{path:?}");
        let stat = client.sftp.stat(path).await.map(drop).map_err(code);
        assert_eq!(stat, Err(StatusCode::NoSuchFile), "{path:?}");
    }
    for path in ["configs/p.json", "new", &format!("files/{digest}")] {
        assert_eq!(client.create(path).await, Err(StatusCode::PermissionDenied), "{path:?}");
        let removed = client.sftp.remove(path).await.map(drop).map_err(code);
        assert_eq!(removed, Err(StatusCode::PermissionDenied));
        let renamed = client.sftp.rename(path, "x").await.map(drop).map_err(code);
        assert_eq!(renamed, Err(StatusCode::PermissionDenied));
        let linked = client.sftp.symlink(path, "x").await.map(drop).map_err(code);
        assert_eq!(linked, Err(StatusCode::PermissionDenied));
    }
    let handle = client.open("configs/p.json").await.unwrap();
    assert_eq!(client.write(&handle, 0, b"x").await, Err(StatusCode::PermissionDenied));
}

#[tokio::test]
async fn listings_are_paged_and_handles_limited() {
    let (rig, digest, bytes) = with_configuration();
    let lines: Vec<String> = (0..150).map(|n| format!("addconf -name p{n} -layer c:v\n")).collect();
    let output = rig.ssh_with_input(&["-T"], lines.concat().as_bytes());
    assert!(output.status.success(), "{}", both(&output));
    let client = Client::connect(&rig, "srv", "deploy-agent").await;
    let root: Vec<String> = client.list("/").await.into_iter().map(|(name, ..)| name).collect();
    assert_eq!(root, ["configs", "files"]);
    let configurations = client.list("configs/").await;
    assert_eq!(configurations.len(), 151);
    let (_, _, line) = configurations.iter().find(|(name, ..)| name == "p7.json").unwrap();
    assert!(line.starts_with("-rw-r--r-- ") && line.ends_with(" p7.json"), "{line}");
    let files = client.list("/files").await;
    assert_eq!(files.len(), 1);
    assert_eq!((&files[0].0, files[0].1), (&digest, bytes.len() as u64));

    for _ in 0..64 {
        client.open("configs/p.json").await.unwrap();
    }
    assert_eq!(client.open("configs/p.json").await, Err(StatusCode::Failure));
    let other = Client::connect(&rig, "srv", "deploy-agent").await;
    other.open("configs/p.json").await.unwrap();
}

#[tokio::test]
async fn later_writes_win_in_an_upload() {
    let rig = Rig::start();
    let client = Client::connect(&rig, "op", "me").await;
    let one = client.create("../../etc/x").await.unwrap();
    let two = client.create("").await.unwrap();
    assert_ne!(one, two);
    for (offset, data) in [(6, &b"world"[..]), (0, b"HELLO "), (0, b"hello"), (6, b"world")] {
        client.write(&one, offset, data).await.unwrap();
    }
    client.write(&two, 0, b"").await.unwrap();
    client.close(&one).await.unwrap();
    assert_eq!(client.write(&one, 0, b"x").await, Err(StatusCode::Failure));
    let digest = deploy_store::Digest::of(b"hello world").to_string();
    assert!(rig.uploads().contains(&digest));
    assert_eq!(client.open("x").await, Err(StatusCode::NoSuchFile));
    assert_eq!(client.read(&two, 0, 1).await, Err(StatusCode::PermissionDenied));
    client.close(&two).await.unwrap();
    assert_eq!(rig.uploads().len(), 2);
}

#[tokio::test]
async fn announced_upload_without_room_is_refused_at_once() {
    let rig = Rig::start_with(&["-max-upload", "1000T"]);
    let client = Client::connect(&rig, "op", "me").await;
    let refused = client.announce("x", 900 << 40).await.unwrap_err();
    for part in [
        "free and must keep 64 MiB free (-min-free): ",
        "no room for 900 TiB; gc may free some space",
    ] {
        assert!(refused.contains(part), "{refused}");
    }
    rig.wait_for_log("there is no room for 900 TiB");
    // Each of these two uploads fits alone, but both together do not fit.
    let stat = rustix::fs::statvfs(rig.dir.path()).unwrap();
    let most = stat.f_bavail * stat.f_frsize / 10 * 6;
    let one = client.announce("one", most).await.unwrap();
    client.write(&one, 0, b"fine").await.unwrap();
    let refused = client.announce("two", most).await.unwrap_err();
    assert!(refused.contains(", and other uploads still need "), "{refused}");
    // A small upload fits beside the large upload. An upload that has ended reserves no room.
    let small = client.announce("small", 7).await.unwrap();
    client.write(&small, 0, b"more than that").await.unwrap();
    client.close(&small).await.unwrap();
    client.close(&one).await.unwrap();
    let two = client.announce("two", most).await.unwrap();
    client.close(&two).await.unwrap();
    let rig = Rig::start_with(&["-max-upload", "1M"]);
    let client = Client::connect(&rig, "op", "me").await;
    let refused = client.announce("x", (1 << 20) + 1).await.unwrap_err();
    assert!(refused.contains("over the limit of 1 MiB (-max-upload)"), "{refused}");
    assert!(rig.uploads().is_empty());
}

#[tokio::test]
async fn oversized_upload_fails_and_leaves_no_file() {
    let rig = Rig::start_with(&["-max-upload", "1MiB"]);
    let client = Client::connect(&rig, "op", "me").await;
    for offset in [1 << 20, 1 << 40, u64::MAX - 1] {
        let handle = client.create("x").await.unwrap();
        client.write(&handle, 0, b"fine").await.unwrap();
        // The registry may write to the disk later, so this request may succeed. In any case, the
        // close reports the error.
        let _ = client.write(&handle, offset, b"too far").await;
        assert_eq!(client.close(&handle).await, Err(StatusCode::Failure), "{offset}");
    }
    let refused = rig.wait_for_log("upload fail");
    assert!(refused.contains("size of the upload is over the limit of 1 MiB"), "{refused}");
    assert!(rig.uploads().is_empty(), "{:?}", rig.uploads());
    let handle = client.create("x").await.unwrap();
    client.write(&handle, 0, b"fine").await.unwrap();
    client.close(&handle).await.unwrap();
}

#[test]
fn broken_sftp_packets_end_only_their_session() {
    let rig = Rig::start();
    let init = b"\0\0\0\x05\x01\0\0\0\x03";
    for bad in [
        &b"\0\0\0\0"[..],
        b"\xff\xff\xff\xff\x01",
        b"\0\0\0\x01\x06",
        b"\0\0\0\x05\x65\0\0\0\x01",
        b"\0\0\0\x05\xee\0\0\0\x01",
        b"\0\0\0\x0d\x03\0\0\0\x01\xff\xff\xff\xff\0\0\0\0",
        b"\0\0\x10\0\x03half",
    ] {
        for (key, user) in [("op", "me"), ("srv", "deploy-agent")] {
            let mut command = rig.client("ssh", key);
            command.args(["-s", &format!("{user}@127.0.0.1"), "sftp"]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(&[&init[..], bad].concat()).unwrap();
            drop(stdin);
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{bad:?}: {}", both(&output));
        }
    }
    assert!(rig.ok("components").is_empty());
}
