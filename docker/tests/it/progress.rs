//! Tests the progress display of an import: a terminal shows a bar between the lines about events.

use std::fs;
use std::process::{Command, Stdio};

use crate::image::{Tar, docker};

#[test]
fn import_bar_is_cleared_before_each_line() {
    let temp = tempfile::tempdir().unwrap();
    let layer = Tar::new().file("data", "x".repeat(1 << 20)).end();
    fs::write(temp.path().join("image.tar"), docker(&[("app:1", &[layer])])).unwrap();
    let program = env!("CARGO_BIN_EXE_deploy-from-docker");
    // The image arrives slowly.
    let shown = |quiet: &str| {
        let line = format!(
            "stty cols 60; (head -c 600000 image.tar; sleep 3; tail -c +600001 image.tar) | \
             {program} -no-cache {quiet} -into into{quiet}"
        );
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).current_dir(temp.path()).stdin(Stdio::null());
        let output = script.output().expect("script, of the package bsdutils");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text:?}");
        text
    };
    let loud = shown("");
    let (bars, lines) = loud.split_once("uploading 1/1: \"app.1.l1\"").unwrap();
    let bars: Vec<&str> = bars.split('\r').collect();
    let (last, bars) = bars.split_last().unwrap();
    let (blank, bars) = bars.split_last().unwrap();
    assert_eq!((*last, blank.trim()), ("", ""), "{loud:?}");
    let is_reading = |bar: &&str| bar.starts_with("read ") && bar.contains("B/s");
    // The upload has its own bar, which appears only if the upload is slow.
    let is_bar = |bar: &&str| is_reading(bar) || bar.starts_with("packed and sent ");
    assert!(bars.iter().any(is_reading), "{loud:?}");
    assert!(bars.iter().all(|bar| is_bar(bar) && bar.len() < 60), "{loud:?}");
    assert!(lines.contains("updating configuration \"app.1\""), "{loud:?}");
    assert!(!shown("-q").contains("read "));
}
