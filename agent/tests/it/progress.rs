//! Tests how long-running work shows its progress: as a bar on a terminal, and otherwise as log
//! lines.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::site::{Site, both};

/// Runs `deploy-agent WORDS` on a terminal of 70 columns. Returns the output and the exit code.
fn on_terminal(dir: &Path, words: &str) -> (String, i32) {
    let line = format!("stty cols 70; {} {words}", env!("CARGO_BIN_EXE_deploy-agent"));
    let mut script = Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).current_dir(dir).stdin(Stdio::null());
    let output = script.output().expect("the program `script` of the package bsdutils starts");
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

/// Splits the output on a terminal into the bars and the final text.
fn parts(shown: &str) -> (Vec<&str>, &str) {
    let shown = shown.strip_suffix("\r\n").unwrap_or(shown);
    let (bars, end) = shown.rsplit_once('\r').unwrap_or(("", shown));
    let bars: Vec<&str> = bars.split('\r').filter(|bar| !bar.trim().is_empty()).collect();
    assert!(bars.iter().all(|bar| bar.len() < 70), "{shown:?}");
    (bars, end)
}

/// Makes a tar with one file that contains only zeros. In the tar, the zeros are a hole.
fn hole(path: &Path, bytes: u64) {
    let mut header = tar::Header::new_gnu();
    header.set_path("hole").unwrap();
    header.set_size(bytes);
    header.set_mode(0o644);
    header.set_cksum();
    let mut file = File::create(path).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(512 + bytes + 1024).unwrap();
}

#[test]
fn unpack_shows_a_bar_and_then_its_result() {
    let temp = tempfile::tempdir().unwrap();
    hole(&temp.path().join("big.tar"), 3 << 30);
    let (shown, code) = on_terminal(temp.path(), "unpack big.tar -into one");
    assert_eq!(code, 0, "{shown:?}");
    let (bars, end) = parts(&shown);
    assert!(bars.iter().any(|bar| bar.starts_with("read ")), "{shown:?}");
    assert!(bars.iter().any(|bar| bar.contains(" / 3.00 GiB")), "{shown:?}");
    assert!(end.starts_with("unpacked 1 archive into \"one\": "), "{shown:?}");
    let (shown, code) = on_terminal(temp.path(), "unpack -q big.tar -into two");
    assert_eq!((code, shown.matches('\r').count()), (0, 1), "{shown:?}");
    // Without a terminal there is no bar, and the work ends before the first log line about
    // progress is due.
    let mut agent = Command::new(env!("CARGO_BIN_EXE_deploy-agent"));
    agent.args(["unpack", "big.tar", "-into", "three"]).current_dir(temp.path());
    let output = agent.output().unwrap();
    assert!(!both(&output).contains('\r'), "{}", both(&output));
}

#[test]
fn verify_shows_a_bar_and_its_usual_result() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir_all(temp.path().join("cache")).unwrap();
    let blob = temp.path().join("cache").join("ab".repeat(32));
    File::create(&blob).unwrap().set_len(3 << 30).unwrap();
    let (shown, code) = on_terminal(temp.path(), "verify -json >found");
    assert_eq!(code, 8, "{shown:?}");
    let (bars, end) = parts(&shown);
    assert!(bars.iter().any(|bar| bar.contains(" / 3.00 GiB")), "{shown:?}");
    assert_eq!(end, "", "{shown:?}");
    let found = fs::read(temp.path().join("found")).unwrap();
    let found: serde_json::Value = serde_json::from_slice(&found).unwrap();
    assert_eq!(found["blobs"], 1);
    let (shown, code) = on_terminal(temp.path(), "verify -q -json >found");
    assert_eq!((&*shown, code), ("", 8));
}

#[test]
fn agent_logs_progress_of_a_slow_download() {
    let mut site = Site::new();
    site.put_script(":");
    site.start_registry("registry");
    let noise: Vec<u8> = {
        let mut state = 1_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(4 << 20).collect()
    };
    fs::write(site.path("noise"), noise).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-cf", "noise.tar", "noise"]).current_dir(site.dir.path());
    assert!(tar.status().unwrap().success());
    site.operator(&["addver", "-name", "a", "-version", "1", "-file", "noise.tar"]);
    site.operator(&["addconf", "-name", "p", "-layer", "a:1"]);
    let once = |flags: &[&str]| {
        let begun = Instant::now();
        let _ = fs::remove_dir_all(site.path("agent"));
        fs::create_dir(site.path("agent")).unwrap();
        let mut agent = site.agent("p");
        let output = agent.args(["-once", "-limit-download", "350K"]).args(flags).output().unwrap();
        assert!(output.status.success(), "{}", both(&output));
        assert!(begun.elapsed() > Duration::from_secs(10), "{:?}", begun.elapsed());
        both(&output)
    };
    let told = once(&[]);
    let line = told.lines().find(|line| line.contains("\"event\":\"progress\"")).unwrap();
    assert!(line.contains("downloaded ") && line.contains(" MiB of 4.00 MiB ("), "{line}");
    assert!(line.contains(" KiB/s, ") && line.contains("s left\"}"), "{line}");
    let told = once(&["-q"]);
    assert!(!told.contains("\"progress\""), "{told}");
}
