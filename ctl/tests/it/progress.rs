//! Tests the progress of an upload, and of a command of the registry. On a terminal there is a bar,
//! otherwise a line every ten seconds. With `-q` there is no progress.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::rig::{Rig, noise};

/// Maximum time to wait for a line.
const PATIENCE: Duration = Duration::from_secs(60);

/// The output of `deployctl WORDS` on a terminal, and the exit code.
fn on_terminal(rig: &Rig, words: &[&str]) -> (String, i32) {
    let quoted = [&["-key", "op"], words].concat().join(" ");
    let plain = rig.bare(&[]);
    let line = format!("{} {quoted}", plain.get_program().display());
    // `script` runs the command on a new terminal, and exits with the command's exit code.
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null());
    script.current_dir(rig.path("")).env_clear().env("TERM", "xterm");
    script.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = script.output().expect("script, of the package bsdutils");
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap())
}

/// Makes a tar of one sparse file. The upload of the tar takes a while, although the tar takes
/// almost no disk space.
fn hole(rig: &Rig, name: &str, bytes: u64) {
    let mut header = tar::Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_cksum();
    let mut file = File::create(rig.path(name)).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(512 + bytes + 1024).unwrap();
}

/// Checks that a bar is shown, and that blanks remove it at the end.
fn has_bar(shown: &str, text: &str) {
    assert!(shown.contains(text) && shown.contains("iB/s"), "{shown:?}");
    let (bars, end) = shown.rsplit_once('\r').unwrap();
    let (_, last) = bars.rsplit_once('\r').unwrap();
    assert_eq!((last.trim(), end), ("", ""), "the bar stays: {shown:?}");
    assert!(bars.split('\r').all(|bar| bar.len() < 80), "{shown:?}");
}

#[test]
fn upload_bar_disappears_when_done() {
    let rig = Rig::start();
    hole(&rig, "big.tar", 768 << 20);
    let (shown, code) =
        on_terminal(&rig, &["addver", "-name", "a", "-version", "1", "-file", "big.tar"]);
    assert_eq!(code, 0, "{shown:?}");
    // The bar shows the uploaded bytes, the total and the rate.
    has_bar(&shown, "iB / 768.00 MiB");
    let (shown, code) = on_terminal(&rig, &["get", "-name", "a", "-version", "1", "-o", "got.tar"]);
    assert_eq!(code, 0, "{shown:?}");
    has_bar(&shown, "iB / 768.00 MiB");
}

#[test]
fn terminal_shows_progress_of_the_registry() {
    let rig = Rig::start();
    let hole = || {
        let path = rig.path("reg/files").join("ab".repeat(32));
        File::create(path).unwrap().set_len(3 << 30).unwrap();
    };
    hole();
    let (shown, code) = on_terminal(&rig, &["verify", "-json", ">found"]);
    assert_eq!(code, 8, "{shown:?}");
    has_bar(&shown, "iB / 3.00 GiB");
    let found: serde_json::Value =
        serde_json::from_slice(&std::fs::read(rig.path("found")).unwrap()).unwrap();
    assert_eq!(found["damaged"], 1);
    hole();
    let (shown, code) = on_terminal(&rig, &["-q", "verify", ">found"]);
    assert_eq!((&*shown, code), ("", 8));
    // Here standard error is not a terminal, and the work ends before the first line is due.
    let answer = rig.run(&["verify"]);
    assert_eq!(answer.err, "");
}

#[test]
fn quiet_flag_hides_the_bar() {
    let rig = Rig::start();
    rig.archive("big.tar.gz", &noise(8 << 20));
    let add = ["-q", "addver", "-name", "a", "-version", "1", "-file", "big.tar.gz"];
    assert_eq!(on_terminal(&rig, &add), (String::new(), 0));
    // The upload was done, although the screen is empty.
    assert_eq!(rig.list("files").len(), 1);
}

/// An upload from a slow pipe.
struct Slow {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Slow {
    fn start(rig: &Rig, version: &str, flags: &[&str]) -> Self {
        let words = ["-key", "op", "addver", "-name", "a", "-version", version, "-file", "-"];
        let mut command = rig.bare(&[flags, &words].concat());
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (say, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let _ = say.send(line.unwrap());
            }
        });
        // The header announces a file that is far larger than the sent bytes.
        let mut header = tar::Header::new_gnu();
        header.set_path("large").unwrap();
        header.set_size(1 << 40);
        header.set_mode(0o644);
        header.set_cksum();
        stdin.write_all(header.as_bytes()).unwrap();
        Self { child, stdin: Some(stdin), lines }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn progress_lines_go_to_a_pipe_unless_quiet() {
    let rig = Rig::start();
    let piece = noise(256 << 10);
    // The quiet upload begins first. If it printed a line, that line would come before the lines of
    // the other upload.
    let mut quiet = Slow::start(&rig, "1", &["-q"]);
    quiet.send(&piece);
    let mut plain = Slow::start(&rig, "2", &[]);
    let end = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    while told.len() < 2 {
        assert!(Instant::now() < end, "{told:?}");
        for slow in [&mut quiet, &mut plain] {
            slow.send(&piece);
        }
        told.extend(plain.lines.recv_timeout(Duration::from_millis(50)));
    }
    let is_progress = |line: &String| {
        line.starts_with("uploaded ") && line.ends_with("iB/s") && !line.contains('\r')
    };
    assert!(told.iter().all(is_progress), "{told:?}");
    assert!(quiet.lines.try_recv().is_err());
    // Errors are shown even with `-q`.
    quiet.stdin = None;
    let line = quiet.lines.recv_timeout(PATIENCE).unwrap();
    assert!(line.starts_with("file validation failed: "), "{line}");
    assert_eq!(quiet.child.wait().unwrap().code(), Some(1));
}
