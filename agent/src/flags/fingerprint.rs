//! Chooses the message for a bad fingerprint of the registry's key.

/// Number of characters of a SHA-256 fingerprint, without its prefix.
const DIGITS: usize = 43;

/// The message for the bad fingerprint `print`. The message consists of the Go tool's message, the
/// reason and advice.
pub fn flaw(print: &str) -> &'static str {
    match print.split_once(':') {
        None if print.is_empty() => {
            "invalid server key fingerprint, expecting SHA256 fingerprint, and none is given; the registry logs its fingerprint when it starts; give the fingerprint with -fp"
        }
        None if print.len() == DIGITS => {
            "invalid server key fingerprint, expecting SHA256 fingerprint: the fingerprint lacks its prefix; give it as -fp SHA256:…"
        }
        Some((hash, _)) if hash.eq_ignore_ascii_case("sha256") => {
            "invalid server key fingerprint, expecting SHA256 fingerprint: write SHA256: in capitals"
        }
        _ => {
            "invalid server key fingerprint, expecting SHA256 fingerprint, and this is not one; the registry logs its fingerprint when it starts, and ssh-keygen -l prints the fingerprint"
        }
    }
}
