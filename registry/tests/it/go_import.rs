//! Tests the import of a Go registry's directory. After the import, the registry gives the same
//! answers as the Go registry.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::rig::{Rig, both, names};
use deploy_store::Digest;
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

fn go() -> PathBuf {
    deploy_testing::package().join("tests/go")
}

/// A rig with the directory of a Go registry. The files have the same modes as files of the Go
/// tool.
fn rig() -> Rig {
    let rig = Rig::idle();
    let reg = rig.path("reg");
    for dir in ["", "files", "uploads"] {
        fs::create_dir(reg.join(dir)).unwrap();
        fs::set_permissions(reg.join(dir), Permissions::from_mode(0o700)).unwrap();
    }
    let from = go().join("registry");
    let files = names(&from.join("files")).into_iter().map(|name| format!("files/{name}"));
    for name in files.chain(["state.db", "host_key"].map(str::to_owned)) {
        fs::copy(from.join(&name), reg.join(&name)).unwrap();
        fs::set_permissions(reg.join(&name), Permissions::from_mode(0o600)).unwrap();
    }
    rig
}

fn import(rig: &Rig, flags: &[&str]) -> Output {
    rig.refused(&[&["import-state", "-dir", "reg"], flags].concat())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{err}: {}", both(output)))
}

/// Commands, with the answers and exit codes of the Go tool.
fn answers() -> Vec<(String, String, i32)> {
    let text = fs::read_to_string(go().join("answers.txt")).unwrap();
    let parts = text.split("$ ").filter(|part| !part.is_empty());
    let part = |part: &str| {
        let (command, rest) = part.split_once('\n').unwrap();
        let (answer, code) = rest.rsplit_once("rc=").unwrap();
        (command.to_owned(), answer.to_owned(), code.trim().parse().unwrap())
    };
    parts.map(part).collect()
}

#[test]
fn every_answer_matches_the_go_tool() {
    let mut rig = rig();
    let before = rig.sha256("reg/state.db");
    rig.run();
    let answers = answers();
    assert_eq!(answers.len(), 12);
    for (command, want, code) in &answers {
        let output = rig.ssh("op", "me", &[command]);
        assert_eq!(both(&output), *want, "{command}");
        assert_eq!(output.status.success(), *code == 0, "{command}");
    }
    for name in names(&go().join("configs")) {
        let output = rig.sftp("srv", "deploy-agent", &format!("get \"configs/{name}\" got"));
        assert!(output.status.success(), "{}", both(&output));
        let want = fs::read(go().join("configs").join(&name)).unwrap();
        assert_eq!(fs::read(rig.path("got")).unwrap(), want, "{name}");
    }
    assert_eq!(rig.sha256("reg/state.db"), before);
    // The registry still has the host key that clients know.
    let known = rig.wait_for_log("host key fingerprint");
    let fingerprint = deploy_testing::fingerprint(&rig.path("reg/host_key"));
    assert!(known.contains(&fingerprint), "{known}: {fingerprint}");
}

#[test]
fn rollback_to_the_hidden_history_of_the_go_tool_works() {
    let mut rig = rig();
    rig.run();
    let history = json(&rig.ssh("op", "me", &["history -name project1 -json"]));
    let hashes: Vec<&str> = history["states"]
        .as_array()
        .unwrap()
        .iter()
        .map(|state| state["hash"].as_str().unwrap())
        .collect();
    let starts = ["97cc2", "6c5bf", "97cc2", "5904e", "1e739", "ba783"];
    assert_eq!(hashes.len(), starts.len());
    assert!(hashes.iter().zip(starts).all(|(hash, start)| hash.starts_with(start)), "{hashes:?}");
    rig.ok("rollback -name project1 -to 2");
    assert!(rig.ok("showconf -v -name project1").contains("1e739ba1"));
    // `bumpconf` takes the most recent version, which is also the last version in the Go tool's
    // order.
    rig.ok("bumpconf -name project1 -component config");
    assert!(rig.ok("showconf -name project1").contains("v03"));
    // After a restart, the answers are the same, and there was no second import.
    assert!(rig.stop("-TERM").success());
    rig.run();
    assert!(!rig.log().iter().any(|line| line.contains("imported the state")), "{:?}", rig.log());
    let history = json(&rig.ssh("op", "me", &["history -name project1 -json"]));
    assert_eq!(history["states"].as_array().unwrap().len(), 8);
    let verified = rig.ssh("op", "me", &["verify"]);
    assert!(verified.status.success(), "{}", both(&verified));
}

#[test]
fn import_dry_run_changes_nothing() {
    let mut rig = rig();
    let before = names(&rig.path("reg"));
    let shown = import(&rig, &["-n"]);
    assert!(shown.status.success(), "{}", both(&shown));
    let text = both(&shown);
    for line in [
        "components      6\n",
        "versions        11\n",
        "configurations  3, 9 states\n",
        "files           12, 2363 bytes\n",
        "nothing was imported\n",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let orphans: Vec<&str> = text.lines().filter(|line| line.starts_with("orphan")).collect();
    assert_eq!(orphans.len(), 2, "{text}");
    assert!(
        orphans[0].contains("files/4f7dfa90") && orphans[1].contains("files/8b9e816c"),
        "{text}"
    );
    assert_eq!(names(&rig.path("reg")), before);
    let shown = json(&import(&rig, &["-n", "-json"]));
    assert_eq!((&shown["versions"], &shown["dry_run"]), (&11.into(), &true.into()));
    let done = import(&rig, &[]);
    assert!(both(&done).contains("the import is complete"), "{}", both(&done));
    let again = import(&rig, &[]);
    assert!(
        !again.status.success() && both(&again).contains("it was imported before"),
        "{}",
        both(&again)
    );
    rig.run();
    assert_eq!(rig.ok("components").lines().count(), 6);
    let audit = rig.ok("audit");
    assert!(audit.contains("import-state"), "{audit}");
}

#[test]
fn running_go_registry_is_reported_and_later_locked_out() {
    let mut rig = rig();
    let file = File::options().read(true).write(true).open(rig.path("reg/state.db")).unwrap();
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    // To this registry, the uploads of a running Go registry look like the remains of a crash.
    fs::write(rig.path("reg/uploads/upload-1"), "half of one").unwrap();
    for refused in [
        import(&rig, &["-n"]),
        import(&rig, &[]),
        rig.refused(&[
            "-addr",
            "127.0.0.1:0",
            "-dir",
            "reg",
            "-opauth",
            "op.keys",
            "-srvauth",
            "srv.keys",
        ]),
    ] {
        let text = both(&refused);
        let pid = format!("(pid {})", std::process::id());
        assert!(!refused.status.success(), "{text}");
        assert!(text.contains("a Go registry still runs") && text.contains(&pid), "{text}");
    }
    assert_eq!(names(&rig.path("reg/uploads")), ["upload-1"]);
    assert!(!rig.path("reg/catalogue.db").exists(), "the refused import made a catalogue");
    flock(&file, FlockOperation::Unlock).unwrap();
    rig.run();
    // While the registry runs, no Go registry can lock the file.
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap_err();
    assert!(rig.stop("-TERM").success());
    flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
}

/// Only one file is unreadable. The user who runs the import owns the directory and the other
/// files.
#[test]
fn unreadable_file_stops_the_import_and_is_not_moved() {
    const NOBODY: u32 = 65534;
    let mut rig = rig();
    let before = names(&rig.path("reg/files"));
    let closed = rig.path("reg/files").join(&before[0]);
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).unwrap();
    let program = rig.path("program");
    fs::copy(env!("CARGO_BIN_EXE_deploy-registry"), &program).unwrap();
    let mut command = Command::new(program);
    command.args(["import-state", "-dir", "reg"]).current_dir(rig.path(""));
    if rustix::process::geteuid().is_root() {
        // Root can read every file, so the test runs the program as another user.
        for path in ["", "reg", "reg/files", "reg/uploads", "reg/state.db"] {
            chown(rig.path(path), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        for name in &before[1..] {
            chown(rig.path("reg/files").join(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        command.uid(NOBODY).gid(NOBODY);
    }
    let text = both(&command.output().unwrap());
    assert!(text.contains(&before[0]) && text.contains("Permission denied"), "{text}");
    assert_eq!(names(&rig.path("reg/files")), before);
    assert_eq!(names(&rig.path("reg/quarantine")), [""; 0]);
    // As soon as the file is readable, the registry imports everything.
    fs::set_permissions(&closed, Permissions::from_mode(0o600)).unwrap();
    rig.run();
    assert_eq!(names(&rig.path("reg/files")), before);
}

#[test]
fn damage_is_reported_with_the_affected_versions() {
    let mut rig = rig();
    let digest = |start: &str| {
        names(&rig.path("reg/files")).into_iter().find(|name| name.starts_with(start)).unwrap()
    };
    let (damaged, missing, old) = (digest("735bdb10"), digest("961f56b7"), digest("fa06e1e5"));
    fs::write(rig.path("reg/files").join(&damaged), "something else").unwrap();
    fs::remove_file(rig.path("reg/files").join(&missing)).unwrap();
    fs::remove_file(rig.path("reg/files").join(&old)).unwrap();
    let shown = import(&rig, &["-n"]);
    assert_eq!(shown.status.code(), Some(8));
    let text = both(&shown);
    for line in [
        format!(
            "damaged         files/{damaged}: its contents do not match the digest in its name; bytes read: 14\n"
        ),
        "                affects configuration project1\n".to_owned(),
        format!("missing         files/{missing}: upload the same bytes again\n"),
        "                affects version scripts:v1.0.0\n".to_owned(),
        "of project1: missing files of config:v02\n".to_owned(),
    ] {
        assert!(text.contains(&line), "no {line:?} in {text}");
    }
    rig.run();
    assert_eq!(names(&rig.path("reg/quarantine")), std::slice::from_ref(&damaged));
    let verified = rig.ssh("op", "me", &["verify"]);
    assert_eq!(verified.status.code(), Some(8));
    // `verify` does not report a state that was already lost at the import. It reports the version
    // whose file is missing.
    let found = both(&verified);
    assert!(
        found.contains(&damaged) && found.contains(&missing) && found.contains(&old),
        "{found}"
    );
    let of_old = found.split(&format!("files/{old}")).nth(1).unwrap();
    let hits = of_old.lines().skip(1).take_while(|line| line.starts_with('\t'));
    assert_eq!(hits.collect::<Vec<_>>(), ["\taffects version config v02"], "{found}");
    // An upload of the same bytes repairs the damage.
    fs::copy(go().join("registry/files").join(&damaged), rig.path("again")).unwrap();
    rig.put("again");
    assert_eq!(
        Digest::of(&fs::read(rig.path("reg/files").join(&damaged)).unwrap()).to_string(),
        damaged
    );
}

#[test]
fn damaged_state_db_is_refused_and_not_changed() {
    let rig = rig();
    let path = rig.path("reg/state.db");
    let good = fs::read(&path).unwrap();
    let mut no_metas = good.clone();
    no_metas[..8192].fill(0);
    for (bytes, why) in [
        (good[..9000].to_vec(), "is damaged: the file ends before page"),
        (no_metas, "is not a bolt file"),
        (Vec::new(), "is not a bolt file"),
    ] {
        fs::write(&path, &bytes).unwrap();
        let refused = rig.refused(&[
            "-addr",
            "127.0.0.1:0",
            "-dir",
            "reg",
            "-opauth",
            "op.keys",
            "-srvauth",
            "srv.keys",
        ]);
        let text = both(&refused);
        assert!(!refused.status.success() && text.contains(why), "{text}");
        assert!(
            text.contains("reg/state.db") && text.contains("nothing was imported or changed"),
            "{text}"
        );
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // With a valid file, the import works as usual.
    fs::write(&path, good).unwrap();
    let done = import(&rig, &[]);
    assert!(done.status.success(), "{}", both(&done));
}

#[test]
fn later_changes_of_a_go_registry_are_detected() {
    let mut rig = rig();
    rig.run();
    assert!(rig.stop("-TERM").success());
    let path = rig.path("reg/state.db");
    // The changed bit makes the newest meta page invalid. So the file has the state of the transaction
    // before, which counts as a change.
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096 + 16 + 20] ^= 1;
    fs::write(&path, bytes).unwrap();
    let refused = rig.refused(&[
        "-addr",
        "127.0.0.1:0",
        "-dir",
        "reg",
        "-opauth",
        "op.keys",
        "-srvauth",
        "srv.keys",
    ]);
    let text = both(&refused);
    assert!(!refused.status.success(), "{text}");
    assert!(
        text.contains("a Go registry has changed it since") && text.contains("move state.db away"),
        "{text}"
    );
    fs::rename(&path, rig.path("state.db")).unwrap();
    rig.run();
    assert_eq!(rig.ok("components").lines().count(), 6);
}

#[test]
fn killed_import_is_completed_at_the_next_start() {
    // At whatever moment the import is killed, the registry has each item exactly once after the
    // next start.
    for moment in 0..12 {
        let mut rig = rig();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_deploy-registry"))
            .args(["import-state", "-dir", "reg"])
            .current_dir(rig.dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(moment * 8));
        let _ = child.kill();
        child.wait().unwrap();
        rig.run();
        assert_eq!(rig.ok("showcomp -name many").lines().count(), 3);
        let history = json(&rig.ssh("op", "me", &["history -name project1 -json"]));
        assert_eq!(history["states"].as_array().unwrap().len(), 6);
        assert!(rig.ssh("op", "me", &["verify"]).status.success());
    }
}

#[test]
fn configuration_with_a_missing_version_is_reported_and_kept() {
    let mut rig = rig();
    // In the Go tool's file, the test makes a configuration use a version that does not exist.
    let path = rig.path("reg/state.db");
    let mut bytes = fs::read(&path).unwrap();
    let (from, to) = (b"\"Version\": \"m4\"", b"\"Version\": \"m8\"");
    let mut at = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|part| part == from) {
        at += found;
        bytes[at..at + to.len()].copy_from_slice(to);
    }
    assert!(at > 0);
    fs::write(&path, bytes).unwrap();
    let text = both(&import(&rig, &["-n"]));
    let odd = "configuration service-2 uses version m8 of many, which no longer exists; the file \
               that the configuration uses is kept";
    assert!(text.contains(odd), "{text}");
    rig.run();
    assert!(rig.ok("showconf -name service-2").contains("m8"));
    assert!(rig.ssh("op", "me", &["verify"]).status.success());
}
