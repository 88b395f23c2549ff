//! Tests logins with a certificate that lies beside the key file, for every kind of key.

use std::fs;
use std::process::Command;

use crate::rig::{Answer, Rig, make_key};

#[test]
fn certificates_of_every_key_type_log_in() {
    let mut rig = Rig::start();
    let dir = rig.path("");
    make_key(&dir, "ca", &["-t", "ed25519", "-N", ""]);
    for (kind, flags) in [("rsa", &["-b", "2048"][..]), ("ecdsa", &[]), ("ed25519", &[])] {
        make_key(&dir, kind, &[&["-t", kind, "-N", ""], flags].concat());
        let mut sign = Command::new("ssh-keygen");
        let public = format!("{kind}.pub");
        sign.args(["-q", "-s", "ca", "-I", kind, "-n", "tester", &public]).current_dir(&dir);
        assert!(sign.status().unwrap().success());
    }
    rig.stop();
    let authority = fs::read_to_string(rig.path("ca.pub")).unwrap();
    fs::write(rig.path("op.pub"), format!("cert-authority {authority}")).unwrap();
    rig.serve(1 << 30);
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let asked = rig.bare(&["-key", kind, "components"]).output().unwrap();
        let answer = Answer::from(asked);
        assert_eq!((&*answer.err, answer.code), ("", 0), "{kind}");
        fs::remove_file(rig.path(&format!("{kind}-cert.pub"))).unwrap();
        let refused = Answer::from(rig.bare(&["-key", kind, "components"]).output().unwrap());
        assert_eq!(refused.code, 4, "{kind}: {refused:?}");
    }
    // The certificate's file contains a public key instead of a certificate.
    fs::copy(rig.path("ca.pub"), rig.path("rsa-cert.pub")).unwrap();
    let refused = Answer::from(rig.bare(&["-key", "rsa", "components"]).output().unwrap());
    assert!(refused.err.contains("rsa-cert.pub is not a readable certificate"), "{refused:?}");
}
