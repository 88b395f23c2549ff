//! Runs an agent with a health gate, reads the agent's log, and runs a web server that the agent
//! checks.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use deploy_testing::eventually;
use jiff::Timestamp;
use serde_json::Value;

use crate::bench::{Bench, terminate};
use crate::source::write_executable;

/// The flags of a gate that decides within a second.
pub const QUICK: [&str; 6] =
    ["-health-successes", "2", "-health-min", "100ms", "-health-deadline", "1s"];

/// The flags of a gate that passes quickly if the checks succeed. The deadline is so long that the
/// gate does not fail on a busy machine.
pub const PATIENT: [&str; 6] =
    ["-health-successes", "2", "-health-min", "100ms", "-health-deadline", "10s"];

/// The flags of a gate that does not fail while a test runs.
pub const SLOW: [&str; 6] =
    ["-health-successes", "2", "-health-min", "100ms", "-health-deadline", "10m"];

/// A bench whose script records each run, and copies `conf` to the file `active`. The first
/// configuration has version `v01` and `one` in `conf`.
pub fn bench() -> Bench {
    let bench = Bench::new();
    bench.first_configuration();
    usual_script(&bench);
    bench
}

pub fn usual_script(bench: &Bench) {
    bench.script("#!/bin/sh\necho \"$OLDID $NEWID\" >>runs\ncp -f \"$NEWROOT/conf\" active\n");
}

/// Writes the program of the health check `cmd:./check`.
pub fn check(bench: &Bench, body: &str) {
    // The system cannot start a program while the test writes the program's file, so the test
    // writes another file and renames that file.
    write_executable(&bench.path("check.new"), &format!("#!/bin/sh\n{body}\n"));
    fs::rename(bench.path("check.new"), bench.path("check")).unwrap();
}

pub fn active(bench: &Bench) -> String {
    fs::read_to_string(bench.path("active")).unwrap_or_default().trim().to_owned()
}

/// Runs an agent with `-once`, a check and the flags `more`. Returns the exit code and the events
/// in the log.
pub fn once(bench: &Bench, check: &str, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let mut agent = bench.agent(&["-once", "-log-format", "json", "-health", check]);
    once_of(agent.args(more))
}

/// Runs an agent until it exits. Returns the exit code and the events in the log.
pub fn once_of(agent: &mut Command) -> (Option<i32>, Vec<Value>) {
    let output = agent.output().unwrap();
    (output.status.code(), events_in(&String::from_utf8(output.stderr).unwrap()))
}

fn events_in(log: &str) -> Vec<Value> {
    let event = |line| serde_json::from_str(line).unwrap_or_else(|err| panic!("{err}: {line}"));
    log.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(event).collect()
}

/// The events with this name.
pub fn named<'a>(events: &'a [Value], name: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == name).collect()
}

/// The reason why the gate failed. The events must contain exactly one failed gate.
#[track_caller]
pub fn reason(events: &[Value]) -> String {
    let failed = named(events, "health_failed");
    assert_eq!(failed.len(), 1, "{events:#?}");
    failed[0]["reason"].as_str().unwrap().to_owned()
}

/// The milliseconds from the event `first` to the event `second`.
pub fn ms_between(first: &Value, second: &Value) -> i64 {
    let time = |event: &Value| event["ts"].as_str().unwrap().parse::<Timestamp>().unwrap();
    time(second).duration_since(time(first)).as_millis().try_into().unwrap()
}

/// A running agent with a health gate. The agent logs to the file `gated.log`.
pub struct Gated<'a> {
    pub bench: &'a Bench,
    pub process: Child,
}

impl Drop for Gated<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl<'a> Gated<'a> {
    /// Starts an agent that polls so rarely that it acts only on requests.
    pub fn start(bench: &'a Bench, check: &str, more: &[&str]) -> Self {
        Self::polling(bench, "1h", check, more)
    }

    pub fn polling(bench: &'a Bench, poll: &str, check: &str, more: &[&str]) -> Self {
        let log = File::options().create(true).append(true).open(bench.path("gated.log")).unwrap();
        let started = named(&events(bench), "started").len();
        let mut agent = bench.agent(&["-poll", poll, "-log-format", "json", "-health", check]);
        agent.arg("-no-watch");
        let process = agent.args(more).stderr(log).spawn().unwrap();
        eventually("the agent listens", || {
            named(&events(bench), "started").len() > started
                && UnixStream::connect(bench.path("a1/control")).is_ok()
        });
        Self { bench, process }
    }

    /// Waits until the log contains `n` events of this name.
    pub fn logs(&self, n: usize, name: &str) {
        eventually(name, || named(&events(self.bench), name).len() >= n);
    }

    pub fn stop(mut self) {
        assert_eq!(terminate(&mut self.process), Some(0));
    }

    pub fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// The events that all agents with the log file `gated.log` have logged so far.
pub fn events(bench: &Bench) -> Vec<Value> {
    events_in(&fs::read_to_string(bench.path("gated.log")).unwrap_or_default())
}

/// A web server with one answer for all requests.
pub struct Web {
    pub addr: SocketAddr,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Web {
    /// Starts a server that gives this answer. If the answer is empty, the server reads requests,
    /// but does not answer.
    pub fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = Self {
            addr: listener.local_addr().unwrap(),
            answer: Arc::new(Mutex::new(answer.to_owned())),
            asked: Arc::default(),
        };
        let (answer, asked) = (Arc::clone(&web.answer), Arc::clone(&web.asked));
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let head = head(&mut stream);
                assert!(head.starts_with("GET /ok?deep=1 HTTP/1.1\r\n"), "{head}");
                assert!(head.to_lowercase().contains("\r\nhost: 127.0.0.1:"), "{head}");
                asked.fetch_add(1, Ordering::Relaxed);
                let answer = answer.lock().unwrap().clone();
                if answer.is_empty() {
                    silent.push(stream);
                } else {
                    // The client may disconnect before it has read the whole answer.
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
        });
        web
    }

    pub fn answers(&self, answer: &str) {
        answer.clone_into(&mut self.answer.lock().unwrap());
    }

    pub fn check(&self) -> String {
        format!("http://{}/ok?deep=1", self.addr)
    }

    /// Number of requests that the server has received so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// An answer with this status line and a short body.
pub fn answer(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nok\n")
}

/// Whether the process whose id is in this file has ended.
pub fn is_gone(pid_file: &Path) -> bool {
    let pid = fs::read_to_string(pid_file).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}
