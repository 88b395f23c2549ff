//! Receives the events of the test: starts of the deploy script, and answers of the agent. The
//! script is a few lines of shell, which notify the test and wait. The test does the script's work
//! while the script waits.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

/// An event.
#[derive(Debug)]
pub enum Event {
    /// The deploy script has started, and waits for the test.
    Script(Asking),
    /// The answer to the request with this number. The answer is `None` if the agent has ended.
    Answer(usize, Option<Value>),
}

/// A waiting script, and its environment.
#[derive(Debug, Clone)]
pub struct Asking {
    pub new_id: String,
    pub new_root: PathBuf,
    pub old_root: PathBuf,
    pub versions: Vec<String>,
}

/// The channels for events and requests.
pub struct Events {
    receiver: Receiver<Event>,
    sender: Sender<Event>,
    ask: File,
    answer: File,
    requests: usize,
}

const END: &str = "end";

impl Events {
    /// Opens the channels, and makes the script `deploy.sh` in `dir`.
    pub fn open(dir: &Path) -> Self {
        let [ask, answer] = ["ask", "answer"].map(|name| {
            let path = dir.join(name);
            mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
            // The test opens the fifo for reading and writing, so that the open does not wait for
            // the other end.
            File::options().read(true).write(true).open(path).unwrap()
        });
        let at = dir.display();
        let script = format!(
            "#!/bin/sh\n\
             echo \"$NEWID|$NEWROOT|$OLDROOT|$LAYER_0_VERSION|$LAYER_1_VERSION|$LAYER_2_VERSION\" >{at}/ask\n\
             read -r code <{at}/answer\n\
             echo \"ending with $code\"\nexit \"$code\"\n"
        );
        fs::write(dir.join("deploy.sh"), script).unwrap();
        fs::set_permissions(dir.join("deploy.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        let (sender, receiver) = channel();
        let (lines, scripts) = (BufReader::new(ask.try_clone().unwrap()), sender.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                if line == END || scripts.send(Event::Script(asking(&line))).is_err() {
                    return;
                }
            }
        });
        Self { receiver, sender, ask, answer, requests: 0 }
    }

    /// Sends a request to the agent of the directory `dir`. Returns the number of the request.
    pub fn request(&mut self, dir: &Path, request: &str) -> usize {
        self.requests += 1;
        let (number, sender) = (self.requests, self.sender.clone());
        let (path, line) = (dir.join("control"), format!("{request}\n"));
        std::thread::spawn(move || {
            let _ = sender.send(Event::Answer(number, ask(&path, &line)));
        });
        number
    }

    /// The next event, if an event arrives within this time.
    pub fn next(&self, within: Duration) -> Option<Event> {
        self.receiver.recv_timeout(within).ok()
    }

    /// Ends the waiting script with this exit code.
    pub fn end_script(&mut self, code: u8) {
        writeln!(self.answer, "{code}").unwrap();
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = writeln!(self.ask, "{END}");
    }
}

fn asking(line: &str) -> Asking {
    let fields: Vec<&str> = line.split('|').collect();
    let [new_id, new_root, old_root, versions @ ..] = &fields[..] else {
        panic!("the script sent {line:?}")
    };
    Asking {
        new_id: (*new_id).to_owned(),
        new_root: new_root.into(),
        old_root: old_root.into(),
        versions: versions.iter().map(|version| (*version).to_owned()).collect(),
    }
}

fn ask(path: &Path, line: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(path).ok()?;
    stream.write_all(line.as_bytes()).ok()?;
    let mut json = Vec::new();
    stream.read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}
