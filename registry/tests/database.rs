//! The database's own writes and syncs fail, or are the last thing that the registry does.

#![allow(clippy::print_stdout, reason = "what is left out is said")]

mod rig;

use std::process::Command;

use rig::{Rig, both};

/// Which of the words that follow were acknowledged.
fn change(rig: &Rig, digests: &[String]) -> Vec<String> {
    let mut done = Vec::new();
    for (n, digest) in digests.iter().enumerate() {
        rig.sftp("op", "me", &format!("put a{n}"));
        for line in [
            format!("addver -name code -version v{n} -hash {digest}"),
            format!("addconf -name p{n} -layer code:v{n}"),
        ] {
            if rig.ssh("op", "me", &[&line]).status.success() {
                done.push(line);
            }
        }
    }
    done
}

#[test]
fn what_was_acknowledged_survives_a_database_that_cannot_write() {
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "there is no strace");
        println!("NOT TESTED: there is no strace, which makes system calls fail");
        return;
    }
    let (mut points, mut refused) = (0, 0);
    for (call, fault) in [
        ("fdatasync", "error=EIO"),
        ("pwrite64", "error=ENOSPC"),
        ("fdatasync", "signal=KILL"),
        ("pwrite64", "signal=KILL"),
    ] {
        for n in (1..40).step_by(3) {
            let mut rig = Rig::idle();
            let digests: Vec<String> =
                (0..3).map(|n| rig.archive(&format!("a{n}"), format!("{n}").as_bytes())).collect();
            // Made, and whole, before anything fails.
            rig.run();
            rig.stop("-TERM");
            let inject = format!("inject={call}:{fault}:when={n}");
            let strace = ["strace", "-f", "-qq", "-o", "trace", "-e", &format!("trace={call}")];
            let strace = [&strace[..], &["-e", &inject]].concat();
            let started = rig.try_run_under(&strace);
            let done = if started { change(&rig, &digests) } else { Vec::new() };
            rig.kill_all();
            let happened = std::fs::read_to_string(rig.path("trace")).unwrap();
            points += u32::from(happened.contains("INJECTED") || happened.contains("SIGKILL"));
            refused += 6 - done.len();
            rig.run();
            for line in &done {
                let word = |n: usize| line.split(' ').nth(n).unwrap().to_owned();
                let shown = if line.starts_with("addver") {
                    rig.ok("showcomp -name code").contains(&word(4))
                } else {
                    rig.ok("configurations").contains(&word(2))
                };
                assert!(shown, "{call} {fault} at {n}: {line} is gone");
            }
            let verified = rig.ssh("op", "me", &["verify"]);
            assert!(verified.status.success(), "{call} {fault} at {n}: {}", both(&verified));
            // And all goes on.
            let digest = rig.archive("next", b"next");
            rig.put("next");
            rig.ok(&format!("addver -name code -version next -hash {digest}"));
        }
    }
    println!("{points} faults, {refused} changes refused");
    assert!(points > 20 && refused > 20, "{points} faults, {refused} changes refused");
}
