//! Runs a registry and `OpenSSH` clients for one test.
#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "each test file uses a part of this module; a panic prints the log"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with keys, and with the key files that authorise `op` and `srv`. A registry may run
/// in this directory.
pub struct Rig {
    pub dir: TempDir,
    pub flags: Vec<String>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    port: u16,
    log: Arc<Log>,
}

/// The lines that the registry has logged so far.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Rig {
    /// A rig with keys and key files, but without a registry.
    pub fn idle() -> Self {
        let rig = Self { dir: TempDir::new().unwrap(), flags: Vec::new(), running: None };
        for (name, kind) in [("op", "ed25519"), ("srv", "ed25519"), ("other", "ed25519")] {
            rig.make_key(name, kind);
        }
        rig.authorize("op.keys", "# operators\n\n", &["op"]);
        rig.authorize("srv.keys", "", &["srv"]);
        rig
    }

    /// A rig with a running registry.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A rig with a running registry that was started with additional flags.
    pub fn start_with(flags: &[&str]) -> Self {
        let mut rig = Self::idle();
        rig.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        rig.run();
        rig
    }

    /// Starts the registry and waits until it listens.
    pub fn run(&mut self) {
        self.run_under(&[]);
    }

    /// Like [`Rig::run`], but runs the registry under a command such as `prlimit`.
    pub fn run_under(&mut self, before: &[&str]) {
        assert!(self.try_run_under(before), "the registry does not start");
    }

    /// Like [`Rig::run_under`], but returns whether the registry listens. `false` means that the
    /// registry has ended.
    pub fn try_run_under(&mut self, before: &[&str]) -> bool {
        let mut words: Vec<String> = before.iter().map(|&word| word.to_owned()).collect();
        words.push(env!("CARGO_BIN_EXE_deploy-registry").to_owned());
        words.extend(["-addr", "127.0.0.1:0", "-dir", "reg"].map(str::to_owned));
        words.extend(["-opauth", "op.keys", "-srvauth", "srv.keys"].map(str::to_owned));
        words.extend(self.flags.clone());
        let catalogue = deploy_testing::catalogue(&self.dir.path().join("reg"));
        let bucket = deploy_testing::bucket(&self.dir.path().join("reg"));
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .envs(catalogue.map(|url| ("DEPLOY_REGISTRY_CATALOGUE", url)))
            .envs(bucket.map(|address| ("DEPLOY_REGISTRY_BUCKET", address)))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Log::default());
        let (lines, into) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&log));
        std::thread::spawn(move || {
            for line in lines.lines() {
                into.lines().push(line.unwrap());
                into.grown.notify_all();
            }
        });
        let listening =
            |log: &Log| log.lines().iter().find(|line| line.contains("listening on ")).cloned();
        wait_until("the registry listens or has ended", || {
            listening(&log).is_some() || child.try_wait().unwrap().is_some()
        });
        let Some(line) = listening(&log) else { return false };
        let port = line.rsplit(':').next().unwrap().parse().unwrap();
        self.running = Some(Running { child, port, log });
        true
    }

    /// Kills a registry that runs under a command such as `strace`, and waits until the command has
    /// ended. Returns false if the command had already ended.
    pub fn kill_all(&mut self) -> bool {
        let Some(mut running) = self.running.take() else { return false };
        if running.child.try_wait().unwrap().is_some() {
            return false;
        }
        let pid = running.child.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", child]).status();
        }
        // The tracer ends when the registry ends.
        running.child.wait().unwrap();
        true
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the registry does not run")
    }

    pub fn port(&self) -> u16 {
        self.running().port
    }

    pub fn pid(&self) -> u32 {
        self.running().child.id()
    }

    /// The memory of the registry in KiB. `VmRSS:` stands for the present memory, and `VmHWM:` for
    /// the highest value so far.
    pub fn memory(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    /// Waits for a line of the log that contains `text`.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.running().log.wait_for(text)
    }

    /// The lines that the registry has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.running().log.lines().clone()
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Sends a signal to the registry, and waits for its end.
    pub fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.running.take().expect("the registry does not run").child.wait().unwrap()
    }

    /// Runs the registry with `flags`. With these flags, the registry must end on its own.
    pub fn refused(&self, flags: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_deploy-registry"))
            .args(flags)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn make_key(&self, name: &str, kind: &str) {
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", kind, "-N", "", "-C", name, "-f"])
            .arg(self.path(name))
            .status();
        assert!(made.unwrap().success());
    }

    pub fn public_key(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap()
    }

    /// Puts the registry's directory on a small filesystem. If there is no such filesystem, prints
    /// a notice and returns `None`. In CI, a missing filesystem is a failure.
    pub fn on_small_disk(&self) -> Option<TempDir> {
        let Some(small) = std::env::var_os("DEPLOY_TEST_SMALL") else {
            assert!(std::env::var_os("CI").is_none(), "run scripts/test, or set DEPLOY_TEST_SMALL");
            // A direct write bypasses the test harness, which hides the output of passing tests.
            let text = b"NOT TESTED: a full disk; run scripts/test as root\n";
            std::io::stderr().write_all(text).unwrap();
            return None;
        };
        let dir = TempDir::new_in(small).unwrap();
        std::os::unix::fs::symlink(dir.path(), self.path("reg")).unwrap();
        Some(dir)
    }

    /// Writes a key file in one step: `head`, then the public keys of `names`.
    pub fn authorize(&self, file: &str, head: &str, names: &[&str]) {
        let keys: String = names.iter().map(|name| self.public_key(name)).collect();
        fs::write(self.path("new.keys"), format!("{head}{keys}")).unwrap();
        fs::rename(self.path("new.keys"), self.path(file)).unwrap();
    }

    /// A client program with all arguments for the connection. The caller adds the other arguments.
    pub fn client(&self, program: &str, key: &str) -> Command {
        let mut command = Command::new(program);
        let port = self.port().to_string();
        command.current_dir(self.dir.path()).args(["-F", "/dev/null", "-i", key]);
        command.args([if program == "ssh" { "-p" } else { "-P" }, &port]);
        for option in [
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "BatchMode=yes",
        ] {
            command.args(["-o", option]);
        }
        command.stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// Runs `ssh` as `user` with `key`.
    pub fn ssh(&self, key: &str, user: &str, arguments: &[&str]) -> Output {
        let mut command = self.client("ssh", key);
        command.arg(format!("{user}@127.0.0.1")).args(arguments).output().unwrap()
    }

    /// Runs a command of the operator, which must succeed. Returns its output.
    pub fn ok(&self, line: &str) -> String {
        let output = self.ssh("op", "me", &[line]);
        assert!(output.status.success(), "{line}: {}", both(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `ssh` with `options`, and sends `input` and then the end of the input.
    pub fn ssh_with_input(&self, options: &[&str], input: &[u8]) -> Output {
        let mut command = self.client("ssh", "op");
        command.args(options).arg("me@127.0.0.1").stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs `sftp` commands. A failing command that begins with `-` does not end the batch.
    pub fn sftp(&self, key: &str, user: &str, batch: &str) -> Output {
        fs::write(self.path("batch"), format!("{batch}\n")).unwrap();
        let mut command = self.client("sftp", key);
        command.args(["-q", "-b", "batch"]).arg(format!("{user}@127.0.0.1"));
        command.output().unwrap()
    }

    /// Makes a tar.gz file `name` with one file in it. Returns the sha256 of the archive.
    pub fn archive(&self, name: &str, contents: &[u8]) -> String {
        fs::write(self.path("file"), contents).unwrap();
        let dir = self.dir.path();
        let made = Command::new("tar")
            .current_dir(dir)
            .args(["-czf", name, "--mtime=@1", "file"])
            .status();
        assert!(made.unwrap().success());
        self.sha256(name)
    }

    /// Packs the directory `etc` of the directory `name`, and uploads the archive. Returns the
    /// archive's sha256.
    pub fn pack(&self, name: &str) -> String {
        let packed = format!("{name}.tar.gz");
        let tar = ["-czf", &packed, "-C", name, "--mtime=@1", "etc"];
        let made = Command::new("tar").current_dir(self.dir.path()).args(tar).status();
        assert!(made.unwrap().success());
        self.put(&packed);
        self.sha256(&packed)
    }

    pub fn sha256(&self, name: &str) -> String {
        deploy_store::Digest::of(&fs::read(self.path(name)).unwrap()).to_string()
    }

    /// Uploads `name` as the operator.
    pub fn put(&self, name: &str) {
        let output = self.sftp("op", "me", &format!("put {name}"));
        assert!(output.status.success(), "{}", both(&output));
    }

    /// The names in the directory of uploads.
    pub fn uploads(&self) -> Vec<String> {
        names(&self.path("reg/uploads"))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            let _ = running.child.wait();
            if std::thread::panicking() {
                eprintln!("the registry's log:");
                running.log.lines().iter().for_each(|line| eprintln!("  {line}"));
            }
        }
    }
}

impl Log {
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for(&self, text: &str) -> String {
        let lines = self.lines();
        let missing = |lines: &mut Vec<String>| !lines.iter().any(|line| line.contains(text));
        let (lines, waited) = self.grown.wait_timeout_while(lines, PATIENCE, missing).unwrap();
        assert!(!waited.timed_out(), "the log does not say {text:?}: {lines:#?}");
        lines.iter().find(|line| line.contains(text)).unwrap().clone()
    }
}

pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = entries.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

/// The output of a program on both streams.
pub fn both(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

/// Waits until `done` returns true.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
