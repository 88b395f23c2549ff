//! Tests `OpenSSH` clients with the real registry: logins, rights, and a complete deployment with
//! only ssh and sftp.

use std::fs;
use std::process::{Child, Stdio};

use crate::rig::{Rig, both, wait_until};

#[test]
fn key_file_and_user_name_decide_the_role() {
    let rig = Rig::start();
    for (key, user, wanted) in [
        ("op", "me", "addver"),
        ("op", "anybody at all", "addver"),
        ("op", "deploy-agent", "Permission denied (publickey)"),
        ("srv", "me", "Permission denied (publickey)"),
        ("srv", "deploy-agent", "exec request failed on channel 0"),
        ("other", "me", "Permission denied (publickey)"),
        ("other", "deploy-agent", "Permission denied (publickey)"),
    ] {
        let mut command = rig.client("ssh", key);
        let output = command.args(["-l", user, "127.0.0.1", "help"]).output().unwrap();
        assert!(both(&output).contains(wanted), "{key} as {user}: {}", both(&output));
        assert_eq!(output.status.success(), wanted == "addver", "{key} as {user}");
    }
    let refused = rig.wait_for_log("login refused user=deploy-agent");
    assert!(refused.contains("key=SHA256:") && refused.contains("address=127.0.0.1:"), "{refused}");
    rig.wait_for_log("role=Service");
}

#[test]
fn rsa_and_ecdsa_log_in_but_sha1_signatures_do_not() {
    let rig = Rig::idle();
    rig.make_key("rsa", "rsa");
    rig.make_key("ecdsa", "ecdsa");
    rig.authorize("op.keys", "", &["op", "rsa", "ecdsa"]);
    let mut rig = rig;
    rig.run();
    for options in [
        &["-i", "rsa"][..],
        &["-i", "rsa", "-o", "PubkeyAcceptedAlgorithms=rsa-sha2-256"],
        &["-i", "ecdsa"],
    ] {
        let mut command = rig.client("ssh", options[1]);
        let output = command.args(options).args(["me@127.0.0.1", "help"]).output().unwrap();
        assert!(output.status.success(), "{options:?}: {}", both(&output));
    }
    let mut command = rig.client("ssh", "rsa");
    command.args(["-o", "PubkeyAcceptedAlgorithms=ssh-rsa", "me@127.0.0.1", "help"]);
    let output = command.output().unwrap();
    assert!(both(&output).contains("Permission denied"), "{}", both(&output));
}

#[test]
fn old_but_sound_algorithms_still_work() {
    let rig = Rig::start();
    for options in [
        &["-c", "chacha20-poly1305@openssh.com"][..],
        &["-c", "aes128-ctr", "-m", "hmac-sha2-256"],
        &["-c", "aes256-ctr", "-m", "hmac-sha2-256-etm@openssh.com"],
        &["-c", "aes128-gcm@openssh.com"],
        &["-o", "KexAlgorithms=curve25519-sha256@libssh.org"],
        &["-o", "KexAlgorithms=ecdh-sha2-nistp256"],
    ] {
        let mut command = rig.client("ssh", "op");
        let output = command.args(options).args(["me@127.0.0.1", "help"]).output().unwrap();
        assert!(output.status.success(), "{options:?}: {}", both(&output));
    }
    for options in [
        &["-m", "hmac-sha1", "-c", "aes128-ctr"][..],
        &["-o", "KexAlgorithms=diffie-hellman-group14-sha1"],
    ] {
        let mut command = rig.client("ssh", "op");
        command.arg("-v").args(options).args(["me@127.0.0.1", "help"]);
        let output = command.output().unwrap();
        assert!(both(&output).contains("Unable to negotiate"), "{options:?}: {}", both(&output));
    }
    let mut command = rig.client("ssh", "op");
    let output = command.args(["-vvv", "me@127.0.0.1", "help"]).output();
    let told = both(&output.unwrap());
    assert!(told.contains("remote software version deploy-registry_"), "{told}");
    assert!(told.contains("server->client cipher: aes128-gcm@openssh.com"), "{told}");
    assert!(told.contains("strict KEX"), "{told}");
    assert!(told.contains("compression: none"), "{told}");
}

#[test]
fn exec_separates_output_errors_and_exit_code() {
    let rig = Rig::start();
    let output = rig.ssh("op", "me", &["components"]);
    assert_eq!((output.status.code(), both(&output)), (Some(0), String::new()));
    let output = rig.ssh("op", "me", &["showconf", "-name", "nope"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(output.stdout.is_empty());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "configuration \"nope\" not found\n");
    let output = rig.ssh("op", "me", &["bogus"]);
    assert_eq!(output.status.code(), Some(2));
    let failed = rig.wait_for_log("command fail user=me key=\"SHA256:");
    assert!(failed.contains(" op\" ") && failed.contains("code="), "{failed}");
}

#[test]
fn agents_run_no_operator_commands_and_ports_are_not_forwarded() {
    let rig = Rig::start();
    for (arguments, wanted) in [
        (&["help"][..], "exec request failed on channel 0"),
        (&["-T"], "shell request failed on channel 0"),
        (&["-tt"], "PTY allocation request failed on channel 0"),
        (&["-s", "bogus"], "subsystem request failed on channel 0"),
    ] {
        let mut command = rig.client("ssh", "srv");
        let (options, words) = match arguments {
            ["-s", name] => (&["-s"][..], vec![*name]),
            [word] if !word.starts_with('-') => (&[][..], vec![*word]),
            options => (options, Vec::new()),
        };
        command.args(options).arg("deploy-agent@127.0.0.1").args(words);
        let output = command.output().unwrap();
        assert!(both(&output).contains(wanted), "{arguments:?}: {}", both(&output));
        assert_eq!(output.status.code(), Some(255), "{arguments:?}");
    }
    let mut command = rig.client("ssh", "op");
    let output = command.args(["-W", "127.0.0.1:22", "me@127.0.0.1"]).output().unwrap();
    assert!(!output.status.success());
    assert!(both(&output).contains("stdio forwarding failed"), "{}", both(&output));
}

#[test]
fn complete_deployment_works_with_stock_clients() {
    let rig = Rig::start();
    let code = rig.archive("code.tar.gz", b"program body v1");
    let config = rig.archive("config.tar.gz", b"config v1");
    let output = rig.sftp("op", "me", "put code.tar.gz\nput -p config.tar.gz /some/where/else");
    assert!(output.status.success(), "{}", both(&output));
    rig.ok(&format!("addver -name code -version v01 -hash {code}"));
    rig.ok(&format!("addver -name config -version v01 -hash {config}"));
    rig.ok("addconf -name project1 -layer code:v01 -layer config:v01");
    assert_eq!(rig.ok("configurations"), "project1\n");

    fs::create_dir(rig.path("got")).unwrap();
    let output = rig.sftp("srv", "deploy-agent", "get -r . got");
    assert!(output.status.success(), "{}", both(&output));
    let json = fs::read_to_string(rig.path("got/configs/project1.json")).unwrap();
    assert!(json.contains(&format!("\"File\": \"files/{code}\"")), "{json}");
    for digest in [&code, &config] {
        assert_eq!(rig.sha256(&format!("got/files/{digest}")), *digest);
    }
    let mut scp = rig.client("scp", "srv");
    scp.args(["-s", "deploy-agent@127.0.0.1:configs/project1.json", "one.json"]);
    let output = scp.output().unwrap();
    assert!(output.status.success(), "{}", both(&output));
    assert_eq!(fs::read_to_string(rig.path("one.json")).unwrap(), json);
    assert!(rig.uploads().is_empty());
}

#[test]
fn scp_works_in_sftp_mode_and_legacy_mode_is_refused() {
    let rig = Rig::start();
    let digest = rig.archive("code.tar.gz", b"x");
    for options in [&["-s"][..], &["-s", "-p"]] {
        let mut scp = rig.client("scp", "op");
        let output = scp.args(options).args(["code.tar.gz", "me@127.0.0.1:x"]).output().unwrap();
        assert!(output.status.success(), "{}", both(&output));
    }
    assert_eq!(rig.uploads(), [digest]);
    let mut scp = rig.client("scp", "op");
    let output = scp.args(["-O", "code.tar.gz", "me@127.0.0.1:x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(both(&output).contains("use scp without -O"), "{}", both(&output));
}

#[test]
fn denials_use_the_go_tools_texts() {
    let rig = Rig::start();
    let digest = rig.archive("a.tar.gz", b"x");
    rig.put("a.tar.gz");
    rig.ok(&format!("addver -name c -version v -hash {digest}"));
    rig.ok("addconf -name project1 -layer c:v");
    for (user, line, wanted) in [
        ("me", "ls", "components"),
        ("me", "ls /file", "Can't ls: \"/file\" not found"),
        ("me", "get x", "File \"/x\" not found."),
        ("me", "cd x", "stat remote: No such file or directory"),
        ("me", "mkdir d", "remote mkdir \"/d\": Permission denied"),
        ("me", "rm x", "remote delete /x: Permission denied"),
        ("me", "rename a b", "remote rename \"/a\" to \"/b\": Permission denied"),
        ("me", "ln a b", "Permission denied"),
        ("me", "ln -s a b", "Permission denied"),
        ("me", "rmdir d", "remote rmdir \"/d\": Permission denied"),
        ("me", "chmod 600 x", "Permission denied"),
        ("me", "df", "Server does not support statvfs@openssh.com extension"),
        ("me", "pwd", "Remote working directory: /"),
        ("deploy-agent", "get configs/nope.json", "File \"/configs/nope.json\" not found."),
        ("deploy-agent", "ls configs/project1", "Can't ls: \"/configs/project1\" not found"),
        ("deploy-agent", "get files/../host_key", "File \"/files/../host_key\" not found."),
        ("deploy-agent", "get ../catalogue.db", "File \"/../catalogue.db\" not found."),
        ("deploy-agent", "put a.tar.gz", "dest open \"/a.tar.gz\": Permission denied"),
        ("deploy-agent", "mkdir d", "remote mkdir \"/d\": Permission denied"),
        ("deploy-agent", "rm configs/project1.json", "Permission denied"),
        ("deploy-agent", "rename configs/project1.json x", "Permission denied"),
        ("deploy-agent", "ls configs", "configs/project1.json"),
    ] {
        let key = if user == "me" { "op" } else { "srv" };
        let output = rig.sftp(key, user, line);
        assert!(both(&output).contains(wanted), "{user}: {line}: {}", both(&output));
    }
    assert_eq!(rig.ok("showcomp -name c").lines().count(), 1);
}

/// Starts a client, and waits until the client is in the middle of an upload.
fn slow_upload(rig: &Rig) -> Child {
    fs::write(rig.path("big"), vec![7; 4 << 20]).unwrap();
    fs::write(rig.path("batch"), "put big\n").unwrap();
    let mut command = rig.client("sftp", "op");
    command.args(["-l", "4000", "-q", "-b", "batch", "me@127.0.0.1"]).stderr(Stdio::null());
    let client = command.spawn().unwrap();
    let begun = || rig.uploads().iter().any(|name| name.starts_with("upload-"));
    wait_until("the upload has begun", begun);
    client
}

#[test]
fn upload_aborted_by_the_client_leaves_no_file() {
    let rig = Rig::start();
    let mut client = slow_upload(&rig);
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("the upload is removed", || rig.uploads().is_empty());
}

#[test]
fn upload_aborted_by_a_killed_registry_leaves_no_file() {
    let mut rig = Rig::start();
    let mut client = slow_upload(&rig);
    rig.stop("-KILL");
    assert!(!client.wait().unwrap().success());
    rig.run();
    assert!(rig.uploads().is_empty(), "{:?}", rig.uploads());
}

#[test]
fn acknowledged_upload_survives_a_kill() {
    let mut rig = Rig::start();
    let digest = rig.archive("code.tar.gz", b"kept");
    rig.put("code.tar.gz");
    rig.stop("-KILL");
    rig.run();
    rig.ok(&format!("addver -name code -version v01 -hash {digest}"));
    rig.stop("-KILL");
    rig.run();
    assert_eq!(rig.ok("components"), "code\n");
    rig.ok(&format!("addver -name other -version v01 -hash {digest}"));
}
