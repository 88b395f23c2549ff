//! Makes keys of users and hosts, and reads their fingerprints, with OpenSSH's `ssh-keygen`.

use std::path::Path;
use std::process::Command;

/// Makes an ed25519 key without a passphrase at `path`. The file of the public key has the same
/// path with the suffix `.pub`.
pub fn make_key(path: &Path) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path);
    let status = keygen.status().expect("ssh-keygen starts");
    assert!(status.success(), "ssh-keygen cannot make {}", path.display());
}

/// The fingerprint of the key at `path`, as `ssh-keygen -l` prints it: `SHA256:...`.
pub fn fingerprint(path: &Path) -> String {
    let mut keygen = Command::new("ssh-keygen");
    let output = keygen.arg("-lf").arg(path).output().expect("ssh-keygen starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let word = text.split_whitespace().nth(1);
    word.unwrap_or_else(|| panic!("no fingerprint of {}: {text}", path.display())).to_owned()
}
