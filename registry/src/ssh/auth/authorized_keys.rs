//! Parses lines of an `authorized_keys` file: which keys may log in, from which addresses, and
//! until when.

use std::net::IpAddr;

use deploy_store::escape;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use russh::keys::{Algorithm, HashAlg, PublicKey};

use crate::ssh::auth::source_patterns::{Source, parse_sources};

/// Maximum length of a line, in bytes.
pub const MAX_LINE: usize = 16 << 10;
const MAX_COMMENT: usize = 100;

/// A key that may log in, or may sign users' certificates, under conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizedKey {
    /// The key.
    pub key: PublicKey,
    /// Whether the key's user may have a terminal.
    pub pty: bool,
    /// Whether the key's user may forward a port to the page.
    pub forwarding: bool,
    /// Whether the key belongs to an authority that signs users' certificates. Any other key
    /// belongs to a user.
    pub authority: bool,
    principals: Option<Vec<String>>,
    from: Option<Vec<Source>>,
    expires: Option<Timestamp>,
}

/// A line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The line's number, from 1.
    pub line: usize,
    /// Why the line cannot be used.
    pub reason: String,
}

impl AuthorizedKey {
    fn new(key: PublicKey) -> Self {
        let (pty, forwarding, authority) = (true, true, false);
        Self { key, pty, forwarding, authority, principals: None, from: None, expires: None }
    }

    /// Whether a certificate with these `principals`, signed by this key, is valid for `user`. If
    /// the line lists principals, the certificate must name one of these principals. Otherwise the
    /// certificate must have the user's name, or no principals at all (see ssh-keygen(1)).
    pub fn covers(&self, principals: &[String], user: &str) -> bool {
        match &self.principals {
            Some(wanted) => principals.iter().any(|name| wanted.contains(name)),
            None => principals.is_empty() || principals.iter().any(|name| name == user),
        }
    }

    /// Fingerprint and comment, escaped.
    pub fn label(&self) -> String {
        let fingerprint = self.key.fingerprint(HashAlg::Sha256);
        let comment = String::from_utf8_lossy(self.key.comment().as_bytes()).into_owned();
        let comment: String = comment.chars().take(MAX_COMMENT).collect();
        match comment.trim() {
            "" => fingerprint.to_string(),
            comment => format!("{fingerprint} {}", escape(comment)),
        }
    }

    /// Fails with a reason if the key may not log in from `address` at `now`.
    pub fn check(&self, address: IpAddr, now: Timestamp) -> Result<(), &'static str> {
        if self.expires.is_some_and(|expires| now >= expires) {
            return Err("key has expired");
        }
        match &self.from {
            Some(from) if !Source::any_matches(from, address) => {
                Err("key may not be used from this address")
            }
            _ => Ok(()),
        }
    }
}

/// Parses the keys in `text`. A bad line does not affect other lines.
pub fn parse(text: &str) -> (Vec<AuthorizedKey>, Vec<Refused>) {
    let (mut keys, mut refused) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line) {
            Ok(key) => keys.push(key),
            Err(reason) => refused.push(Refused { line: number + 1, reason }),
        }
    }
    (keys, refused)
}

fn parse_line(line: &str) -> Result<AuthorizedKey, String> {
    if line.len() > MAX_LINE {
        return Err(format!("line is longer than {MAX_LINE} bytes"));
    }
    if let Ok(key) = parse_key(line) {
        return Ok(AuthorizedKey::new(key));
    }
    let (options, rest) = split_options(line)?;
    let is_key_type = ["ssh-", "ecdsa-", "sk-"].iter().any(|kind| options.starts_with(kind));
    let key = parse_key(if is_key_type { line } else { rest })?;
    let mut authorized = AuthorizedKey::new(key);
    for option in split_list(options) {
        authorized.apply(option)?;
    }
    if authorized.principals.is_some() && !authorized.authority {
        return Err("option principals needs the option cert-authority".to_owned());
    }
    Ok(authorized)
}

fn parse_key(text: &str) -> Result<PublicKey, String> {
    let mut words = text.split_whitespace();
    let (Some(kind), Some(blob)) = (words.next(), words.next()) else {
        return Err("no key found, want: [options] type base64 [comment]".to_owned());
    };
    let comment = words.collect::<Vec<_>>().join(" ");
    let key = PublicKey::from_openssh(format!("{kind} {blob} {comment}").trim_end())
        .map_err(|err| format!("key is malformed: {}", escape(&err.to_string())))?;
    match key.algorithm() {
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::Rsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => Ok(key),
        other => Err(format!("keys of type {} are not accepted", escape(other.as_str()))),
    }
}

/// Splits at the first blank that is not inside quotes.
fn split_options(line: &str) -> Result<(&str, &str), String> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => return Ok((&line[..at], line[at..].trim_start())),
            _ => {}
        }
    }
    Err(if quoted { "a quote is not closed" } else { "no key found" }.to_owned())
}

/// Splits at commas that are not inside quotes.
fn split_list(options: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    options.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

impl AuthorizedKey {
    fn apply(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(unquote(value)?)),
            None => (option, None),
        };
        match (name.to_ascii_lowercase().as_str(), value) {
            // As in sshd, a second `from` is refused, because the line would be ambiguous.
            ("from", Some(_)) if self.from.is_some() => {
                return Err("option from is given twice".to_owned());
            }
            ("from", Some(value)) => self.from = Some(parse_sources(value)?),
            ("expiry-time", Some(value)) => {
                let expires = parse_expiry(value)?;
                self.expires = Some(self.expires.map_or(expires, |other| other.min(expires)));
            }
            ("cert-authority", None) => self.authority = true,
            ("principals", Some(_)) if self.principals.is_some() => {
                return Err("option principals is given twice".to_owned());
            }
            ("principals", Some(value)) => {
                let names = value.split(',').map(|name| name.trim().to_owned());
                self.principals = Some(names.collect());
            }
            ("restrict", None) => (self.pty, self.forwarding) = (false, false),
            ("no-pty", None) => self.pty = false,
            ("pty", None) => self.pty = true,
            ("no-port-forwarding", None) => self.forwarding = false,
            ("port-forwarding", None) => self.forwarding = true,
            // These options forbid functions that the server never offers.
            ("no-x11-forwarding" | "no-agent-forwarding" | "no-user-rc", None) => {}
            _ => return Err(format!("option {name:?} is not supported, so the key is refused")),
        }
        Ok(())
    }
}

fn unquote(value: &str) -> Result<&str, String> {
    value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .filter(|value| !value.contains('"'))
        .ok_or_else(|| format!("value {value:?} must be in quotes"))
}

/// Parses `YYYYMMDD[Z]` or `YYYYMMDDHHMM[SS][Z]` (see sshd(8)). Without the Z, the time is local.
fn parse_expiry(text: &str) -> Result<Timestamp, String> {
    let (digits, utc) = text.strip_suffix(['Z', 'z']).map_or((text, false), |rest| (rest, true));
    let well_formed =
        matches!(digits.len(), 8 | 12 | 14) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let zone = if utc { TimeZone::UTC } else { TimeZone::system() };
    DateTime::strptime("%Y%m%d%H%M%S", format!("{digits:0<14}"))
        .ok()
        .filter(|_| well_formed)
        .and_then(|time| time.to_zoned(zone).ok())
        .map(|time| time.timestamp())
        .ok_or_else(|| format!("expiry-time {text:?} is not YYYYMMDD or YYYYMMDDHHMM[SS]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJUyzgJoh4D3vfnHCG9NvNrD3w6VsyZ9SCSoDjI5MHh4";

    fn check(line: &str, address: &str, now: &str) -> Result<(), String> {
        let (keys, refused) = parse(line);
        if let Some(refused) = refused.first() {
            return Err(refused.reason.clone());
        }
        let [key] = &keys[..] else { panic!("{line:?} has {} keys", keys.len()) };
        Ok(key.check(address.parse().unwrap(), now.parse().unwrap())?)
    }

    #[test]
    fn comments_blank_lines_and_crlf_are_ignored() {
        let text = format!("# all\r\n\r\n  \n{KEY} me@here, now\r\n{KEY}");
        let (keys, refused) = parse(&text);
        assert_eq!((keys.len(), refused), (2, Vec::new()));
        assert!(keys[0].label().ends_with(" me@here, now"), "{}", keys[0].label());
        assert!(keys[1].label().starts_with("SHA256:"));
    }

    #[test]
    fn bad_line_is_reported_and_others_are_used() {
        let text = format!(
            "{KEY}\nssh-ed25519 garbage\ncommand=\"x\" {KEY}\nfrom=\"10.0.0.1 {KEY}\nword\n\
             principals=\"me\" {KEY}\nexpiry-time=\"soon\" {KEY}\nfrom=\"10.0.0.0/33\" {KEY}\n\
             from=\"10.0.0.1\",from=\"*\" {KEY}"
        );
        let (keys, refused) = parse(&text);
        assert_eq!(keys.len(), 1);
        assert_eq!(
            refused.iter().map(|refused| refused.line).collect::<Vec<_>>(),
            [2, 3, 4, 5, 6, 7, 8, 9]
        );
        assert!(refused[0].reason.contains("key is malformed"), "{}", refused[0].reason);
        assert!(
            refused[1].reason.contains("\"command\" is not supported"),
            "{}",
            refused[1].reason
        );
        assert!(refused[2].reason.contains("quote"), "{}", refused[2].reason);
        assert!(refused[5].reason.contains("expiry-time"), "{}", refused[5].reason);
        assert!(refused[7].reason.contains("twice"), "{}", refused[7].reason);
    }

    /// The ssh library's errors quote bad input without escapes.
    #[test]
    fn errors_about_a_line_have_no_control_characters() {
        for line in ["tt\u{0}\u{1b}[31m AAAA", "a\u{1b}=\"x\" ssh-ed25519 AAAA", "\u{7} \u{8}"] {
            let (keys, refused) = parse(line);
            assert!(keys.is_empty());
            let reason = &refused[0].reason;
            assert!(!reason.chars().any(char::is_control), "{reason:?}");
        }
    }

    #[test]
    fn authorities_are_limited_to_their_principals() {
        let (keys, refused) = parse(&format!(
            "cert-authority {KEY}\ncert-authority,principals=\"ops, root\",restrict {KEY} ca\n{KEY}"
        ));
        assert!(refused.is_empty(), "{refused:?}");
        assert_eq!(keys.iter().map(|key| key.authority).collect::<Vec<_>>(), [true, true, false]);
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert!(keys[0].covers(&names(&["you", "me"]), "me") && keys[0].covers(&[], "me"));
        assert!(!keys[0].covers(&names(&["you"]), "me"));
        assert!(keys[1].covers(&names(&["root"]), "me") && !keys[1].pty);
        assert!(!keys[1].covers(&names(&["me"]), "me") && !keys[1].covers(&[], "me"));
    }

    #[test]
    fn options_are_enforced() {
        let now = "2026-11-23T08:00:00Z";
        let from = format!("from=\"10.0.0.0/8,!10.6.6.6\",no-agent-forwarding {KEY} some name");
        assert_eq!(check(&from, "10.1.2.3", now), Ok(()));
        assert!(check(&from, "10.6.6.6", now).unwrap_err().contains("address"));
        assert!(check(&from, "192.168.1.1", now).unwrap_err().contains("address"));
        for (expiry, allowed) in [
            ("20261124Z", true),
            ("20261123Z", false),
            ("202611230801Z", true),
            ("202611230759Z", false),
            ("20261123080001Z", true),
            ("20261123080000Z", false),
        ] {
            let line = format!("expiry-time=\"{expiry}\" {KEY}");
            assert_eq!(check(&line, "::1", now).is_ok(), allowed, "{expiry}");
        }
        let lines = ["restrict", "restrict,pty", "restrict,port-forwarding", "no-port-forwarding"];
        let lines: Vec<String> = lines.iter().map(|options| format!("{options} {KEY}")).collect();
        let (keys, refused) = parse(&lines.join("\n"));
        let rights: Vec<_> = keys.iter().map(|key| (key.pty, key.forwarding)).collect();
        assert_eq!(rights, [(false, false), (true, false), (false, true), (true, false)]);
        assert!(refused.is_empty(), "{refused:?}");
    }
}
