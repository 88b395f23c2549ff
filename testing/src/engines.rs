//! Runs a private `PostgreSQL` and a private S3 server (Ceph's radosgw) for one test, which may kill
//! the servers, freeze them and start them again.

#![allow(clippy::print_stdout, reason = "a test prints what it skips")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{eventually, package};

/// The servers in one directory. They end together with the test.
#[derive(Debug)]
pub struct Engines {
    dir: PathBuf,
    s3: String,
    secret: String,
}

/// A program of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// `PostgreSQL`, with all its processes.
    Database,
    /// radosgw, which answers the requests of S3.
    Gateway,
    /// ceph-osd, which stores the objects.
    ObjectStore,
}

impl Engine {
    fn program(self) -> &'static str {
        match self {
            Self::Database => "postgres",
            Self::Gateway => "radosgw",
            Self::ObjectStore => "ceph-osd",
        }
    }
}

impl Engines {
    /// Starts both servers with their data in `dir`. If neither `DEPLOY_TEST_ENGINES` nor
    /// `DEPLOY_TEST_S3` is set, the function prints that the test is skipped.
    ///
    /// # Panics
    /// The function panics if a server does not start, and in CI if no variable is set.
    pub fn start_in(dir: &Path) -> Option<Self> {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if !is_set("DEPLOY_TEST_ENGINES") && !is_set("DEPLOY_TEST_S3") {
            assert!(std::env::var_os("CI").is_none(), "run scripts/test-scaled");
            println!("NOT TESTED: several registries with kills; run scripts/test-scaled");
            return None;
        }
        let lines = start(dir);
        let value = |name: &str| {
            let (_, rest) =
                lines.split_once(&format!("{name}=")).expect("scripts/engines prints it");
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            rest[..end].trim_matches('\'').to_owned()
        };
        let address = value("DEPLOY_TEST_S3");
        let (_, s3) = address.split_once("http://").expect("the address has an endpoint");
        Some(Self {
            dir: dir.to_owned(),
            s3: s3.to_owned(),
            secret: value("AWS_SECRET_ACCESS_KEY"),
        })
    }

    /// The address of the database, over a socket.
    pub fn database(&self) -> String {
        let socket = self.dir.join("postgres");
        format!("postgres://postgres@localhost/postgres?host={}", socket.display())
    }

    /// The host and port of the S3 server. Its bucket is called `deploy`.
    pub fn s3(&self) -> &str {
        &self.s3
    }

    /// The variables with the credentials of the S3 server.
    pub fn credentials(&self) -> [(&'static str, &str); 2] {
        [("AWS_ACCESS_KEY_ID", "deploy"), ("AWS_SECRET_ACCESS_KEY", &self.secret)]
    }

    /// Starts the servers that do not run. Their data is as before.
    ///
    /// # Panics
    /// The function panics if a server does not start.
    pub fn start(&self) {
        start(&self.dir);
    }

    /// Kills all processes of a server (`kill -9`), and waits for their end.
    ///
    /// # Panics
    /// The function panics if a process does not end.
    pub fn kill(&self, engine: Engine) {
        let pids = self.pids(engine);
        signal("-KILL", &pids);
        eventually("the server's processes have ended", || {
            pids.iter().all(|&pid| matches!(state(pid), None | Some('Z')))
        });
    }

    /// Freezes all processes of a server. It accepts connections, and does not answer.
    pub fn freeze(&self, engine: Engine) {
        // First the process that starts the others, so that no process is missed.
        signal("-STOP", &self.first(engine));
        signal("-STOP", &self.pids(engine));
    }

    /// Ends [`Engines::freeze`].
    pub fn thaw(&self, engine: Engine) {
        signal("-CONT", &self.pids(engine));
    }

    /// The first processes of a server. The directory is part of their command lines.
    fn first(&self, engine: Engine) -> Vec<u32> {
        let dir = format!("{}/", self.dir.display());
        let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            let program = line.split('\0').next().unwrap_or_default();
            let name = program.rsplit('/').next().unwrap_or_default();
            name == engine.program() && line.contains(&dir)
        })
        .collect()
    }

    fn pids(&self, engine: Engine) -> Vec<u32> {
        let mut pids = self.first(engine);
        for pid in pids.clone() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let children = children.unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        pids
    }
}

impl Drop for Engines {
    fn drop(&mut self) {
        for engine in [Engine::Database, Engine::Gateway, Engine::ObjectStore] {
            self.thaw(engine);
        }
        run(&["stop"], &self.dir, &[]);
    }
}

/// Starts the servers that do not run. Returns the lines that `scripts/engines` prints.
fn start(dir: &Path) -> String {
    let owner = std::process::id().to_string();
    let started = run(&["-for", &owner, "start"], dir, &["s3"]);
    started.expect("scripts/engines starts both servers")
}

fn run(before: &[&str], dir: &Path, after: &[&str]) -> Option<String> {
    let script = package().join("../scripts/engines");
    let output = Command::new(script).args(before).arg(dir).args(after).output();
    let output = output.expect("scripts/engines runs");
    if !output.status.success() {
        println!("scripts/engines: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn signal(signal: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    // A process may have ended by now.
    let _ = Command::new("kill").arg(signal).args(pids).status();
}

/// The state of a process, such as `Z` for a process that has ended. `None` if there is no such
/// process.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
