//! A registry in this process, and `deployctl` as a separate program.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use deploy_registry::registry::{Registry, Settings};
use deploy_registry::ssh::{self as server, Keyring, Server};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct Rig {
    dir: tempfile::TempDir,
    threads: Runtime,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    addr: String,
    fingerprint: String,
}

/// The result of a run of the program.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub out: String,
    pub err: String,
    pub code: i32,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().expect("the program has an exit code");
        Self { out: text(output.stdout), err: text(output.stderr), code }
    }
}

/// Bytes that do not compress.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// The program, without environment variables that could change its behaviour.
pub fn deployctl(home: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_deployctl"));
    let path = std::env::var_os("PATH").unwrap();
    command.args(words).env_clear().env("PATH", path).env("HOME", home).env("USER", "tester");
    command.current_dir(home).stdin(Stdio::null());
    command
}

pub fn make_key(dir: &Path, name: &str, flags: &[&str]) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-f", name]).args(flags).current_dir(dir);
    assert!(keygen.status().unwrap().success());
}

impl Rig {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, flags) in [
            ("op", ["-t", "ed25519", "-N", ""]),
            ("srv", ["-t", "ed25519", "-N", ""]),
            ("other", ["-t", "ed25519", "-N", ""]),
            ("locked", ["-t", "ed25519", "-N", "secret"]),
        ] {
            make_key(dir.path(), name, &flags);
        }
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (addr, fingerprint) = (String::new(), String::new());
        let mut rig = Self { dir, threads, serving: None, addr, fingerprint };
        rig.serve(1 << 30);
        rig
    }

    /// Starts the registry on its directory. An upload may have at most `max_upload` bytes.
    pub fn serve(&mut self, max_upload: u64) {
        self.serve_with(Settings { max_upload, ..Settings::default() });
    }

    /// Starts the registry with these settings.
    pub fn serve_with(&mut self, settings: Settings) {
        let keyring = Keyring::load(&self.path("op.pub"), &self.path("srv.pub")).unwrap();
        let dir = self.path("reg");
        let (addr, fingerprint, serving) = self.threads.block_on(async {
            let registry = Arc::new(Registry::open(&dir, settings).await.unwrap());
            let host_key = server::host_key(&dir).unwrap();
            let listener = server::listen("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap().to_string();
            let day = Duration::from_secs(86_400);
            let server = Arc::new(Server::new(registry, Arc::new(keyring), &host_key, day));
            let (stop, stopped) = oneshot::channel();
            let stopped = async move { stopped.await.unwrap_or_default() };
            let serving = tokio::spawn(server::serve(server, listener, stopped));
            (addr, server::fingerprint(&host_key), (stop, serving))
        });
        (self.addr, self.fingerprint, self.serving) = (addr, fingerprint, Some(serving));
    }

    /// Stops the registry and waits until all its connections have ended.
    pub fn stop(&mut self) {
        let (stop, serving) = self.serving.take().unwrap();
        stop.send(()).unwrap();
        self.threads.block_on(serving).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// A line of `known_hosts` with the registry's host key.
    pub fn known_host(&self) -> String {
        let (host, port) = self.addr.split_once(':').unwrap();
        format!("[{host}]:{port} {}", self.host_key())
    }

    /// The registry's public key, with a newline at the end.
    pub fn host_key(&self) -> String {
        let mut keygen = Command::new("ssh-keygen");
        let key = keygen.arg("-yf").arg(self.path("reg/host_key")).output().unwrap();
        String::from_utf8(key.stdout).unwrap()
    }

    /// The program `deployctl` with the registry's address, but without keys.
    pub fn bare(&self, words: &[&str]) -> Command {
        let mut command = deployctl(self.dir.path(), words);
        command.env("DEPLOYCTL_ADDR", &self.addr).env("DEPLOYCTL_FINGERPRINT", &self.fingerprint);
        command
    }

    /// Runs the program as an operator.
    pub fn run(&self, words: &[&str]) -> Answer {
        self.bare(&[&["-key", "op"], words].concat()).output().unwrap().into()
    }

    /// Runs the program as an operator, with `input` on standard input.
    pub fn run_with_input(&self, words: &[&str], input: &[u8]) -> Answer {
        let mut command = self.bare(&[&["-key", "op"], words].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let feeder = std::thread::spawn(move || {
            // A failure is ignored, because the program may have stopped reading.
            let _ = stdin.write_all(&input);
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        output.into()
    }

    /// Makes the file `name`, a tar.gz of one file with the text `text`. Returns the bytes of the
    /// archive.
    pub fn archive(&self, name: &str, text: &[u8]) -> Vec<u8> {
        fs::write(self.path("content"), text).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["czf", name, "content"]).current_dir(self.dir.path());
        assert!(tar.status().unwrap().success());
        fs::read(self.path(name)).unwrap()
    }

    /// The names of the files in a directory of the registry.
    pub fn list(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path("reg").join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}
