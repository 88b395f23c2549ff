//! Formats and logs the messages that several parts of the store need.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::layer::entry::EntryPath;
use crate::layer::objects::reason::PrivateReason;

/// Lists the first names for a message, and counts the rest.
pub fn listed(names: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        // Writing to a string cannot fail.
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}

/// Logs which files are private from now on.
pub(super) fn log_private_files(changed: &BTreeMap<EntryPath, PrivateReason>) {
    if changed.is_empty() {
        return;
    }
    let names: Vec<String> =
        changed.iter().map(|(path, why)| format!("{path} ({})", why.text())).collect();
    tracing::warn!(
        event = "files_private",
        files = names.len(),
        "files that roots share were changed or may have been changed in a root; from now on, each \
         root has its own copies of these files: {}",
        listed(&names)
    );
}
