//! Makes each disk operation panic while the server serves a client. The client's request may fail,
//! but its connection stays open. The panic must not affect another client, which is in the middle
//! of an upload.

#![allow(clippy::print_stdout, reason = "the test prints the number of panics")]

#[path = "it/login/mod.rs"]
mod login;
#[path = "it/rig/mod.rs"]
mod rig;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use deploy_registry::registry::{Registry, Settings};
use deploy_registry::ssh::{self as server, Keyring, Server};
use deploy_store::Digest;
use deploy_store::disk::fault::{self, Fault};
use login::Trusting;
use rig::Rig;
use russh::client::{self, Handle};
use russh::{Channel, ChannelMsg};
use russh_sftp::client::RawSftpSession;
use russh_sftp::protocol::{FileAttributes, OpenFlags};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Maximum wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A registry and the keys of its clients. The registry runs in the process of the test, so that
/// the test can inject faults.
struct Served {
    rig: Rig,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let rig = Rig::idle();
        let dir = rig.path("reg");
        let keyring = Keyring::load(&rig.path("op.keys"), &rig.path("srv.keys")).unwrap();
        let registry = Registry::open(&dir, Settings::default()).await.unwrap();
        let host_key = server::host_key(&dir).unwrap();
        let listener = server::listen("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let day = Duration::from_secs(86_400);
        let server = Server::new(Arc::new(registry), Arc::new(keyring), &host_key, day);
        let (stop, stopped) = oneshot::channel();
        let stopped = async { stopped.await.unwrap() };
        let task = tokio::spawn(server::serve(Arc::new(server), listener, stopped));
        Self { rig, port, stop: Some(stop), task }
    }

    async fn log_in(&self) -> Handle<Trusting> {
        login::log_in(&self.rig, self.port, client::Config::default()).await
    }

    fn left_behind(&self) -> usize {
        let names = fs::read_dir(self.rig.path("reg/uploads")).unwrap();
        names.filter(|name| name.as_ref().unwrap().file_name().len() != 64).count()
    }
}

async fn sftp(client: &Handle<Trusting>) -> RawSftpSession {
    let channel = client.channel_open_session().await.unwrap();
    channel.request_subsystem(true, "sftp").await.unwrap();
    let sftp = RawSftpSession::new(channel.into_stream());
    // The library's timeout is longer than the test's, so the test itself notices if the server
    // does not answer.
    sftp.set_timeout(2 * PATIENCE.as_secs());
    sftp.init().await.unwrap();
    sftp
}

async fn create(sftp: &RawSftpSession) -> Result<String, String> {
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::TRUNCATE;
    let opened = sftp.open("x", flags, FileAttributes::empty()).await;
    opened.map(|handle| handle.handle).map_err(|err| err.to_string())
}

/// Uploads a file of 2,000 KiB with ten writes.
async fn upload(sftp: &RawSftpSession, byte: u8) -> Result<(), String> {
    let handle = create(sftp).await?;
    let part = vec![byte; 200 << 10];
    for n in 0..10 {
        let written = sftp.write(&handle, n * (200 << 10), part.clone()).await;
        written.map_err(|err| err.to_string())?;
    }
    sftp.close(handle).await.map(drop).map_err(|err| err.to_string())
}

async fn download(sftp: &RawSftpSession, digest: Digest) -> Result<(), String> {
    let name = format!("/files/{digest}");
    let opened = sftp.open(&name, OpenFlags::READ, FileAttributes::empty()).await;
    let handle = opened.map_err(|err| err.to_string())?.handle;
    sftp.read(&handle, 0, 100).await.map_err(|err| err.to_string())?;
    sftp.close(handle).await.map(drop).map_err(|err| err.to_string())
}

/// Runs a command, and returns its exit code. Fails if the channel ends without a code.
async fn run(client: &Handle<Trusting>, line: &str) -> Result<u32, String> {
    let mut channel: Channel<_> =
        client.channel_open_session().await.map_err(|err| err.to_string())?;
    channel.exec(true, line).await.map_err(|err| err.to_string())?;
    let mut code = Err("no code".to_owned());
    while let Some(message) = channel.wait().await {
        if let ChannelMsg::ExitStatus { exit_status } = message {
            code = Ok(exit_status);
        }
    }
    code
}

#[tokio::test(flavor = "multi_thread")]
async fn panic_in_one_session_does_not_affect_another() {
    let mut served = Served::start().await;
    let archive = {
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, "file", &b"text"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let digest = Digest::of(&archive);
    let bystander = served.log_in().await;
    let calm = sftp(&bystander).await;
    let handle = create(&calm).await.unwrap();
    calm.write(&handle, 0, archive[..700].to_vec()).await.unwrap();
    let unlucky = served.log_in().await;
    let mut panics = 0;
    for what in ["upload", "addver", "download"] {
        for n in 1.. {
            assert!(n < 200, "{what} never ends");
            // No fault is armed now. So a new session must work, even on the connection whose
            // earlier sessions panicked.
            let session = sftp(&unlucky).await;
            if what == "addver" {
                let handle = create(&session).await.unwrap();
                session.write(&handle, 0, archive.clone()).await.unwrap();
                session.close(handle).await.unwrap();
            }
            fault::arm(n, Fault::Panic);
            let ended = timeout(PATIENCE, async {
                match what {
                    "upload" => upload(&session, u8::try_from(n).unwrap()).await,
                    "download" => download(&session, digest).await,
                    _ => {
                        let line = format!("addver -name c -version v{n} -hash {digest}");
                        run(&unlucky, &line).await.and_then(|code| match code {
                            0 => Ok(()),
                            code => Err(format!("code {code}")),
                        })
                    }
                }
            });
            let ended = ended.await;
            let happened = fault::disarm();
            panics += u32::from(happened);
            let ended = ended.unwrap_or_else(|_| panic!("{what} {n} waits forever"));
            assert!(happened || ended.is_ok(), "{what} {n}: {ended:?}");
            drop(session);
            // The server must still serve other clients.
            assert_eq!(run(&bystander, "components").await, Ok(0), "{what} {n}");
            if !happened {
                break;
            }
        }
    }
    println!("{panics} panics");
    assert!(panics > 15, "only {panics} panics");
    calm.write(&handle, 700, archive[700..].to_vec()).await.unwrap();
    calm.close(handle).await.unwrap();
    assert_eq!(run(&bystander, &format!("addver -name d -version v -hash {digest}")).await, Ok(0));
    assert!(!unlucky.is_closed(), "the connection ended");
    for _ in 0..100 {
        if served.left_behind() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(served.left_behind(), 0, "uploads were left behind");
    drop((bystander, unlucky));
    served.stop.take().unwrap().send(()).unwrap();
    timeout(PATIENCE, served.task).await.expect("the server stops").unwrap();
}
