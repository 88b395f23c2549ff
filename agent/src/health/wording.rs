//! Makes texts for failed probes.

use std::io;

/// Maximum number of characters of a line in a message.
const MOST_OF_LINE: usize = 200;

/// The text of a system error. Frequent errors have a text in plain words.
pub(super) fn reason(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => err.to_string(),
    }
}

/// The last line of `text` that is not empty, cut to `MOST_OF_LINE` characters.
pub(super) fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().chars().take(MOST_OF_LINE).collect()
}
