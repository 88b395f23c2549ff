//! Tests the program on the command line, without a registry.

#![allow(clippy::print_stderr, reason = "the tests print skipped parts")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn agent(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_deploy-agent"))
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .output()
        .unwrap()
}

/// Runs the program, and checks the exit code and a part of stderr.
fn fails(dir: &Path, arguments: &[&str], code: i32, want: &str) {
    let output = agent(dir, arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(want), "{arguments:?}: {stderr}");
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
}

const FP: &str = "-fp=SHA256:uNiVztksCsDhcc0u9e8BrrQXVUpWMsb8iJh4aVnhPwA";

#[test]
fn missing_flags_are_reported_in_the_go_tools_words() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    fails(dir, &[], 2, "empty configuration name");
    fails(dir, &["-name", "p", "--state="], 2, "no state file set");
    let fp = "invalid server key fingerprint, expecting SHA256 fingerprint";
    fails(dir, &["-name=p"], 2, fp);
    fails(dir, &["--name", "p", "-fp", "sha256:abc"], 2, fp);
    fails(dir, &["-bogus"], 2, "-bogus");
    fails(dir, &["-poll", "30"], 2, "write it like 30s");
    fails(dir, &["-name=p", FP, "-poll=0s"], 2, "-poll must be more than 0s");
    fails(dir, &["-name=a/b", FP], 1, "cannot contain /");
}

#[test]
fn help_shows_flags_with_defaults_and_variables() {
    let temp = tempfile::tempdir().unwrap();
    for flag in ["-h", "-help", "--help"] {
        let output = agent(temp.path(), &[flag]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).unwrap();
        for want in ["localhost:2022", "id_ecdsa", "./deploy.sh", "DEPLOY_AGENT_SCRIPT_TIMEOUT"] {
            assert!(text.contains(want), "{flag}: no {want} in {text}");
        }
    }
}

#[test]
fn second_agent_names_the_process_that_uses_the_directory() {
    let temp = tempfile::tempdir().unwrap();
    let lock = deploy_store::disk::Lock::take(temp.path()).unwrap();
    let want = format!(
        "cannot acquire exclusive lock on \".\": in use by another process (pid {})",
        std::process::id()
    );
    fails(temp.path(), &["-name=p", FP], 1, &want);
    let status = agent(temp.path(), &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["agent_pid"], std::process::id());
    drop(lock);
    let status = String::from_utf8(agent(temp.path(), &["status"]).stdout).unwrap();
    assert!(status.contains("agent          not running"), "{status}");
}

/// Makes a tar.gz of `files` with the tools of the system.
fn archive(dir: &Path, name: &str, files: &[(&str, &str)]) {
    let tree = dir.join(format!("{name}.tree"));
    for (path, contents) in files {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    let mut tar = Command::new("tar");
    tar.args(["czf", name, "-C"]).arg(&tree).arg(".").current_dir(dir);
    assert!(tar.status().unwrap().success());
    fs::remove_dir_all(tree).unwrap();
}

#[test]
fn unpack_merges_archives_into_a_new_directory() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    archive(dir, "code.tar.gz", &[("bin/run", "run"), ("etc/conf", "old")]);
    archive(dir, "config.tar.gz", &[("etc/conf", "new")]);
    let arguments = ["unpack", "code.tar.gz", "-into", "one", "config.tar.gz", "--link=copy"];
    let output = agent(dir, &arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(
        stderr.starts_with("unpacked 2 archives into \"one\": files: 2 copied in "),
        "{stderr}"
    );
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert_eq!(fs::read_to_string(dir.join("one/etc/conf")).unwrap(), "new");
    assert_eq!(fs::read_to_string(dir.join("one/bin/run")).unwrap(), "run");
    fails(dir, &["unpack", "code.tar.gz", "-into", "one"], 1, "not empty");
    assert_eq!(fs::read_to_string(dir.join("one/etc/conf")).unwrap(), "new");
    assert!(agent(dir, &["unpack", "--into=two", "code.tar.gz"]).status.success());
    assert_eq!(fs::read_to_string(dir.join("two/etc/conf")).unwrap(), "old");
}

/// Tests `unpack` as an ordinary user who may write only to the target directory. GNU tar and
/// bsdtar can also unpack in this case.
#[test]
fn ordinary_user_can_unpack_into_an_owned_directory() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
    const UID: u32 = 65534;
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        eprintln!("NOT TESTED: only root can become another user");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let mode =
        |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    // With this mode, the user cannot even list the directory.
    mode(dir, 0o711);
    let program = dir.join("deploy-agent");
    fs::copy(env!("CARGO_BIN_EXE_deploy-agent"), &program).unwrap();
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("closed")).unwrap();
    fs::write(tree.join("closed/file"), "file").unwrap();
    fs::write(tree.join("tool"), "tool").unwrap();
    mode(&tree.join("tool"), 0o6755);
    mode(&tree.join("closed"), 0o2555);
    // Even the owner of this directory has no permissions for the directory.
    fs::create_dir(tree.join("shut")).unwrap();
    fs::write(tree.join("shut/file"), "file").unwrap();
    mode(&tree.join("shut"), 0o000);
    mode(&tree, 0o750);
    let tar = ["cf", "a.tar", "-C", "tree", "."];
    assert!(Command::new("tar").args(tar).current_dir(dir).status().unwrap().success());
    for (name, mine) in [("mine", true), ("shared", false)] {
        let into = dir.join(name);
        fs::create_dir(&into).unwrap();
        mode(&into, if mine { 0o700 } else { 0o777 });
        if mine {
            chown(&into, Some(UID), Some(UID)).unwrap();
        }
        let id = UID.to_string();
        let output = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .arg(&program)
            .args(["unpack", "-into"])
            .args([&into, &dir.join("a.tar")])
            .env_clear()
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {stderr}");
        let of = |name: &str| fs::metadata(into.join(name)).unwrap();
        assert_eq!(fs::read_dir(&into).unwrap().count(), 3, "{name}: unexpected entries are left");
        assert_eq!(of("shut").mode() & 0o7777, 0);
        assert_eq!(fs::read_to_string(into.join("shut/file")).unwrap(), "file");
        // The user cannot set the owner of the file, so the file gets no setuid bit.
        assert_eq!((of("tool").mode() & 0o7777, of("tool").uid()), (0o755, UID), "{name}");
        assert_eq!(of("closed").mode() & 0o7777, 0o555);
        assert_eq!(fs::read_to_string(into.join("closed/file")).unwrap(), "file");
        assert_eq!(of(".").mode() & 0o7777, if mine { 0o750 } else { 0o777 });
        assert_eq!(stderr.contains("keeps its mode and time"), !mine, "{stderr}");
    }
}

#[test]
fn unpack_of_deep_trees_stays_within_1024_open_files() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let deep = ["d"; 990].join("/");
    let mut builder = tar::Builder::new(fs::File::create(dir.join("deep.tar")).unwrap());
    for n in 0..8 {
        let mut header = tar::Header::new_gnu();
        header.set_size(5);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("{n}/{deep}/file"), &b"hello"[..]).unwrap();
    }
    builder.finish().unwrap();
    let script = "ulimit -n 1024 && exec \"$0\" unpack deep.tar -into out";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_deploy-agent")])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for n in 0..8 {
        let file = dir.join(format!("out/{n}/{deep}/file"));
        assert_eq!(fs::read_to_string(file).unwrap(), "hello");
    }
    // The test removes the tree with `rm`, because Rust's library would need one open file for each
    // level.
    assert!(Command::new("rm").args(["-rf", "out"]).current_dir(dir).status().unwrap().success());
}

#[test]
fn unpack_names_a_bad_archive_and_leaves_no_files() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    archive(dir, "good.tar.gz", &[("a", "a")]);
    let whole = fs::read(dir.join("good.tar.gz")).unwrap();
    fs::write(dir.join("cut.tar.gz"), &whole[..whole.len() - 9]).unwrap();
    fails(dir, &["unpack", "good.tar.gz", "cut.tar.gz", "-into", "out"], 1, "cut.tar.gz");
    fails(dir, &["unpack", "none.tar.gz", "-into", "out"], 1, "none.tar.gz");
    fails(dir, &["unpack", "-into", "out"], 2, "BLOB");
    fails(dir, &["unpack", "good.tar.gz"], 2, "into");
    assert!(!dir.join("out").exists());
    let left = fs::read_dir(dir).unwrap().count();
    assert_eq!(left, 2, "something was left in the directory");
}

#[test]
fn status_reports_an_empty_or_missing_directory() {
    let temp = tempfile::tempdir().unwrap();
    let status = String::from_utf8(agent(temp.path(), &["status"]).stdout).unwrap();
    assert!(status.contains("nothing deployed yet"), "{status}");
    fails(
        temp.path(),
        &["status", "-dir", "none"],
        1,
        "there is no directory none: no agent has run there; check -dir",
    );
    fails(
        temp.path(),
        &["-dir=none", "status"],
        1,
        "there is no directory none: no agent has run there; check -dir",
    );
}

#[test]
fn verify_reports_damage_by_its_exit_code() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    // If there is nothing to verify, the value of `-dir` is most likely wrong. In this case,
    // `verify` must not report that everything is sound.
    fs::write(dir.join("file"), "").unwrap();
    for words in [&["verify", "-dir", "."][..], &["verify", "-repair", "-json", "-dir", "."]] {
        fails(dir, words, 1, "nothing to verify in .: no agent has deployed there; check -dir");
    }
    fails(dir, &["verify", "-dir", "none"], 1, "there is no directory none");

    let name = "ab".repeat(32);
    fs::create_dir_all(dir.join("objects/ab")).unwrap();
    fs::write(dir.join("objects/ab").join(&name), "not so").unwrap();
    let damaged = agent(dir, &["verify", "-json", "-dir", "."]);
    assert_eq!(damaged.status.code(), Some(8));
    let json: serde_json::Value = serde_json::from_slice(&damaged.stdout).unwrap();
    assert_eq!(json["objects"], 1);
    let path = json["findings"][0]["path"].as_str().unwrap();
    assert!(path.ends_with(&format!("objects/ab/{name}")), "{path}");
}
