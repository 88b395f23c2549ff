//! Runs a registry, an agent and an operator's commands as real programs in one directory.
#![allow(dead_code, clippy::print_stderr, reason = "each test file uses a part, and prints notes")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub use deploy_testing::program as binary;

pub struct Site {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub fingerprint: String,
    registry: Option<Child>,
    agent: Option<Child>,
}

/// The top directory of the repository.
pub fn top() -> PathBuf {
    deploy_testing::package().parent().unwrap().to_owned()
}

impl Site {
    /// Makes a site with keys, but without a registry and without an agent.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["operator", "server"] {
            deploy_testing::make_key(&dir.path().join(name));
        }
        Self { dir, port: 0, fingerprint: String::new(), registry: None, agent: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn put_script(&self, body: &str) {
        let path = self.path("deploy.sh");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Starts the registry with the directory `dir`. If the registry has run before, it uses the
    /// same port again.
    pub fn start_registry(&mut self, dir: &str) {
        let child = Command::new(binary("deploy-registry"))
            .args(["-addr", &format!("127.0.0.1:{}", self.port), "-dir", dir])
            .args(["-opauth", "operator.pub", "-srvauth", "server.pub"])
            .current_dir(self.dir.path())
            .stderr(File::create(self.path("registry.log")).unwrap())
            .spawn()
            .unwrap();
        self.registry = Some(child);
        self.wait_until("the registry listens", |site| {
            site.text("registry.log").contains("listening on")
        });
        let log = self.text("registry.log");
        let after = |word: &str| log.split(word).nth(1).unwrap().split_whitespace().next().unwrap();
        self.port = after("listening on 127.0.0.1:").parse().unwrap();
        after("host key fingerprint: ").clone_into(&mut self.fingerprint);
    }

    /// Kills the registry, as if its machine were lost.
    pub fn kill_registry(&mut self) {
        end(self.registry.take());
    }

    pub fn agent(&self, name: &str) -> Command {
        let mut command = Command::new(binary("deploy-agent"));
        command
            .args(["-addr", &format!("127.0.0.1:{}", self.port), "-dir", "agent", "-name", name])
            .args(["-fp", &self.fingerprint, "-key", "server", "-state", "agent/state.json"])
            .args(["-script", "./deploy.sh", "-log-format", "json"])
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts an agent that tracks the configuration `name` and polls often.
    pub fn start_agent(&mut self, name: &str) {
        let log = File::create(self.path("agent.log")).unwrap();
        let mut command = self.agent(name);
        self.agent = Some(command.args(["-poll", "50ms"]).stderr(log).spawn().unwrap());
    }

    pub fn agent_runs(&mut self) -> bool {
        self.agent.as_mut().is_some_and(|agent| agent.try_wait().unwrap().is_none())
    }

    /// Runs an operator's command, which must succeed. Returns the answer.
    pub fn operator(&self, words: &[&str]) -> String {
        let output = self.try_operator(words);
        assert!(output.status.success(), "{words:?}: {}", both(&output));
        both(&output)
    }

    pub fn try_operator(&self, words: &[&str]) -> Output {
        let mut command = Command::new(binary("deployctl"));
        command.args(["-addr", &format!("127.0.0.1:{}", self.port), "-fp", &self.fingerprint]);
        command.args(["-key", "operator", "-user", "me"]).args(words);
        command.current_dir(self.dir.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a script of the repository.
    pub fn script(&self, name: &str, words: &[&str]) -> Output {
        let mut command = Command::new(top().join("scripts").join(name));
        command.args(words).current_dir(self.dir.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// Makes an archive with one file.
    pub fn archive(&self, archive: &str, file: &str, contents: &str) {
        fs::write(self.path(file), contents).unwrap();
        let tar = ["-czf", archive, file];
        assert!(
            Command::new("tar").args(tar).current_dir(self.dir.path()).status().unwrap().success()
        );
    }

    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            let logs = || self.text("registry.log") + &self.text("agent.log");
            assert!(Instant::now() < deadline, "not within 60 s: {what}\n{}", logs());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        end(self.agent.take());
        end(self.registry.take());
    }
}

fn end(child: Option<Child>) {
    if let Some(mut child) = child {
        let _ = child.kill();
        let _ = child.wait();
    }
}

pub fn both(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}
