//! Runs systemd's checks on the systemd units.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output};

use tempfile::TempDir;

/// Copies the units to a directory. Systemd's checks need a program that exists, so the copies
/// start the registry that was built for the tests.
fn units() -> (TempDir, [String; 2]) {
    let temp = TempDir::new().unwrap();
    let from = deploy_testing::package().join("../packaging");
    let paths = [
        ("deploy-registry.service", "deploy-registry.service"),
        ("deploy-agent@.service", "deploy-agent@project1.service"),
    ]
    .map(|(name, as_name)| {
        let text = fs::read_to_string(from.join(name)).unwrap();
        let program = name.split(['.', '@']).next().unwrap();
        let start = format!("ExecStart=/usr/bin/{program}\n");
        assert!(text.contains(&start), "{name}");
        let here = format!("ExecStart={}\n", env!("CARGO_BIN_EXE_deploy-registry"));
        let path = temp.path().join(as_name);
        fs::write(&path, text.replace(&start, &here)).unwrap();
        path.to_str().unwrap().to_owned()
    });
    (temp, paths)
}

fn analyze(words: &[&str]) -> Option<Output> {
    match Command::new("systemd-analyze").args(words).output() {
        Ok(output) => Some(output),
        Err(err) => {
            assert!(std::env::var_os("CI").is_none(), "systemd-analyze: {err}");
            let text = format!("NOT TESTED: units; systemd-analyze: {err}\n");
            std::io::stderr().write_all(text.as_bytes()).unwrap();
            None
        }
    }
}

#[test]
fn systemd_accepts_the_units() {
    let (_temp, [registry, agent]) = units();
    let Some(output) = analyze(&["verify", "--man=no", &registry, &agent]) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("deploy-")).collect();
    assert!(ours.is_empty(), "{said}");
}

#[test]
fn registry_unit_is_sandboxed_as_documented() {
    let (_temp, [registry, agent]) = units();
    // docs/OPERATING.md gives the same ratings. Here they are in tenths.
    for (unit, most) in [(registry, "--threshold=14"), (agent, "--threshold=81")] {
        let words = ["security", "--no-pager", "--offline=yes", most, &unit];
        let Some(output) = analyze(&words) else { return };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
