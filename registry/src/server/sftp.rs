//! What both SFTP roles share: limits, extensions, attributes and the paths there are.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use deploy_store::{ConfigurationName, Digest};
use russh_sftp::extensions::LimitsExtension;
use russh_sftp::protocol::{ExtendedReply, FileAttributes, Packet, Status, StatusCode, Version};
use russh_sftp::server::{Config, StatusReply};

/// Open files of one session.
pub const MAX_HANDLES: usize = 128;
/// Longest packet, in bytes: OpenSSH refuses longer ones.
const MAX_PACKET: u32 = 256 << 10;
/// Longest read or write: a packet less its header.
pub const MAX_TRANSFER: u32 = MAX_PACKET - 1024;

/// Limits of the packet reader.
pub fn config() -> Config {
    Config { max_client_packet_len: MAX_PACKET }
}

/// The answer to the client's first packet.
pub fn version() -> Version {
    let mut version = Version::new();
    for extension in ["limits@openssh.com", "fsync@openssh.com"] {
        version.extensions.insert(extension.to_owned(), "1".to_owned());
    }
    version
}

/// The answer to an extended request.
pub fn extended(id: u32, request: &str) -> Result<Packet, StatusReply> {
    match request {
        "limits@openssh.com" => {
            let limits = LimitsExtension {
                max_packet_len: MAX_PACKET.into(),
                max_read_len: MAX_TRANSFER.into(),
                max_write_len: MAX_TRANSFER.into(),
                max_open_handles: MAX_HANDLES as u64,
            };
            let data = russh_sftp::ser::to_bytes(&limits).map_err(|_| StatusCode::Failure)?;
            Ok(Packet::ExtendedReply(ExtendedReply { id, data: data.to_vec() }))
        }
        // Uploads are synced when they are closed.
        "fsync@openssh.com" => Ok(Packet::Status(ok(id))),
        "posix-rename@openssh.com" | "hardlink@openssh.com" => {
            Err(StatusCode::PermissionDenied.into())
        }
        _ => Err(StatusCode::OpUnsupported.into()),
    }
}

/// Success.
pub fn ok(id: u32) -> Status {
    let (error_message, language_tag) = ("Ok".to_owned(), "en-US".to_owned());
    Status { id, status_code: StatusCode::Ok, error_message, language_tag }
}

/// Attributes of a file.
pub fn file_attributes(size: u64, modified: Option<SystemTime>, mode: u32) -> FileAttributes {
    attributes(size, modified, 0o100_000 | mode)
}

/// Attributes of a directory.
pub fn directory_attributes() -> FileAttributes {
    attributes(0, Some(SystemTime::now()), 0o040_750)
}

fn attributes(size: u64, modified: Option<SystemTime>, mode: u32) -> FileAttributes {
    let since = modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let seconds = since.map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX));
    FileAttributes {
        size: Some(size),
        uid: Some(rustix::process::geteuid().as_raw()),
        gid: Some(rustix::process::getegid().as_raw()),
        permissions: Some(mode),
        atime: Some(seconds),
        mtime: Some(seconds),
        ..FileAttributes::empty()
    }
}

/// The paths that there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// `/`
    Root,
    /// `/configs`
    Configurations,
    /// `/configs/NAME.json`
    Configuration(ConfigurationName),
    /// `/files`
    Files,
    /// `/files/DIGEST`
    File(Digest),
    /// Anything else, cleaned.
    Other(String),
}

impl Path {
    /// The path that a client means, absolute or relative to `/`. `..` stops there.
    pub fn clean(path: &str) -> Self {
        let mut parts: Vec<&str> = Vec::new();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        let other = || Self::Other(format!("/{}", parts.join("/")));
        match parts.as_slice() {
            [] => Self::Root,
            ["configs"] => Self::Configurations,
            ["files"] => Self::Files,
            ["configs", file] => match file.strip_suffix(".json").map(str::parse) {
                Some(Ok(name)) => Self::Configuration(name),
                _ => other(),
            },
            ["files", name] => name.parse().map_or_else(|_| other(), Self::File),
            _ => other(),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("/"),
            Self::Configurations => f.write_str("/configs"),
            Self::Configuration(name) => write!(f, "/configs/{}.json", name.as_str()),
            Self::Files => f.write_str("/files"),
            Self::File(digest) => write!(f, "/files/{digest}"),
            Self::Other(path) => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_outside() {
        let digest = Digest::of(b"");
        let file = format!("files/{digest}");
        for (path, want) in [
            ("", "/"),
            (".", "/"),
            ("../../..", "/"),
            ("configs/", "/configs"),
            ("/configs/a.json", "/configs/a.json"),
            ("configs/../files", "/files"),
            ("/files/../state.db", "/state.db"),
            (file.as_str(), &format!("/{file}")),
        ] {
            assert_eq!(Path::clean(path).to_string(), want, "{path:?}");
        }
        for path in ["files/../host_key", "/uploads/x", "configs/x", "files/XYZ", "a/../../etc"] {
            assert!(matches!(Path::clean(path), Path::Other(_)), "{path:?}");
        }
    }
}
