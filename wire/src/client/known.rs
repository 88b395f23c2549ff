//! Reads files of known hosts as ssh does (sshd(8)). Blanks and tabs separate fields. A file may
//! have names with `*`, `?` and `!`, hashed names, and markers.

use aws_lc_rs::hmac;
use russh::keys::PublicKey;
use russh::keys::ssh_key::known_hosts::HostPatterns;

use crate::wildcard;

/// The usual port of ssh. A name in a file of known hosts has a port only if the port is not this
/// one.
const SSH: u16 = 22;

/// The keys of one host.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Keys that are listed for the host and its port.
    pub(super) keys: Vec<PublicKey>,
    /// Keys that are listed for the host without its port. As in ssh, the client accepts these keys
    /// only if [`Self::keys`] is empty.
    pub(super) without_port: Vec<PublicKey>,
    /// Keys of authorities that may have signed the host's certificate.
    pub(super) authorities: Vec<PublicKey>,
    /// Revoked keys. A revoked key is refused for every host.
    pub(super) revoked: Vec<PublicKey>,
}

impl Known {
    /// Reads the lines of one file that concern `host` and `port`. Unreadable lines are skipped.
    pub(super) fn read(&mut self, text: &str, host: &str, port: u16) {
        let host = host.to_ascii_lowercase();
        let name = if port == SSH { host.clone() } else { format!("[{host}]:{port}") };
        for line in text.lines() {
            let line = line.trim_start_matches([' ', '\t']);
            if line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_ascii_whitespace();
            let (marker, names) = match fields.next() {
                Some(marker) if marker.starts_with('@') => (marker, fields.next()),
                names => ("", names),
            };
            let (Some(names), Some(kind), Some(key)) = (names, fields.next(), fields.next()) else {
                continue;
            };
            let Ok(key) = PublicKey::from_openssh(&format!("{kind} {key}")) else { continue };
            match marker {
                "@revoked" => self.revoked.push(key),
                "@cert-authority" if names_it(names, &name) || names_it(names, &host) => {
                    self.authorities.push(key);
                }
                "" if names_it(names, &name) => self.keys.push(key),
                "" if names_it(names, &host) => self.without_port.push(key),
                _ => {}
            }
        }
    }
}

/// Whether a list of names matches `name`. At least one name must match, and no negated name may
/// match.
fn names_it(names: &str, name: &str) -> bool {
    let mut found = false;
    for pattern in names.split(',') {
        let (refuses, pattern) =
            pattern.strip_prefix('!').map_or((false, pattern), |rest| (true, rest));
        let matches = if pattern.starts_with("|1|") {
            is_hash_of(pattern, name)
        } else {
            wildcard::matches(&pattern.to_ascii_lowercase(), name)
        };
        if matches && refuses {
            return false;
        }
        found |= matches;
    }
    found
}

fn is_hash_of(hashed: &str, name: &str) -> bool {
    let Ok(HostPatterns::HashedName { salt, hash }) = hashed.parse() else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    hmac::verify(&key, name.as_bytes(), &hash).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJUyzgJoh4D3vfnHCG9NvNrD3w6VsyZ9SCSoDjI5MHh4";

    fn read(text: &str, host: &str, port: u16) -> Known {
        let mut known = Known::default();
        known.read(text, host, port);
        known
    }

    #[test]
    fn names_are_read_as_ssh_reads_them() {
        for (names, port, want) in [
            ("reg.example.com", 22, true),
            ("Reg.Example.COM", 22, true),
            ("other,reg.example.com", 22, true),
            ("*.example.com", 22, true),
            ("reg.example.???", 22, true),
            ("*.example.com,!reg.example.com", 22, false),
            ("!reg.example.com,*", 22, false),
            ("!other.example.com", 22, false),
            ("[reg.example.com]:2022", 2022, true),
            ("[*.example.com]:2022", 2022, true),
            ("[*.example.com]:*", 2022, true),
            ("[*]:2022,![reg.example.com]:2022", 2022, false),
            ("[reg.example.com]:2023", 2022, false),
            ("reg.example.com.", 22, false),
            ("|1|nothing", 22, false),
        ] {
            for blank in [" ", "\t", " \t  "] {
                let line =
                    format!("{blank}{names}{blank}{}{blank}comment\r\n", KEY.replace(' ', blank));
                let known = read(&line, "reg.example.com", port);
                assert_eq!(known.keys.len(), usize::from(want), "{line:?}");
            }
        }
        let known = read(&format!("reg.example.com {KEY}"), "reg.example.com", 2022);
        assert!(known.keys.is_empty() && known.without_port.len() == 1);
    }

    #[test]
    fn hashed_names_and_markers_are_read_and_invalid_lines_skipped() {
        let salt = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTA=";
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345678901234567890");
        let hash = hmac::sign(&key, b"[reg]:2022");
        let hex = hash.as_ref().iter().fold(String::new(), |mut hex, byte| {
            let _ = std::fmt::Write::write_fmt(&mut hex, format_args!("{byte:02x}"));
            hex
        });
        let base64 = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$1\" | xxd -r -p | base64", "sh", &hex])
            .output()
            .unwrap();
        let base64 = String::from_utf8(base64.stdout).unwrap();
        let hashed = format!("|1|{salt}|{}", base64.trim());
        let text = format!(
            "# comment\n\n{hashed} {KEY}\n@cert-authority *,!bad {KEY}\n@revoked x {KEY}\n\
             #reg {KEY}\nreg 1024 35 99\n@other reg {KEY}\nreg\nreg ssh-ed25519 garbage\n"
        );
        let known = read(&text, "reg", 2022);
        let counts = [known.keys.len(), known.authorities.len(), known.revoked.len()];
        assert_eq!(counts, [1, 1, 1]);
        assert!(known.without_port.is_empty());
        assert!(read(&text, "bad", 22).authorities.is_empty());
        assert!(read(&text, "reg", 2023).keys.is_empty());
    }
}
