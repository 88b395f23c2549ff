//! Tests stock commands that upload and bind in one step: `tar | ssh registry put` and `scp x
//! registry:/put/NAME/VERSION`. Also tests the directories that the registry shows to clients.

use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};

use crate::rig::{Rig, both, wait_until};

/// Runs `ssh registry LINE` with `input` on its standard input.
fn piped(rig: &Rig, line: &str, input: &[u8]) -> Output {
    let mut child = start(rig, line);
    // The write may fail, because a registry that refuses early reads no further input.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn start(rig: &Rig, line: &str) -> Child {
    let mut command = rig.client("ssh", "op");
    command.args(["me@127.0.0.1", line]).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn scp(rig: &Rig, options: &[&str], from: &str, to: &str) -> Output {
    let mut command = rig.client("scp", "op");
    command.args(options).args([from, &format!("me@127.0.0.1:{to}")]).output().unwrap()
}

fn refused(output: &Output, code: i32, text: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", both(output));
    assert!(both(output).contains(text), "{}", both(output));
}

#[test]
fn tar_piped_into_put_is_bound() {
    let rig = Rig::start();
    fs::create_dir(rig.path("tree")).unwrap();
    fs::write(rig.path("tree/file"), vec![7; 3 << 20]).unwrap();
    let script = format!(
        "tar cz -C tree . | tee sent | ssh -F /dev/null -i op -p {} -o StrictHostKeyChecking=no \
         -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR me@127.0.0.1 put -name config -version v3",
        rig.port()
    );
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &script]).current_dir(rig.dir.path());
    let output = shell.env_remove("SSH_AUTH_SOCK").output().unwrap();
    let digest = rig.sha256("sent");
    assert_eq!((output.status.code(), both(&output)), (Some(0), format!("{digest}  config:v3\n")));
    assert!(rig.uploads().is_empty());
    assert!(rig.ok("audit").contains(&format!("addver -name=config -version=v3 -hash={digest}")));
    rig.ok("addconf -name p -layer config:v3");

    // The registry does not store the same bytes a second time.
    let sent = fs::read(rig.path("sent")).unwrap();
    let again = piped(&rig, "put -name config -version v4 -json", &sent);
    assert!(both(&again).contains(&format!("\"hash\": \"{digest}\"")), "{}", both(&again));
    assert_eq!(rig.ok(&format!("refs {digest}")).matches("config v").count(), 2);
    let taken = piped(&rig, "put -name config -version v3", &sent);
    refused(&taken, 6, "version \"v3\" already exists");
}

#[test]
fn put_keeps_no_unusable_upload() {
    let rig = Rig::start_with(&["-max-upload", "3M", "-max-staged", "2M"]);
    let put = |input: &[u8]| piped(&rig, "put -name a -version 1", input);
    refused(&put(b""), 1, "is empty (0 bytes)");
    refused(&put(b"no archive"), 1, "no agent could unpack");
    refused(&put(&vec![7; 5 << 20]), 1, "-max-staged");
    refused(&piped(&rig, "put -name a", b"x"), 2, "both name and version should be set");
    refused(&piped(&rig, "put -name .a -version 1", b"x"), 2, "cannot start with");
    assert_eq!(rig.ok("components"), "");
    assert!(rig.uploads().is_empty(), "{:?}", rig.uploads());
    assert!(rig.ok("audit").contains("put -name=a -version=1"));
}

#[test]
fn truncated_archive_is_never_bound() {
    let rig = Rig::start();
    // A part of a plain tar archive may look complete.
    fs::write(rig.path("file"), vec![7; 1 << 20]).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-cf", "all.tar", "file"]).current_dir(rig.dir.path());
    assert!(tar.status().unwrap().success());
    let whole = fs::read(rig.path("all.tar")).unwrap();
    let mut child = start(&rig, "put -name a -version 1");
    child.stdin.as_mut().unwrap().write_all(&whole[..512 + (1 << 20)]).unwrap();
    wait_until("the upload has begun", || !rig.uploads().is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    rig.wait_for_log("standard input was cut off");
    wait_until("the upload is removed", || rig.uploads().is_empty());
    assert_eq!(rig.ok("components"), "");
}

#[test]
fn interrupted_sftp_upload_binds_nothing() {
    let rig = Rig::start();
    fs::write(rig.path("file"), vec![7; 8 << 20]).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-cf", "all.tar", "file"]).current_dir(rig.dir.path());
    assert!(tar.status().unwrap().success());
    // An interrupted client closes the file as if the file were complete.
    let mut command = rig.client("sftp", "op");
    command.args(["-l", "8000", "-q", "me@127.0.0.1"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"put all.tar /put/a/1\n").unwrap();
    let begun = || {
        let sizes = rig.uploads().into_iter().filter_map(|name| {
            fs::metadata(rig.path("reg/uploads").join(name)).ok().map(|meta| meta.len())
        });
        sizes.sum::<u64>() > 1 << 20
    };
    wait_until("the upload has begun", begun);
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    rig.wait_for_log("upload fail: no agent could unpack");
    drop(child.stdin.take());
    child.wait().unwrap();
    wait_until("the upload is removed", || rig.uploads().is_empty());
    assert_eq!(rig.ok("components"), "");
}

#[test]
fn scp_uploads_and_binds() {
    let rig = Rig::start();
    let digest = rig.archive("x.tgz", b"x");
    for (options, to) in
        [(&[][..], "/put/config/v3"), (&["-p"], "put/config/v4"), (&["-C"], "/put/./config//v5")]
    {
        let output = scp(&rig, options, "x.tgz", to);
        assert_eq!((output.status.code(), both(&output)), (Some(0), String::new()), "{to}");
    }
    assert_eq!(rig.ok("showcomp -name config").lines().count(), 3);
    assert!(rig.ok("audit").contains(&format!("addver -name=config -version=v5 -hash={digest}")));

    fs::write(rig.path("text"), "no archive").unwrap();
    for (from, to, text) in [
        ("x.tgz", "/put/config/v3", "version \"v3\" already exists"),
        ("text", "/put/config/v6", "no agent could unpack"),
        ("x.tgz", "/put/x.tgz", "/put takes a component and a version: /put/NAME/VERSION"),
        ("x.tgz", "/put", "/put/NAME/VERSION"),
        ("x.tgz", "/put/a/b/c", "cannot contain '/'"),
        ("x.tgz", "/put/-a/b", "cannot start with -"),
        ("x.tgz", "/put/a:b/c", "cannot contain :"),
    ] {
        let output = scp(&rig, &[], from, to);
        assert!(!output.status.success(), "{to}: {}", both(&output));
        assert!(both(&output).contains(text), "{to}: {}", both(&output));
    }
    rig.wait_for_log("upload refused: version \"v3\" already exists");
    // A second upload of the same bytes stays staged until it expires, because other clients may
    // need these bytes.
    assert_eq!(rig.uploads(), [digest.as_str()]);
    assert_eq!(rig.ok("showcomp -name config").lines().count(), 3);
    assert_eq!(rig.ok("components"), "config\n");
    let old = scp(&rig, &["-O"], "x.tgz", "/put/config/v7");
    assert!(!old.status.success());
    assert!(both(&old).contains("use scp without -O"), "{}", both(&old));

    // An upload to any other path is only staged, as usual.
    let output = scp(&rig, &[], "x.tgz", "wherever.tgz");
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!(rig.uploads(), [digest]);
}

#[test]
fn version_that_another_client_made_meanwhile_wins() {
    let rig = Rig::start();
    let theirs = rig.archive("theirs", b"theirs");
    let ours = rig.archive("ours", b"ours");
    rig.put("theirs");
    let bytes = fs::read(rig.path("ours")).unwrap();
    let mut child = start(&rig, "put -name a -version 1");
    let mut input = child.stdin.take().unwrap();
    input.write_all(&bytes[..9]).unwrap();
    wait_until("the upload has begun", || rig.uploads().len() == 2);
    rig.ok(&format!("addver -name a -version 1 -hash {theirs}"));
    input.write_all(&bytes[9..]).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    refused(
        &output,
        6,
        &format!(
            "already exists; the upload stays staged for a while, and addver can bind it: -hash={ours}"
        ),
    );
    rig.ok(&format!("addver -name a -version 2 -hash {ours}"));
}

#[test]
fn put_at_the_prompt_is_refused() {
    let rig = Rig::start();
    for options in [&["-tt"][..], &["-T"]] {
        let output = rig.ssh_with_input(options, b"put -name a -version 1\nexit\n");
        assert!(both(&output).contains("run: ssh registry put"), "{}", both(&output));
    }
}

#[test]
fn registry_can_be_browsed_as_directories() {
    let rig = Rig::start();
    let (a, b) = (rig.archive("a.tgz", b"a"), rig.archive("b.tgz", b"b"));
    scp(&rig, &[], "a.tgz", "/put/code/v1");
    scp(&rig, &[], "b.tgz", "/put/code/v2");
    rig.ok("addconf -name p -layer code:v1");
    rig.ok("bumpconf -name p -component code");
    let run = |batch: &str| {
        let output = rig.sftp("op", "me", batch);
        assert!(output.status.success(), "{batch}: {}", both(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let names = |dir: &str| -> Vec<String> {
        let listed = run(&format!("ls -1 {dir}"));
        let lines = listed.lines().filter(|line| !line.starts_with("sftp>"));
        lines.map(|line| line.rsplit('/').next().unwrap().trim().to_owned()).collect()
    };
    assert_eq!(names("/"), ["components", "configs", "files", "fleet", "history", "put"]);
    assert_eq!(names("/components"), ["code"]);
    assert_eq!(names("/components/code"), ["v1", "v2"]);
    assert_eq!(names("/configs"), ["p.json"]);
    assert_eq!(names("/history/p"), ["1.json", "2.json"]);
    assert_eq!(names("/files").len(), 2);
    assert!(names("/put").is_empty());
    let size = fs::metadata(rig.path("b.tgz")).unwrap().len();
    let long = run("ls -l /components/code");
    assert!(long.contains(&format!(" {size} ")) && long.contains("v2"), "{long}");

    run("cd /components/code\nget v2 got\nget /history/p/1.json one\nget /configs/p.json now");
    assert_eq!(rig.sha256("got"), b);
    let [one, now] = ["one", "now"].map(|name| fs::read_to_string(rig.path(name)).unwrap());
    assert!(one.contains(&a) && !one.contains(&b), "{one}");
    assert_eq!(now, rig.ok("showconf -name p -json"));
    run("get -r /history h");
    assert_eq!(fs::read_to_string(rig.path("h/p/2.json")).unwrap(), now);

    for missing in ["ls /components/none", "ls /history/none", "get /components/code/v9 x"] {
        let output = rig.sftp("op", "me", missing);
        assert!(both(&output).contains("not found"), "{missing}: {}", both(&output));
    }
    for denied in ["rm /components/code/v1", "mkdir /components/x", "rename /configs/p.json /x"] {
        let output = rig.sftp("op", "me", denied);
        assert!(both(&output).contains("ermission denied"), "{denied}: {}", both(&output));
    }
    // Agents do not see the directories for operators.
    let output = rig.sftp("srv", "deploy-agent", "ls -1 /\n-ls /components");
    let seen = both(&output);
    assert!(seen.contains("configs") && !seen.contains("\ncomponents"), "{seen}");
    assert!(seen.contains("\"/components\" not found"), "{seen}");
}
