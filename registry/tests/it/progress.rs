//! Tests the progress of long commands over ssh. If the client has a terminal, the progress is a
//! bar. Without a terminal, the progress is lines of text.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::rig::{Rig, both};

/// Makes a large file in the registry, so that reading the file takes long. The file needs no disk
/// space, because it is one large hole.
fn hole(rig: &Rig, bytes: u64) {
    let path = rig.path("reg/files").join("ab".repeat(32));
    std::fs::File::create(path).unwrap().set_len(bytes).unwrap();
}

/// The output of `ssh -t registry LINE` on a terminal of 60 columns.
fn on_terminal(rig: &Rig, line: &str) -> String {
    let ssh = rig.client("ssh", "op");
    let words = std::iter::once(ssh.get_program()).chain(ssh.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let line = format!("stty cols 60; {} -tt me@127.0.0.1 {line}", words.join(" "));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(rig.dir.path()).stdin(Stdio::null());
    let output =
        script.output().expect("cannot run the program script, which is in the package bsdutils");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn bar_fits_the_terminal_and_is_cleared_before_the_result() {
    let rig = Rig::start();
    hole(&rig, 3 << 30);
    let shown = on_terminal(&rig, "verify");
    let (bars, result) = shown.rsplit_once("damaged files/").unwrap();
    assert!(result.contains("1 of 1 files read, 3221225472 bytes: 1 damaged"), "{shown:?}");
    let bars: Vec<&str> = bars.split('\r').collect();
    let (last, bars) = bars.split_last().unwrap();
    let (blank, bars) = bars.split_last().unwrap();
    assert_eq!((*last, blank.trim()), ("", ""), "{shown:?}");
    assert!(!bars.is_empty() && !blank.is_empty(), "{shown:?}");
    for bar in bars {
        assert!(bar.starts_with("read ") && bar.contains(" / 3.00 GiB"), "{bar:?}");
        assert!(bar.contains("iB/s") && bar.contains('%') && bar.len() < 60, "{bar:?}");
    }
}

#[test]
fn quiet_command_shows_no_bar() {
    let rig = Rig::start();
    hole(&rig, 3 << 30);
    let shown = on_terminal(&rig, "verify -q");
    assert!(shown.starts_with("damaged files/"), "{shown:?}");
}

#[test]
fn prompt_also_shows_a_bar() {
    let rig = Rig::start();
    hole(&rig, 3 << 30);
    let ssh = rig.client("ssh", "op");
    let words = std::iter::once(ssh.get_program()).chain(ssh.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let line = format!("printf 'verify\\rexit\\r' | {} -tt me@127.0.0.1", words.join(" "));
    let output = Command::new("sh").args(["-c", &line]).current_dir(rig.dir.path()).output();
    let shown = both(&output.unwrap());
    assert!(shown.contains(" / 3.00 GiB"), "{shown:?}");
    assert!(shown.contains("damaged files/"), "{shown:?}");
}

#[test]
fn pipe_gets_a_progress_line_every_ten_seconds() {
    let rig = Rig::start();
    // The test ends before `verify` has read the whole file.
    hole(&rig, 1 << 42);
    let mut ssh = rig.client("ssh", "op");
    ssh.args(["me@127.0.0.1", "verify", "-json"]).stdin(Stdio::null());
    let mut ssh = ssh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = std::time::Instant::now();
    let mut lines = BufReader::new(ssh.stderr.take().unwrap()).lines();
    for _ in 0..2 {
        let line = lines.next().unwrap().unwrap();
        assert!(line.starts_with("read ") && line.contains(" of 4.00 TiB ("), "{line}");
        assert!(line.contains("iB/s, ") && line.ends_with(" left"), "{line}");
    }
    assert!(begun.elapsed().as_secs() >= 19, "{:?}", begun.elapsed());
    ssh.kill().unwrap();
    ssh.wait().unwrap();
}

#[test]
fn bar_uses_the_clients_terminal_width() {
    let rig = Rig::start();
    hole(&rig, 3 << 30);
    let told = |columns: &str| {
        let mut ssh = rig.client("ssh", "op");
        ssh.args(["-o", &format!("SetEnv=DEPLOY_PROGRESS={columns}"), "me@127.0.0.1", "verify"]);
        String::from_utf8(ssh.output().unwrap().stderr).unwrap()
    };
    assert_eq!(told("0"), "");
    // The first run has quarantined the file, so the test makes the file again.
    hole(&rig, 3 << 30);
    let bars = told("40");
    assert!(bars.contains("read ") && bars.ends_with('\r'), "{bars:?}");
    assert!(bars.split('\r').all(|bar| bar.len() < 40), "{bars:?}");
}
