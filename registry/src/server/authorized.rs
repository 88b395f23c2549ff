//! Keys that may log in: files in the form of `authorized_keys` (sshd(8)).
//!
//! A line that cannot be read, or has an option that is not known here, is refused
//! alone, with a warning: what an option forbids must not be allowed by overlooking it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use deploy_store::escape;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use russh::keys::{HashAlg, PublicKey};

/// Largest key file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Options that forbid what is not offered here anyway.
const HARMLESS: &[&str] = &[
    "no-agent-forwarding",
    "no-port-forwarding",
    "no-user-rc",
    "no-x11-forwarding",
    "pty",
    "no-touch-required",
];

/// A key that may log in, and under which conditions.
#[derive(Debug)]
pub struct Authorized {
    key: PublicKey,
    from: Option<Vec<String>>,
    expires: Option<Timestamp>,
    /// Whether it may have a terminal.
    pub pty: bool,
    /// Fingerprint and comment, escaped: who this is in logs and in the history.
    pub who: String,
}

/// The keys of one file, which is read again when it changes.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    current: RwLock<(Option<SystemTime>, Arc<Vec<Authorized>>)>,
}

impl KeyFile {
    /// Reads the file; it must have a key.
    pub fn open(path: &Path) -> Result<Self> {
        let (modified, keys) = read(path)?;
        let current = RwLock::new((modified, Arc::new(keys)));
        Ok(Self { path: path.to_owned(), current })
    }

    /// Reads the file again, if it changed or `always`. A version that cannot be read
    /// or has no key leaves the keys as they were.
    pub fn reload(&self, always: bool) {
        let modified = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
        if !always && modified == self.current.read().map_or(modified, |current| current.0) {
            return;
        }
        let read = read(&self.path);
        let Ok(mut current) = self.current.write() else { return };
        match read {
            Ok((modified, keys)) => {
                tracing::info!(keys = keys.len(), "read {}", self.path.display());
                *current = (modified, Arc::new(keys));
            }
            Err(err) => {
                tracing::warn!("the keys stay as they were: {err:#}");
                current.0 = modified;
            }
        }
    }

    /// Who logs in with `key` from `address` now, if it may.
    pub fn find(&self, key: &PublicKey, address: IpAddr, now: Timestamp) -> Option<(String, bool)> {
        let keys = Arc::clone(&self.current.read().ok()?.1);
        let found = keys.iter().find(|authorized| {
            authorized.key.key_data() == key.key_data()
                && authorized.expires.is_none_or(|expires| now < expires)
                && authorized.from.as_ref().is_none_or(|from| matches(from, address))
        })?;
        Some((found.who.clone(), found.pty))
    }
}

fn read(path: &Path) -> Result<(Option<SystemTime>, Vec<Authorized>)> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("open {shown}"))?;
    if meta.len() > MAX_FILE {
        bail!("key file {shown} is larger than {MAX_FILE} bytes");
    }
    let bytes = std::fs::read(path).with_context(|| format!("open {shown}"))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut keys = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse(line) {
            Ok(key) => keys.push(key),
            Err(why) => tracing::warn!("{shown}, line {number} is not used: {}", escape(&why)),
        }
    }
    if keys.is_empty() {
        bail!("file {:?} should have at least one key", path.to_string_lossy());
    }
    Ok((meta.modified().ok(), keys))
}

fn parse(line: &str) -> Result<Authorized, String> {
    let (options, key) = match PublicKey::from_openssh(line) {
        Ok(key) => (Vec::new(), key),
        Err(_) => {
            let (options, rest) = split_options(line).ok_or("it is no key")?;
            let key =
                PublicKey::from_openssh(rest).map_err(|err| format!("it is no key: {err}"))?;
            (options, key)
        }
    };
    let comment = escape(&String::from_utf8_lossy(key.comment().as_ref()));
    let who = format!("{} {comment}", key.fingerprint(HashAlg::Sha256)).trim_end().to_owned();
    let mut authorized = Authorized { key, from: None, expires: None, pty: true, who };
    for option in options {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, value.trim_matches('"')),
            None => (option, ""),
        };
        match name.to_ascii_lowercase().as_str() {
            "from" => authorized.from = Some(value.split(',').map(str::to_owned).collect()),
            "expiry-time" => authorized.expires = Some(expiry(value)?),
            "restrict" | "no-pty" => authorized.pty = false,
            name if HARMLESS.contains(&name) => {}
            name => return Err(format!("option {name:?} is not known")),
        }
    }
    Ok(authorized)
}

/// The options before a key, which end at the first space outside quotes, and the rest.
fn split_options(line: &str) -> Option<(Vec<&str>, &str)> {
    let mut options = Vec::new();
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                options.push(&line[start..at]);
                start = at + 1;
            }
            ' ' | '\t' if !quoted => {
                options.push(&line[start..at]);
                return Some((options, line[at..].trim_start()));
            }
            _ => {}
        }
    }
    None
}

/// `YYYYMMDD[HHMM[SS]]`, local time, or UTC with a `Z` (sshd(8)).
fn expiry(text: &str) -> Result<Timestamp, String> {
    let bad = || format!("expiry-time {text:?} is no time");
    let (digits, zone) = match text.strip_suffix(['Z', 'z']) {
        Some(digits) => (digits, TimeZone::UTC),
        None => (text, TimeZone::system()),
    };
    let format = match digits.len() {
        8 => return expiry(&format!("{digits}000000{}", &text[digits.len()..])),
        12 => "%Y%m%d%H%M",
        14 => "%Y%m%d%H%M%S",
        _ => return Err(bad()),
    };
    let time = DateTime::strptime(format, digits).map_err(|_| bad())?;
    time.to_zoned(zone).map(|zoned| zoned.timestamp()).map_err(|_| bad())
}

/// Whether a `from=` list lets the address in: patterns with `*` and `?`, CIDR, `!` to
/// keep out.
fn matches(patterns: &[String], address: IpAddr) -> bool {
    let address = address.to_canonical();
    let mut allowed = false;
    for pattern in patterns {
        let (pattern, keeps_out) = match pattern.strip_prefix('!') {
            Some(pattern) => (pattern, true),
            None => (pattern.as_str(), false),
        };
        let hit = match pattern.split_once('/') {
            Some((network, bits)) => in_network(address, network, bits),
            None => glob(pattern.as_bytes(), address.to_string().as_bytes()),
        };
        match (hit, keeps_out) {
            (true, true) => return false,
            (true, false) => allowed = true,
            (false, _) => {}
        }
    }
    allowed
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
        return false;
    };
    let same = |one: u128, other: u128, width: u32| {
        bits <= width && (bits == 0 || (one ^ other) >> (width - bits) == 0)
    };
    match (address, network) {
        (IpAddr::V4(one), IpAddr::V4(other)) => {
            same(u32::from(one).into(), u32::from(other).into(), 32)
        }
        (IpAddr::V6(one), IpAddr::V6(other)) => same(one.into(), other.into(), 128),
        _ => false,
    }
}

fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            glob(rest, text) || text.split_first().is_some_and(|(_, text)| glob(pattern, text))
        }
        (Some((b'?', rest)), Some((_, text))) => glob(rest, text),
        (Some((one, rest)), Some((other, text))) if one == other => glob(rest, text),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn lines_are_refused_alone() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("keys");
        let good = format!("# comment\n\n{KEY} me@host\r\nnonsense\ncommand=\"x\" {KEY}\n");
        std::fs::write(&path, good).unwrap();
        let keys = read(&path).unwrap().1;
        assert_eq!(keys.len(), 1);
        assert!(keys[0].who.starts_with("SHA256:") && keys[0].who.ends_with(" me@host"));
        std::fs::write(&path, format!("command=\"x\" {KEY}\n")).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("at least one key"));
        let missing = read(&temp.path().join("none")).unwrap_err();
        assert!(format!("{missing:#}").contains("No such file"));
    }

    #[test]
    fn options_are_enforced() {
        let line = format!("from=\"10.0.0.0/8,!10.9.*\",expiry-time=\"20300101Z\",no-pty {KEY}");
        let key = parse(&line).unwrap();
        assert!(!key.pty);
        assert_eq!(key.expires, Some("2030-01-01T00:00:00Z".parse().unwrap()));
        let from = key.from.unwrap();
        for (address, want) in [("10.1.2.3", true), ("10.9.2.3", false), ("11.1.2.3", false)] {
            assert_eq!(matches(&from, address.parse().unwrap()), want, "{address}");
        }
        assert!(matches(&["::/0".to_owned()], "::1".parse().unwrap()));
        assert!(expiry("2030").is_err() && expiry("20301301").is_err());
    }
}
