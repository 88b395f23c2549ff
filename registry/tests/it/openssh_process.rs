//! Tests the registry as a process: starts, refused starts, stops and new keys.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use crate::rig::{PATIENCE, Rig, both, wait_until};

const KEYS: [&str; 4] = ["-opauth", "op.keys", "-srvauth", "srv.keys"];

#[test]
fn start_logs_fingerprint_and_address() {
    let rig = Rig::start();
    let line = rig.wait_for_log("host key fingerprint: SHA256:");
    let fingerprint = line.rsplit(' ').next().unwrap();
    assert_eq!(fingerprint.len(), "SHA256:".len() + 43, "{line}");
    let scanned = std::process::Command::new("ssh-keyscan")
        .args(["-p", &rig.port().to_string(), "127.0.0.1"])
        .output()
        .unwrap();
    fs::write(rig.path("scanned"), scanned.stdout).unwrap();
    let listed = std::process::Command::new("ssh-keygen")
        .arg("-lf")
        .arg(rig.path("scanned"))
        .output()
        .unwrap();
    assert!(both(&listed).contains(fingerprint), "{}", both(&listed));
}

#[test]
fn failed_start_prints_one_clear_line() {
    let rig = Rig::start();
    let busy = format!("127.0.0.1:{}", rig.port());
    fs::write(rig.path("empty.keys"), "# nobody\n\nssh-ed25519 garbage\n").unwrap();
    fs::create_dir(rig.path("open")).unwrap();
    fs::copy(rig.path("reg/host_key"), rig.path("open/host_key")).unwrap();
    fs::set_permissions(rig.path("open/host_key"), fs::Permissions::from_mode(0o644)).unwrap();
    let free = ["-addr", "127.0.0.1:0", "-dir", "reg2"];
    let with = |more: &[&'static str]| [&free[..], &KEYS, more].concat();
    for (flags, code, wanted) in [
        (
            with(&["-opauth", "none.keys"]),
            1,
            "open none.keys: no such file or directory; deploy-registry init creates".to_owned(),
        ),
        (
            with(&["-srvauth", "empty.keys"]),
            1,
            "file \"empty.keys\" should have at least one key".to_owned(),
        ),
        (
            with(&["-dir", "reg"]),
            1,
            format!("reg is in use by another process (pid {})", rig.pid()),
        ),
        (with(&["-dir", "open"]), 1, "chmod 600".to_owned()),
        (with(&["-deadline", "soon"]), 2, "not a duration".to_owned()),
        (with(&["-bogus"]), 2, "-bogus".to_owned()),
    ] {
        let output = rig.refused(&flags);
        let told = both(&output);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {told}");
        assert!(told.contains(&wanted), "{flags:?}: {told}");
    }
    let flags = [&["-addr", &busy, "-dir", "reg2"][..], &KEYS].concat();
    let output = rig.refused(&flags);
    assert_eq!(output.status.code(), Some(1));
    let wanted = format!("listen tcp {busy}: address already in use; stop the program");
    assert!(both(&output).contains(&wanted), "{}", both(&output));
    assert!(rig.ok("components").is_empty(), "the first registry does not answer as before");
}

#[test]
fn stop_is_clean_and_waits_for_an_upload() {
    let mut rig = Rig::start();
    fs::write(rig.path("big"), vec![7; 1 << 20]).unwrap();
    fs::write(rig.path("batch"), "put big\n").unwrap();
    // An idle prompt must not delay the stop.
    let mut idle = rig.client("ssh", "op");
    let mut idle = idle.args(["-T", "me@127.0.0.1"]).stdin(Stdio::piped()).spawn().unwrap();
    rig.wait_for_log("login user=me");
    let mut slow = rig.client("sftp", "op");
    slow.args(["-l", "8000", "-q", "-b", "batch", "me@127.0.0.1"]);
    let mut slow = slow.spawn().unwrap();
    wait_until("the upload has begun", || !rig.uploads().is_empty());
    let port = rig.port();
    rig.signal("-TERM");
    rig.wait_for_log("closed: the registry stops");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the port is still open");
    assert!(slow.wait().unwrap().success(), "the upload was cut off");
    assert_eq!(rig.wait().code(), Some(0));
    assert_eq!(rig.uploads(), [rig.sha256("big")]);
    assert!(!idle.wait().unwrap().success());
    rig.run();
    assert_eq!(rig.stop("-INT").code(), Some(0));
}

#[test]
fn key_files_are_reloaded_without_a_restart() {
    let rig = Rig::start();
    assert!(!rig.ssh("other", "me", &["help"]).status.success());
    rig.authorize("op.keys", "", &["op", "other"]);
    rig.wait_for_log("keys read file=op.keys keys=2");
    assert!(rig.ssh("other", "me", &["help"]).status.success());

    let mut session = rig.client("ssh", "other");
    session.args(["-T", "other@127.0.0.1"]).stdin(Stdio::piped()).stderr(Stdio::null());
    let mut session = session.spawn().unwrap();
    rig.wait_for_log("login user=other");
    fs::write(rig.path("op.keys"), "nobody\n").unwrap();
    rig.signal("-HUP");
    rig.wait_for_log("the registry continues to use the keys that it read before");
    rig.wait_for_log("op.keys:1: line is not used");
    assert!(rig.ssh("op", "me", &["help"]).status.success());

    rig.authorize("op.keys", "", &["op"]);
    rig.wait_for_log("closed: the key may not log in any more");
    assert!(!session.wait().unwrap().success());
    assert!(!rig.ssh("other", "me", &["help"]).status.success());
}

#[test]
fn key_options_are_enforced() {
    let mut rig = Rig::idle();
    for name in ["far", "old", "near", "odd"] {
        rig.make_key(name, "ed25519");
    }
    let keys = format!(
        "from=\"10.0.0.0/8\" {}expiry-time=\"20200101\" {}from=\"127.0.0.1\" {}command=\"x\" {}",
        rig.public_key("far"),
        rig.public_key("old"),
        rig.public_key("near"),
        rig.public_key("odd")
    );
    fs::write(rig.path("op.keys"), keys).unwrap();
    rig.run();
    rig.wait_for_log("op.keys:4: line is not used: option \"command\" is not supported");
    for (key, allowed) in [("far", false), ("old", false), ("near", true), ("odd", false)] {
        assert_eq!(rig.ssh(key, "me", &["help"]).status.success(), allowed, "{key}");
    }
    rig.wait_for_log("reason=\"key has expired\"");
    rig.wait_for_log("reason=\"key may not be used from this address\"");
}

#[test]
fn clients_can_log_in_again_after_too_many_open_files() {
    let mut rig = Rig::idle();
    rig.run_under(&["prlimit", "--nofile=64:64"]);
    let address = ("127.0.0.1", rig.port());
    let crowd: Vec<TcpStream> = (0..200).map_while(|_| TcpStream::connect(address).ok()).collect();
    rig.wait_for_log("Too many open files".to_lowercase().as_str());
    drop(crowd);
    wait_until("a client can log in again", || rig.ssh("op", "me", &["help"]).status.success());
}

#[test]
fn unauthenticated_connections_per_source_are_limited() {
    let rig = Rig::start();
    let address = ("127.0.0.1", rig.port());
    let crowd: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut one_more = TcpStream::connect(address).unwrap();
    one_more.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut told = Vec::new();
    let _ = one_more.read_to_end(&mut told);
    let told = String::from_utf8_lossy(&told);
    assert_eq!(told, "too many connections from this address that have not logged in\r\n");
    rig.wait_for_log("too many connections from this address");
    drop(crowd);
    wait_until("there is room again", || rig.ssh("op", "me", &["help"]).status.success());
}
