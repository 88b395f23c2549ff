//! Starts a registry in this process, and runs `deploy-from-docker` as a user would run it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use deploy_registry::registry::{Registry, Settings};
use deploy_registry::ssh::{self as server, Keyring, Server};
pub use deploy_testing::program as binary;
use tokio::runtime::Runtime;

pub struct Rig {
    dir: tempfile::TempDir,
    /// The runtime of the registry. The registry runs until the runtime is dropped.
    _threads: Runtime,
    pub addr: String,
    pub fingerprint: String,
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

impl Answer {
    /// Asserts success, and returns the answer.
    #[track_caller]
    pub fn good(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }
}

impl Rig {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["op", "srv"] {
            deploy_testing::make_key(&dir.path().join(name));
        }
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let path = |name: &str| dir.path().join(name);
        let keyring = Keyring::load(&path("op.pub"), &path("srv.pub")).unwrap();
        let (addr, fingerprint) = threads.block_on(async {
            let registry = Registry::open(&path("reg"), Settings::default()).await.unwrap();
            let host_key = server::host_key(&path("reg")).unwrap();
            let listener = server::listen("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap().to_string();
            let day = Duration::from_secs(86_400);
            let server = Server::new(Arc::new(registry), Arc::new(keyring), &host_key, day);
            tokio::spawn(server::serve(Arc::new(server), listener, std::future::pending()));
            (addr, server::fingerprint(&host_key))
        });
        Self { dir, _threads: threads, addr, fingerprint }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command for a program of the workspace, without environment variables that could change
    /// its behaviour.
    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap();
        command.env_clear().env("PATH", path).env("HOME", self.dir.path()).env("USER", "tester");
        command.args(words).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// A command for the importer with the registry's address.
    pub fn importer(&self, words: &[&str]) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_deploy-from-docker"));
        let mut command = self.command(program, &["-addr", &self.addr, "-fp", &self.fingerprint]);
        command.args(["-key", "op", "-q"]).args(words);
        command
    }

    /// Runs the importer with an image on standard input.
    pub fn import(&self, words: &[&str], image: &[u8]) -> Answer {
        run_with_input(self.importer(words), image)
    }

    /// A command for the importer without a registry.
    pub fn offline(&self, words: &[&str]) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_deploy-from-docker"));
        self.command(program, &[&["-q"], words].concat())
    }

    /// Runs the importer without a registry and with an image on standard input.
    pub fn alone(&self, words: &[&str], image: &[u8]) -> Answer {
        run_with_input(self.offline(words), image)
    }

    /// Runs an operator's command, which must succeed, and returns its answer.
    #[track_caller]
    pub fn operator(&self, words: &[&str]) -> String {
        let program = binary("deployctl");
        let mut command = self.command(&program, &["-addr", &self.addr, "-fp", &self.fingerprint]);
        Answer::from(command.args(["-key", "op"]).args(words).output().unwrap()).good().out
    }

    /// The registry's answers about all its configurations, their histories and all components.
    pub fn everything(&self) -> String {
        let answers = [["configurations", "-json"], ["components", "-json"]];
        let mut everything = answers.map(|words| self.operator(&words)).concat();
        for name in self.operator(&["configurations"]).lines() {
            everything += &self.operator(&["history", "-name", name, "-json"]);
        }
        everything
    }

    /// The id and the layers of a configuration, without times.
    #[track_caller]
    pub fn configuration(&self, name: &str) -> (String, Vec<(String, String)>) {
        let shown = self.operator(&["showconf", "-name", name, "-json"]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let layers = shown["Layers"].as_array().unwrap().iter();
        let layers = layers.map(|layer| (text(&layer["Name"]), text(&layer["Version"])));
        (text(&shown["Hash"]), layers.collect())
    }
}

fn run_with_input(mut command: Command, input: &[u8]) -> Answer {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|threads| {
        threads.spawn(move || {
            // If the write fails, the program has stopped reading.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().unwrap().into()
    })
}
