//! Runs a registry and an agent as real programs, and lets an operator use stock clients.
#![allow(dead_code, reason = "each test file uses only a part of this module")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use deploy_store::{Configuration, Digest};
use deploy_testing::eventually;
use serde_json::Value;

/// A registry, the keys of an operator and of an agent, and the working directory of an agent.
pub struct Bench {
    pub temp: tempfile::TempDir,
    pub registry: Registry,
}

pub struct Registry {
    pub process: Child,
    pub addr: String,
    pub fingerprint: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The path of the registry's program, which is in the same directory as the agent's program. The
/// registry's program must be built before the tests, because cargo does not build the program of
/// another package for these tests.
pub fn registry_program() -> PathBuf {
    deploy_testing::program("deploy-registry")
}

pub fn start_registry(dir: &Path, addr: &str) -> Registry {
    start_registry_with(dir, addr, &[])
}

pub fn start_registry_with(dir: &Path, addr: &str, flags: &[&str]) -> Registry {
    let log = dir.join("registry.log");
    let process = Command::new(registry_program())
        .args(["-addr", addr, "-dir", "reg", "-opauth", "op.pub", "-srvauth", "srv.pub"])
        .args(flags)
        .current_dir(dir)
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let after = |text: &str, name: &str| {
        let rest = text.split_once(name)?.1;
        Some(rest.lines().next()?.to_owned())
    };
    let mut found = None;
    eventually("the registry listens", || {
        let text = fs::read_to_string(&log).unwrap();
        found = after(&text, "listening on ").zip(after(&text, "host key fingerprint: "));
        found.is_some()
    });
    let (addr, fingerprint) = found.unwrap();
    Registry { process, addr, fingerprint }
}

impl Bench {
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    pub fn within(dir: &Path) -> Self {
        let temp = tempfile::tempdir_in(dir).unwrap();
        for name in ["op", "srv", "stranger"] {
            deploy_testing::make_key(&temp.path().join(name));
        }
        let registry = start_registry(temp.path(), "127.0.0.1:0");
        let bench = Self { temp, registry };
        bench.script("#!/bin/sh\necho \"$OLDID $NEWID\" >>runs\ncat \"$NEWROOT/conf\"\n");
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn script(&self, body: &str) {
        fs::write(self.path("deploy.sh"), body).unwrap();
        fs::set_permissions(self.path("deploy.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn runs(&self) -> usize {
        fs::read_to_string(self.path("runs")).unwrap_or_default().lines().count()
    }

    /// Runs a program of OpenSSH as an operator.
    pub fn operator(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let output = self.operator_output(program, arguments, input);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Like [`Bench::operator`], for commands that may fail.
    pub fn operator_output(&self, program: &str, arguments: &[&str], input: &str) -> Output {
        let (host, port) = self.registry.addr.rsplit_once(':').unwrap();
        let mut child = Command::new(program)
            .args(["-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "LogLevel=ERROR", "-i", "op", "-o", &format!("Port={port}")])
            .arg(format!("ops@{host}"))
            .args(arguments)
            .current_dir(self.temp.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Uploads a blob with one file, and binds the blob to a version.
    pub fn add_version(&self, component: &str, version: &str, name: &str, contents: &str) {
        let tree = self.path("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join(name), contents).unwrap();
        let mut tar = Command::new("tar");
        tar.args(["czf", "blob.tar.gz", "-C", "tree", "."]).current_dir(self.temp.path());
        assert!(tar.status().unwrap().success());
        fs::remove_dir_all(tree).unwrap();
        self.operator("sftp", &[], "put blob.tar.gz\n");
        let digest = Digest::of(&fs::read(self.path("blob.tar.gz")).unwrap());
        let line = format!("addver -name {component} -version {version} -hash {digest}");
        self.operator("ssh", &[&line], "");
    }

    pub fn first_configuration(&self) {
        self.add_version("code", "v01", "bin", "run");
        self.add_version("config", "v01", "conf", "one\n");
        self.operator("ssh", &["addconf -name project1 -layer code:v01 -layer config:v01"], "");
    }

    pub fn bump(&self, version: &str, contents: &str) {
        self.add_version("config", version, "conf", contents);
        self.operator("ssh", &["bumpconf -name project1 -component config"], "");
    }

    pub fn agent(&self, arguments: &[&str]) -> Command {
        let mut agent = Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
        let Registry { addr, fingerprint, .. } = &self.registry;
        agent
            .args(["-addr", addr, "-fp", fingerprint, "-key", "srv", "-dir", "a1"])
            .args(["-name", "project1", "-state", "state.json"])
            .args(arguments)
            .current_dir(self.temp.path());
        agent
    }

    pub fn once(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let Output { status, stderr, .. } =
            self.agent(&["-once"]).args(arguments).output().unwrap();
        (status.code(), String::from_utf8(stderr).unwrap())
    }

    pub fn fails_once(&self, arguments: &[&str], code: i32, want: &str) {
        let (found, log) = self.once(arguments);
        assert!(log.contains(want), "{arguments:?}: {log}");
        assert_eq!(found, Some(code), "{arguments:?}: {log}");
        assert_eq!(log.lines().count(), 1, "{arguments:?}: {log}");
    }

    /// Starts an agent that writes its log to the file `agent.log`.
    pub fn start_agent(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.path("agent.log")).unwrap();
        self.agent(&["-poll", "50ms", "-v"]).stderr(log).spawn().unwrap()
    }

    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.path("agent.log")).unwrap_or_default()
    }

    pub fn state(&self) -> Option<Configuration> {
        Configuration::from_json(&fs::read(self.path("state.json")).ok()?).ok()
    }

    /// Waits until this version of the component `config` is deployed.
    pub fn deployed(&self, version: &str) {
        eventually(version, || {
            self.state().is_some_and(|state| state.layers()[1].version.as_str() == version)
        });
    }
}

pub fn terminate(process: &mut Child) -> Option<i32> {
    let pid = process.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    process.wait().unwrap().code()
}

/// An agent that polls so rarely that it acts only on requests and on changes that the registry
/// sends.
pub struct Agent<'a> {
    pub bench: &'a Bench,
    pub process: Child,
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl<'a> Agent<'a> {
    pub fn start(bench: &'a Bench, more: &[&str]) -> Self {
        Self::run(bench, &["-no-watch"], more)
    }

    /// An agent that watches the registry, and practically never polls.
    pub fn watching(bench: &'a Bench, more: &[&str]) -> Self {
        Self::run(bench, &["-host", "web-01"], more)
    }

    fn run(bench: &'a Bench, arguments: &[&str], more: &[&str]) -> Self {
        let log = File::options().create(true).append(true).open(bench.path("agent.log")).unwrap();
        let started = bench.agent_log().matches(" tracking ").count();
        let mut agent = bench.agent(&["-poll", "1h"]);
        let process = agent.args(arguments).args(more).stderr(log).spawn().unwrap();
        eventually("the agent listens", || {
            bench.agent_log().matches(" tracking ").count() > started
                && UnixStream::connect(bench.path("a1/control")).is_ok()
        });
        Self { bench, process }
    }

    pub fn stop(mut self) {
        assert_eq!(terminate(&mut self.process), Some(0));
        assert!(!self.bench.path("a1/control").exists(), "the socket is still there");
    }
}

/// The output of a subcommand.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|err| panic!("{err}: {}{}", self.out, self.err))
    }
}

pub fn ask(bench: &Bench, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
        .args(arguments)
        .args(["-dir", "a1"])
        .current_dir(bench.temp.path())
        .output()
        .unwrap();
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

#[track_caller]
pub fn says(bench: &Bench, arguments: &[&str], code: i32, want: &str) -> Said {
    let said = ask(bench, arguments);
    assert_eq!(said.code, Some(code), "{arguments:?}: {}{}", said.out, said.err);
    assert!(
        said.out.contains(want) || said.err.contains(want),
        "{arguments:?}: {}{}",
        said.out,
        said.err
    );
    said
}

pub fn deployed(bench: &Bench) -> String {
    bench.state().unwrap().layers()[1].version.as_str().to_owned()
}

/// The names of the files below the agent's directory, without files that the agent changes while
/// it runs.
pub fn names(bench: &Bench) -> Vec<String> {
    let mut find = Command::new("find");
    find.args(["a1", "-not", "-type", "d"]).current_dir(bench.temp.path());
    let found = find.output().unwrap();
    let mut names: Vec<String> =
        String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
    names.retain(|name| !name.contains("/.spare") && name != "a1/agent.json");
    names.sort();
    names
}
