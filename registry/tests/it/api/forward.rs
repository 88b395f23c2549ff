//! Sends HTTP requests to a port, such as a port that stock ssh forwards to the page.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::rig::{Rig, both, wait_until};

/// Time limit for one answer.
const SOON: Duration = Duration::from_secs(60);

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    head: String,
    pub body: String,
}

impl Answer {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|err| panic!("{err}: {self:?}"))
    }

    /// The address of the list's next page.
    pub fn next(&self) -> Option<String> {
        let link = self.header("link")?.strip_prefix('<')?;
        Some(link.strip_suffix(">; rel=\"next\"").unwrap().to_owned())
    }

    /// Checks the status. A refusal must be a problem document with the same status.
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        if status >= 400 {
            assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
            assert_eq!(self.json()["status"], status, "{self:?}");
        }
        self
    }
}

/// Sends bytes to a port, and reads until the registry closes the connection.
pub fn exchange(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    // The registry may refuse a request before it has read the whole request.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    if let Err(err) = stream.read_to_end(&mut answer) {
        assert!(!answer.is_empty() || err.kind() != std::io::ErrorKind::WouldBlock, "{err}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends one request with `lines` in its head.
pub fn send(port: u16, method: &str, path: &str, lines: &[&str], body: &str) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !lines.iter().any(|line| line.starts_with("Host:")) {
        head = format!("{head}Host: localhost:{port}\r\n");
    }
    for line in lines {
        head = head + line + "\r\n";
    }
    if !body.is_empty() {
        head = format!("{head}Content-Length: {}\r\n", body.len());
    }
    Answer::read(&exchange(port, (head + "\r\n" + body).as_bytes()))
}

/// Access to the API through a port that stock ssh forwards.
pub struct Forward {
    pub port: u16,
    pub bearer: String,
    /// The address that logs a browser in.
    pub address: String,
    master: Child,
}

impl Forward {
    pub fn open(rig: &Rig) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut master = rig.client("ssh", "op");
        let forward = format!("{port}:web:80");
        master.args(["-M", "-S", "master", "-N", "-L", &forward, "me@127.0.0.1"]);
        let master = master.spawn().unwrap();
        wait_until("the forward is open", || {
            rig.path("master").exists() && TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let mut web = rig.client("ssh", "op");
        let web = web.args(["-S", "master", "me@127.0.0.1"]).arg(format!("web -json -port {port}"));
        let output = web.output().unwrap();
        assert!(output.status.success(), "{}", both(&output));
        let login: Value = serde_json::from_slice(&output.stdout).unwrap();
        let text = |name: &str| login[name].as_str().unwrap().to_owned();
        Self { port, bearer: text("bearer"), address: text("address"), master }
    }

    /// Sends a request with the bearer token.
    pub fn send(&self, method: &str, path: &str, lines: &[&str], body: &str) -> Answer {
        let bearer = format!("Authorization: Bearer {}", self.bearer);
        let mut all = vec![&*bearer];
        all.extend(lines);
        if !body.is_empty() {
            all.push("Content-Type: application/json");
        }
        send(self.port, method, path, &all, body)
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").is(200)
    }

    /// Opens the address as a browser does. Returns the `Cookie` line for later requests.
    pub fn cookie(&self) -> String {
        let path = self.address.split_once("localhost").unwrap().1.split_once('/').unwrap().1;
        let answer = send(self.port, "GET", &format!("/{path}"), &[], "").is(303);
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap();
        format!("Cookie: {cookie}")
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        let _ = self.master.kill();
        let _ = self.master.wait();
    }
}
