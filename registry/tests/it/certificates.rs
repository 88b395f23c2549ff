//! Tests certificates of users and of a host, which an authority has signed.

use std::fs;
use std::process::Command;

use crate::rig::{Rig, both};

fn keygen(rig: &Rig, arguments: &[&str]) {
    let mut command = Command::new("ssh-keygen");
    let made = command.current_dir(rig.dir.path()).arg("-q").args(arguments).output().unwrap();
    assert!(made.status.success(), "{arguments:?}: {}", both(&made));
}

/// Makes a key `name` with a certificate. The authority `ca` signs the certificate, and `flags` are
/// further flags of `ssh-keygen`.
fn certified(rig: &Rig, name: &str, ca: &str, flags: &[&str]) {
    rig.make_key(name, "ed25519");
    keygen(rig, &[&["-s", ca, "-I", name], flags, &[&format!("{name}.pub")]].concat());
}

#[test]
fn only_valid_user_certificates_log_in() {
    let mut rig = Rig::idle();
    for ca in ["ca", "ops_ca", "agent_ca", "foreign"] {
        rig.make_key(ca, "ed25519");
    }
    let line = |options: &str, ca: &str| format!("{options} {}", rig.public_key(ca));
    let operators = [
        line("cert-authority", "ca"),
        line("cert-authority,principals=\"ops,root\"", "ops_ca"),
        rig.public_key("op"),
    ];
    fs::write(rig.path("op.keys"), operators.concat()).unwrap();
    fs::write(rig.path("srv.keys"), line("cert-authority", "agent_ca")).unwrap();
    let forced = "force-command=/bin/true";
    for (name, ca, flags) in [
        ("fine", "ca", &["-n", "me"][..]),
        ("all", "ca", &[]),
        ("you", "ca", &["-n", "you"]),
        ("ops", "ops_ca", &["-n", "ops"]),
        ("no_ops", "ops_ca", &["-n", "me"]),
        ("old", "ca", &["-n", "me", "-V", "20200101:20210101"]),
        ("early", "ca", &["-n", "me", "-V", "20990101:20990102"]),
        ("here", "ca", &["-n", "me", "-O", "source-address=127.0.0.0/8"]),
        ("elsewhere", "ca", &["-n", "me", "-O", "source-address=10.0.0.0/8"]),
        ("forced", "ca", &["-n", "me", "-O", forced]),
        ("host", "ca", &["-h", "-n", "me"]),
        ("foreigner", "foreign", &["-n", "me"]),
        ("agent", "agent_ca", &["-n", "deploy-agent"]),
        ("pipe", "ca", &["-n", "me", "-O", "no-pty"]),
    ] {
        certified(&rig, name, ca, flags);
    }
    rig.run();
    for (name, lets_in, why) in [
        ("fine", true, "(certificate 0)"),
        ("all", true, ""),
        ("op", true, ""),
        ("you", false, "certificate does not allow a login as me; its names: you"),
        ("ops", true, ""),
        ("no_ops", false, "certificate does not allow a login as me; its names: me"),
        ("old", false, ""),
        ("early", false, ""),
        ("here", true, ""),
        ("elsewhere", false, "certificate may not be used from this address"),
        ("forced", false, "force-command"),
        ("host", false, ""),
        ("foreigner", false, "key is not in op.keys"),
        ("other", false, "key is not in op.keys"),
        ("ca", false, "key is not in op.keys"),
        ("agent", false, "but in srv.keys: agents log in as deploy-agent"),
        ("srv", false, "key is not in op.keys"),
    ] {
        let output = rig.ssh(name, "me", &["components"]);
        assert_eq!(output.status.success(), lets_in, "{name}: {}", both(&output));
        if !why.is_empty() {
            rig.wait_for_log(why);
        }
    }
    let output = rig.sftp("agent", "deploy-agent", "ls configs");
    assert!(output.status.success(), "{}", both(&output));
    assert!(!rig.sftp("fine", "deploy-agent", "ls configs").status.success());
    let tty = |name: &str| rig.ssh(name, "me", &["-tt", "components"]).status.success();
    assert!(tty("fine"));
    let refused = both(&rig.ssh("pipe", "me", &["-tt", "components"]));
    assert!(refused.contains("PTY allocation request failed"), "{refused}");
}

#[test]
fn host_certificate_is_presented() {
    let mut rig = Rig::start();
    rig.stop("-TERM");
    rig.make_key("host_ca", "ed25519");
    let public = rig.path("reg/host_key.pub");
    let mut derive = Command::new("ssh-keygen");
    let derived = derive.args(["-y", "-f"]).arg(rig.path("reg/host_key")).output().unwrap();
    fs::write(&public, derived.stdout).unwrap();
    keygen(&rig, &["-s", "host_ca", "-I", "reg", "-h", "-n", "127.0.0.1", "reg/host_key.pub"]);
    rig.run();
    let hosts = rig.path("hosts");
    for (ca, known) in [("host_ca", true), ("other", false)] {
        let line = format!("@cert-authority * {}", rig.public_key(ca));
        fs::write(&hosts, line).unwrap();
        let mut ssh = Command::new("ssh");
        let port = rig.port().to_string();
        ssh.current_dir(rig.dir.path()).args(["-F", "/dev/null", "-i", "op", "-p", &port]);
        ssh.args(["-o", "BatchMode=yes", "-o", "GlobalKnownHostsFile=none"]);
        ssh.args(["-o", "StrictHostKeyChecking=yes", "-o", "UserKnownHostsFile=hosts"]);
        let output = ssh.args(["me@127.0.0.1", "components"]).output().unwrap();
        assert_eq!(output.status.success(), known, "{ca}: {}", both(&output));
    }
    // The registry does not start if the certificate belongs to another key.
    rig.stop("-TERM");
    keygen(&rig, &["-s", "host_ca", "-I", "reg", "-h", "-n", "127.0.0.1", "other.pub"]);
    fs::rename(rig.path("other-cert.pub"), rig.path("reg/host_key-cert.pub")).unwrap();
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
    assert!(both(&refused).contains("is not a certificate of host_key"), "{}", both(&refused));
}
