//! `verify`: reads everything in an agent's directory and tells what is damaged.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use deploy_store::{Error, escape};
use serde::Serialize;

/// What `verify` tells.
#[derive(Debug, Serialize)]
pub struct Verification {
    dir: PathBuf,
    objects: u64,
    bytes: u64,
    layers: u64,
    roots: u64,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    path: PathBuf,
    what: String,
}

/// Verifies the agent's directory `dir`, beside an agent if one runs.
pub fn read(dir: &Path) -> Result<Verification, Error> {
    let mut findings = Vec::new();
    let found = |deploy_store::Finding { path, what }| findings.push(Finding { path, what });
    let deploy_store::Verified { objects, bytes, layers, roots } =
        deploy_store::verify(dir, found)?;
    Ok(Verification { dir: dir.to_owned(), objects, bytes, layers, roots, findings })
}

impl Verification {
    /// Whether nothing is damaged.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// As one JSON document.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// For people: a line for each finding, and one in the end.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Finding { path, what } in &self.findings {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {}", escape(&path.to_string_lossy()), escape(what));
        }
        let Self { objects, bytes, layers, roots, .. } = self;
        let found = match self.findings.len() {
            0 => "all sound".to_owned(),
            n => format!("{n} findings; damage in the cache is mended when it is used again"),
        };
        let _ = writeln!(
            text,
            "{objects} objects of {bytes} bytes, {layers} layers, {roots} roots: {found}"
        );
        text
    }
}
