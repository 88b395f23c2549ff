//! Tests `init`. A registry can start with the new directory.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::rig::{Rig, both};

fn init(rig: &Rig, keys: &[&str]) -> std::process::Output {
    let words = ["init", "-dir", "reg", "-opauth", "etc/op.keys", "-srvauth", "etc/srv.keys"];
    rig.refused(&[&words, keys].concat())
}

#[test]
fn registry_starts_on_the_directory_that_init_made() {
    let mut rig = Rig::idle();
    let bad = init(&rig, &["-operator-key", "op"]);
    assert!(
        !bad.status.success() && both(&bad).contains("op is not a public key"),
        "{}",
        both(&bad)
    );
    assert!(!rig.path("reg").exists() && !rig.path("etc").exists(), "init made a directory");
    let key = rig.public_key("srv");
    let first = init(&rig, &["-operator-key", "op.pub", "-service-key", &key]);
    let text = both(&first);
    assert!(first.status.success(), "{text}");
    let mode = |name: &str| fs::metadata(rig.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("reg"), 0o700);
    assert_eq!(mode("reg/host_key"), 0o600);
    assert_eq!([mode("etc/op.keys"), mode("etc/srv.keys")], [0o640, 0o640]);
    // A second `init` is refused.
    let again = init(&rig, &["-operator-key", "other.pub"]);
    assert_eq!(again.status.code(), Some(6), "{}", both(&again));
    assert!(both(&again).contains("is in use: it has host_key"), "{}", both(&again));
    assert!(!fs::read_to_string(rig.path("etc/op.keys")).unwrap().contains("other"));
    rig.flags = ["-opauth", "etc/op.keys", "-srvauth", "etc/srv.keys"].map(str::to_owned).into();
    rig.run();
    let fingerprint = rig.wait_for_log("host key fingerprint: ");
    let fingerprint = fingerprint.rsplit(' ').next().unwrap();
    assert!(text.contains(fingerprint), "{text}");
    assert!(rig.ssh("op", "me", &["components"]).status.success());
    assert!(rig.sftp("srv", "deploy-agent", "ls configs").status.success());
}

#[test]
fn missing_files_at_start_are_reported_with_the_remedy() {
    let rig = Rig::idle();
    for (operators, addr, told) in [
        (
            "none",
            "127.0.0.1:0",
            "open none: no such file or directory; deploy-registry init creates",
        ),
        (
            "op",
            "127.0.0.1:0",
            "it is a private key: give the file of the public key, which ends in .pub",
        ),
        ("op.pub", "127.0.0.1", "listen tcp 127.0.0.1: invalid socket address; give -addr as"),
    ] {
        let keys = ["-dir", "reg", "-opauth", operators, "-srvauth", "srv.pub", "-addr", addr];
        let refused = rig.refused(&keys);
        assert_eq!(refused.status.code(), Some(1), "{}", both(&refused));
        assert!(both(&refused).contains(told), "{}", both(&refused));
    }
}
