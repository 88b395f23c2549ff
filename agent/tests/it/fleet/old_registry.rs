//! Imitates a registry of an old version, which has no watches. The registry serves files over sftp
//! to agents, and refuses commands.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use deploy_store::{Configuration, Digest, Layer};
use russh::keys::load_secret_key;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Session, run_stream};
use russh::{Channel, ChannelId};
use tokio::net::TcpListener;

const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

pub struct OldRegistry {
    temp: tempfile::TempDir,
    pub addr: String,
    pub fingerprint: String,
    refused: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

struct Client {
    dir: PathBuf,
    channels: Vec<Channel<Msg>>,
    refused: Arc<AtomicUsize>,
}

impl OldRegistry {
    /// Starts the registry. If OpenSSH's sftp server is not installed, prints a notice and returns
    /// `None`. In CI, the test fails instead.
    pub fn start() -> Option<Self> {
        if !Path::new(SFTP_SERVER).exists() {
            assert!(std::env::var_os("CI").is_none(), "{SFTP_SERVER} is missing");
            let _ = writeln!(std::io::stderr(), "NOT TESTED: {SFTP_SERVER} is missing");
            return None;
        }
        let temp = tempfile::tempdir().unwrap();
        for name in ["configs", "files"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        let host = temp.path().join("host");
        deploy_testing::make_key(&host);
        let fingerprint = deploy_testing::fingerprint(&temp.path().join("host.pub"));
        let config =
            Config { keys: vec![load_secret_key(host, None).unwrap()], ..Config::default() };
        let config = Arc::new(config);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let refused = Arc::new(AtomicUsize::new(0));
        let (dir, count) = (temp.path().to_owned(), Arc::clone(&refused));
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (dir, refused) = (dir.clone(), Arc::clone(&count));
                let client = Client { dir, channels: Vec::new(), refused };
                let config = Arc::clone(&config);
                tokio::spawn(async move { run_stream(config, stream, client).await?.await });
            }
        });
        Some(Self { temp, addr, fingerprint, refused, _runtime: runtime })
    }

    /// Number of refused commands.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// Replaces the configuration `project1` with one that has a single layer. The layer contains
    /// the file `conf` with these contents. Returns the id of the new configuration.
    pub fn configure(&self, contents: &str) -> String {
        let tree = tempfile::tempdir().unwrap();
        fs::write(tree.path().join("conf"), contents).unwrap();
        let tar = Command::new("tar").args(["-cz", "-C"]).arg(tree.path()).arg(".").output();
        let blob = tar.unwrap().stdout;
        let digest = Digest::of(&blob);
        fs::write(self.temp.path().join("files").join(digest.to_string()), blob).unwrap();
        let created = "2026-11-23T03:49:00Z".parse().unwrap();
        let (component, version) = ("code".parse().unwrap(), "v1".parse().unwrap());
        let layers = vec![Layer { component, version, digest, created }];
        let made = Configuration::new("project1".parse().unwrap(), layers, created).unwrap();
        // An agent may read the file at any moment, so the test replaces it atomically.
        let (new, name) = ("configs/new", "configs/project1.json");
        fs::write(self.temp.path().join(new), made.to_json()).unwrap();
        fs::rename(self.temp.path().join(new), self.temp.path().join(name)).unwrap();
        made.id().to_string()
    }
}

impl Handler for Client {
    type Error = russh::Error;

    async fn auth_publickey(
        &mut self,
        _: &str,
        _: russh::server::VerifiedPublicKey<'_>,
    ) -> Result<Auth, Self::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.push(channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        _: &[u8],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refused.fetch_add(1, Ordering::Relaxed);
        session.channel_failure(id)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        let at = self.channels.iter().position(|channel| channel.id() == id);
        let Some(at) = at else { return session.channel_failure(id) };
        let mut server = tokio::process::Command::new(SFTP_SERVER)
            .arg("-d")
            .arg(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stream = self.channels.remove(at).into_stream();
        let process = tokio::io::join(server.stdout.take().unwrap(), server.stdin.take().unwrap());
        session.channel_success(id)?;
        tokio::spawn(async move {
            let (mut stream, mut process) = (stream, process);
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut process).await;
            drop(server);
        });
        Ok(())
    }
}
