//! The programs of the test: registries that are killed, frozen and started again, and agents.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deploy_testing::program;

use crate::access::Access;

const PATIENCE: Duration = Duration::from_secs(60);

/// A registry with a port and a directory of its own.
#[derive(Debug)]
pub struct Registry {
    pub port: u16,
    dir: PathBuf,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

/// An agent, and the directory in which it runs.
#[derive(Debug)]
pub struct Agent {
    pub configuration: &'static str,
    pub dir: PathBuf,
    child: Child,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn signal(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let _ = Command::new("kill").args([signal, &pid]).status();
}

impl Registry {
    /// A registry in `dir` that does not run yet.
    pub fn new(dir: PathBuf, flags: Vec<String>, environment: Vec<(String, String)>) -> Self {
        fs::create_dir(&dir).unwrap();
        Self { port: free_port(), dir, flags, environment, child: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// The last lines of the log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// The fingerprint of the host key, from the log.
    pub fn fingerprint(&self) -> String {
        let log = self.log();
        let at = log.find("SHA256:").expect("the log has the fingerprint");
        log[at..].split_whitespace().next().unwrap().to_owned()
    }

    /// Starts the registry if it was killed, again and again, as a service manager does. Waits until
    /// it listens.
    pub fn start(&mut self) {
        if self.child.is_some() {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.try_start() {
            assert!(Instant::now() < deadline, "the registry does not start: {}", self.tail());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Starts the registry. Returns whether it listens; if not, it has ended.
    fn try_start(&mut self) -> bool {
        let before = self.log().len();
        let log = File::options().append(true).create(true).open(self.path("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_deploy-registry"));
        command.args(["-addr", &format!("127.0.0.1:{}", self.port), "-dir", "data"]);
        command.args(&self.flags).envs(self.environment.clone());
        let child = command.current_dir(&self.dir).stdin(Stdio::null()).stderr(log).spawn();
        let mut child = child.unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.log()[before..].contains("listening on ") {
                self.child = Some(child);
                return true;
            }
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                panic!("the registry does not listen: {}", self.tail());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Whether the registry runs, or was killed. `false` means that it ended by itself.
    pub fn is_well(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_none())
    }

    pub fn freeze(&self) {
        self.child.iter().for_each(|child| signal(child, "-STOP"));
    }

    pub fn thaw(&self) {
        self.child.iter().for_each(|child| signal(child, "-CONT"));
    }

    /// Removes the copies of objects, so that the registry reads the bucket.
    pub fn empty_cache(&self) {
        for copy in fs::read_dir(self.path("data/cache")).into_iter().flatten() {
            fs::remove_file(copy.unwrap().path()).unwrap();
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the log of the registry at port {}:\n{}", self.port, self.tail());
        }
        self.kill();
    }
}

/// Writes down the id and the files of the root that it gets.
const SCRIPT: &str = "#!/bin/sh\n\
     echo \"$(basename \"$NEWROOT\") $(cat \"$NEWROOT\"/t* | tr '\\n' ' ')\" >>deployed\n";

impl Agent {
    /// Starts an agent that knows all registries.
    pub fn start(dir: PathBuf, configuration: &'static str, access: &Access) -> Self {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("deploy.sh"), SCRIPT).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.join("deploy.sh"), mode).unwrap();
        let host = dir.file_name().unwrap().to_str().unwrap().to_owned();
        let mut command = Command::new(program("deploy-agent"));
        command.args(["-addr", &access.addresses(), "-fp", &access.fingerprint, "-key"]);
        command.arg(&access.agent).args(["-name", configuration, "-host", &host, "-dir", "store"]);
        command.args(["-script", "./deploy.sh", "-poll", "2s", "-keep-roots", "2"]);
        command.current_dir(&dir).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(File::create(dir.join("log")).unwrap()).spawn().unwrap();
        Self { configuration, dir, child }
    }

    /// The id and the files of each root that the agent has deployed, in order.
    pub fn deployed(&self) -> Vec<(String, Vec<String>)> {
        let text = fs::read_to_string(self.dir.join("deployed")).unwrap_or_default();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let words = lines.map(|line| line.split_whitespace().map(str::to_owned));
        words.filter_map(|mut words| Some((words.next()?, words.collect()))).collect()
    }

    /// The names in a root that the agent has now; `None` if there is no such root.
    pub fn files_of(&self, id: &str) -> Option<Vec<String>> {
        let root = self.dir.join("store/unpacked").join(id);
        let mut files = Vec::new();
        for name in names(&root)?.into_iter().filter(|name| name.starts_with('t')) {
            let text = fs::read_to_string(root.join(&name)).ok()?;
            files.push(text.trim().to_owned());
        }
        files.sort();
        Some(files)
    }

    pub fn tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

fn names(dir: &Path) -> Option<Vec<String>> {
    let entries = fs::read_dir(dir).ok()?;
    entries.map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
