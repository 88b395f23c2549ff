//! Runs a `PostgreSQL` server for one test, which may stop the server and start it again.

#![allow(clippy::print_stdout, reason = "why a server does not start")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{eventually, package, server_catalogue};

/// A server that only one test uses. The server ends together with the test.
#[derive(Debug)]
pub struct DatabaseServer {
    dir: PathBuf,
}

impl DatabaseServer {
    /// Starts a server with its data in `dir`, if the run of the tests has a server at all.
    /// Otherwise, the test is skipped as with [`server_catalogue`].
    pub fn start_in(dir: &Path) -> Option<Self> {
        server_catalogue(dir)?;
        let server = Self { dir: dir.to_owned() };
        server.start();
        Some(server)
    }

    /// The address of the server's database, over a socket.
    pub fn url(&self) -> String {
        format!(
            "postgres://postgres@localhost/postgres?host={}",
            self.dir.join("postgres").display()
        )
    }

    /// Starts the server again. Its data is as before.
    ///
    /// # Panics
    /// The function panics if the server does not start.
    pub fn start(&self) {
        let owner = std::process::id().to_string();
        let started = engines(&["-for", &owner, "start"], &self.dir);
        assert!(started, "scripts/engines does not start a server");
    }

    /// Runs statements in the database, and returns the rows as text.
    ///
    /// # Panics
    /// The function panics if a statement fails.
    pub fn run(&self, statements: &[&str]) -> String {
        let mut psql = Command::new("psql");
        psql.args(["-q", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", &self.url()]);
        psql.args(["-p", &self.line(3)]);
        psql.args(statements.iter().flat_map(|statement| ["-c", *statement]));
        let output = psql.output().expect("psql is on the PATH");
        assert!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("psql prints text").trim().to_owned()
    }

    /// Stops the server in the midst of its work, as `pg_ctl stop -m immediate` does.
    ///
    /// # Panics
    /// The function panics if the server does not stop.
    pub fn stop_at_once(&self) {
        let server = self.pid();
        signal("-QUIT", &[server]);
        eventually("the server stops", || !Path::new(&format!("/proc/{server}")).exists());
    }

    /// Freezes all processes of the server. The server then accepts connections, and never answers.
    ///
    /// # Panics
    /// The function panics if a process does not freeze.
    pub fn freeze(&self) {
        let server = self.pid();
        // First the process that starts the others, so that no process is missed.
        signal("-STOP", &[server]);
        eventually("the server is frozen", || state(server) == Some('T'));
        let others = children(server);
        signal("-STOP", &others);
        eventually("the server's processes are frozen", || {
            others.iter().all(|&pid| state(pid).is_none_or(|state| "TZ".contains(state)))
        });
    }

    /// Ends [`DatabaseServer::freeze`].
    pub fn thaw(&self) {
        let server = self.pid();
        signal("-CONT", &[&children(server)[..], &[server]].concat());
    }

    /// The directory with the server's data. It belongs to the user of the server.
    pub fn data(&self) -> PathBuf {
        self.dir.join("postgres/data")
    }

    fn pid(&self) -> u32 {
        self.line(0).parse().expect("the first line is a number")
    }

    /// A line of the file in which the server describes itself. The first line is the number of its
    /// process, and the fourth is its port.
    fn line(&self, number: usize) -> String {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        text.lines().nth(number).expect("the server runs").to_owned()
    }
}

impl Drop for DatabaseServer {
    fn drop(&mut self) {
        engines(&["stop"], &self.dir);
    }
}

fn engines(words: &[&str], dir: &Path) -> bool {
    let script = package().join("../scripts/engines");
    let output = Command::new(script).args(words).arg(dir).output();
    let output = output.expect("scripts/engines runs");
    if !output.status.success() {
        println!("scripts/engines: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn signal(signal: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    // A process may have ended by now.
    let _ = Command::new("kill").arg(signal).args(pids).status();
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// The state of a process: `T` if it is frozen, `Z` if it has ended. `None` if there is no such
/// process.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
