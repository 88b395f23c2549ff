//! Plays an agent with stock ssh.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use super::SOON;
use crate::rig::Rig;

/// A watch over stock ssh.
pub struct Watch {
    pub child: Child,
    pub input: ChildStdin,
    pub lines: Receiver<Value>,
}

impl Watch {
    /// Begins to watch `name` as `host`, with the key `key`.
    pub fn begin(rig: &Rig, key: &str, name: &str, host: &str, instance: &str) -> Self {
        let line = format!("watch -name {name} -host {host} -instance {instance}");
        let mut command = rig.client("ssh", key);
        let mut child = command
            .args(["deploy-agent@127.0.0.1", &line])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok).filter(|line| !line.is_empty()) {
                let Ok(()) = sender.send(serde_json::from_str(&line).unwrap()) else { return };
            }
        });
        Self { input: child.stdin.take().unwrap(), child, lines }
    }

    /// The next line that is not empty.
    pub fn next(&self) -> Value {
        self.lines.recv_timeout(SOON).expect("the registry sent no line")
    }

    /// The next offer. Skips the lines before the offer, such as acknowledgements.
    pub fn offer(&self) -> Value {
        loop {
            let line = self.next();
            if line.get("offer").is_some() {
                return line["offer"].clone();
            }
        }
    }

    pub fn send(&mut self, line: &[u8]) {
        self.input.write_all(line).unwrap();
        self.input.write_all(b"\n").unwrap();
    }

    /// Sends a report, and waits for the registry's acknowledgement. Returns the line of the
    /// acknowledgement.
    pub fn report(&mut self, report: &Value) -> Value {
        self.send(json!({ "report": report }).to_string().as_bytes());
        loop {
            let line = self.next();
            if line["ack"] == report["seq"] {
                return line;
            }
        }
    }

    /// Reports that the offer is deployed and healthy.
    pub fn healthy(&mut self, seq: u64, offer: &Value) {
        let id = &offer["id"];
        let report = json!({
            "seq": seq, "revision": offer["revision"], "attempt": seq, "phase": "healthy",
            "runs": id, "wants": id,
        });
        let answer = self.report(&report);
        assert_eq!(answer.get("refused"), None, "{answer}");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
