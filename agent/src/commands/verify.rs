//! Runs `verify`, which reads the cache and the roots of an agent's directory, and reports damage.
//! With `-repair`, it also repairs the cache.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::anyhow;
use deploy_cli::progress::{Form, Shown};
use deploy_store::{Error, Meter, Verified, escape, escape_json, plural};
use deploy_wire::exit;
use serde::Serialize;

use crate::cache_repair::Mended;
use crate::cache_repair::{self, AT_ONCE};
use crate::commands::print;
use crate::commands::without_agent::alone;
use crate::control::protocol::Request;
use crate::control::{ask, handler};
use crate::flags::Flags;
use crate::progress_log;

/// The result of `verify`.
#[derive(Debug, Serialize)]
pub struct Verification {
    dir: PathBuf,
    objects: u64,
    bytes: u64,
    blobs: u64,
    layers: u64,
    roots: u64,
    /// Number of roots that another program made. `verify` reads these roots, but cannot compare
    /// them with layers.
    taken_over: u64,
    /// Whether a repair was attempted.
    repaired: bool,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    path: PathBuf,
    what: String,
    /// The result of the repair, as text; `None` if the repair did not concern this finding.
    done: Option<String>,
    mended: bool,
}

/// Verifies the agent's directory `dir`. An agent may run at the same time. `meter` counts the
/// progress.
pub fn read(dir: &Path, meter: &Meter) -> Result<Verification, Error> {
    let mut findings = Vec::new();
    let cache = deploy_store::verify_cache(dir, meter, |found| findings.push(found.into()))?;
    let Verified { roots, taken_over, .. } =
        deploy_store::verify_roots(dir, meter, |found| findings.push(found.into()))?;
    let verified = Verified { roots, taken_over, ..cache };
    Ok(Verification::new(dir, verified, findings))
}

/// Verifies the directory, and repairs the cache. `mend` receives the paths of the damaged files,
/// relative to the directory. The function verifies the roots only after the repair.
pub fn repair<E: From<Error>>(
    dir: &Path,
    meter: &Meter,
    mend: impl FnOnce(Vec<String>) -> Result<Vec<Mended>, E>,
) -> Result<Verification, E> {
    let mut findings: Vec<Finding> = Vec::new();
    let cache = deploy_store::verify_cache(dir, meter, |found| findings.push(found.into()))?;
    meter.end();
    let within = |path: &Path| path.strip_prefix(dir).ok().map(Path::to_owned);
    if !findings.is_empty() {
        let names = findings
            .iter()
            .filter_map(|found| within(&found.path)?.into_os_string().into_string().ok());
        let mended = mend(names.collect())?.into_iter();
        let mut mended: BTreeMap<PathBuf, Mended> =
            mended.map(|mended| (mended.path.clone(), mended)).collect();
        for found in &mut findings {
            if let Some(it) = within(&found.path).and_then(|path| mended.remove(&path)) {
                (found.done, found.mended) = (Some(it.done), it.mended);
            }
        }
    }
    let Verified { roots, taken_over, .. } =
        deploy_store::verify_roots(dir, meter, |found| findings.push(found.into()))?;
    let verified = Verified { roots, taken_over, ..cache };
    Ok(Verification { repaired: true, ..Verification::new(dir, verified, findings) })
}

impl From<deploy_store::Finding> for Finding {
    fn from(deploy_store::Finding { path, what }: deploy_store::Finding) -> Self {
        Self { path, what, done: None, mended: false }
    }
}

impl Verification {
    fn new(dir: &Path, verified: Verified, findings: Vec<Finding>) -> Self {
        let Verified { objects, bytes, blobs, layers, roots, taken_over } = verified;
        let (dir, repaired) = (dir.to_owned(), false);
        Self { dir, objects, bytes, blobs, layers, roots, taken_over, repaired, findings }
    }

    /// Whether the directory had nothing to verify. Such a directory is most likely not an agent's
    /// directory.
    pub fn is_empty(&self) -> bool {
        let Self { objects, blobs, layers, roots, taken_over, ref findings, .. } = *self;
        objects + blobs + layers + roots + taken_over == 0 && findings.is_empty()
    }

    /// Whether there is no damage, or all damage was repaired.
    pub fn is_sound(&self) -> bool {
        self.findings.iter().all(|found| found.mended)
    }

    /// Returns the result as one JSON document.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|json| escape_json(&json))
    }

    /// Advice on how to repair the remaining damage.
    fn advice(&self) -> String {
        let parts = ["cache", "layers", "objects"];
        let in_cache = |found: &&Finding| {
            let within = found.path.strip_prefix(&self.dir);
            within.is_ok_and(|path| parts.iter().any(|part| path.starts_with(part)))
        };
        let left: Vec<&Finding> = self.findings.iter().filter(|found| !found.mended).collect();
        let cached = left.iter().copied().filter(in_cache).count();
        let mut text = String::new();
        match (cached, self.repaired) {
            (0, _) => {}
            (n, false) => {
                text = format!(
                    "{n} in the cache: the agent repairs the damage at the next use; -repair repairs \
                     it now\n"
                );
            }
            (n, true) => {
                text = format!(
                    "{n} in the cache, not repaired: the agent downloads the damaged data at the \
                     next use\n"
                );
            }
        }
        if left.len() > cached {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{} in roots: -repair does not change roots, because services use them; remove a \
                 damaged root (rm -r), and run deploy-agent sync to rebuild the deployed root; the \
                 agent rebuilds any other damaged root before it deploys that root",
                left.len() - cached
            );
        }
        text
    }

    /// Returns the result as text for people: a line for each finding, and a summary.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Finding { path, what, done, .. } in &self.findings {
            let done = match (done, self.repaired) {
                (Some(done), _) => format!(": {done}"),
                (None, true) => ": not repaired".to_owned(),
                (None, false) => String::new(),
            };
            let (path, done) = (path.to_string_lossy(), escape(&done));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}: {}{done}", escape(&path), escape(what));
        }
        let mended = self.findings.iter().filter(|found| found.mended).count();
        let found = match (self.findings.len() as u64, self.repaired) {
            (0, _) => "all sound".to_owned(),
            (n, true) => format!("{}, {mended} repaired", plural(n, "finding")),
            (n, false) => plural(n, "finding"),
        };
        let bytes = self.bytes;
        let [objects, blobs, layers, roots] = [
            (self.objects, "object"),
            (self.blobs, "blob"),
            (self.layers, "layer"),
            (self.roots, "root"),
        ]
        .map(|(n, noun)| plural(n, noun));
        let _ = writeln!(text, "{objects} of {bytes} bytes, {blobs}, {layers}, {roots}: {found}");
        text.push_str(&self.advice());
        match self.taken_over {
            0 => {}
            1 => text.push_str(
                "1 root was here before this agent; verify read it, but cannot tell whether it is \
                 damaged\n",
            ),
            n => {
                let _ = writeln!(
                    text,
                    "{n} roots were here before this agent; verify read them, but cannot tell \
                     whether they are damaged"
                );
            }
        }
        text
    }
}

pub(super) fn show_verify(flags: &Flags, mending: bool, json: bool) -> anyhow::Result<u8> {
    let meter = Arc::default();
    let shown = Shown::with(&meter, Form::here(flags.q), progress_log::tell);
    let report = if mending {
        repair(&flags.dir, &meter, |damaged| mend(flags, &damaged))?
    } else {
        read(&flags.dir, &meter)?
    };
    drop(shown);
    if report.is_empty() {
        let dir = flags.dir.display();
        return Err(anyhow!("nothing to verify in {dir}: no agent has deployed there; check -dir"));
    }
    let text = if json { report.to_json()? + "\n" } else { report.to_text() };
    print(&text)?;
    Ok(if report.is_sound() { exit::OK } else { exit::CORRUPT })
}

fn mend(flags: &Flags, damaged: &[String]) -> anyhow::Result<Vec<Mended>> {
    let mut all = Vec::new();
    for damaged in damaged.chunks(AT_ONCE) {
        let request = Request::Repair { damaged: damaged.to_vec() };
        let answer = ask::either(&flags.dir, &request, || {
            alone(flags, async |agent, session| {
                handler::answer(cache_repair::run(agent, session, None, damaged).await)
            })
        })?;
        if let Some(err) = answer.error {
            return Err(anyhow!("{err}"));
        }
        all.extend(answer.read::<Vec<Mended>>().map_err(|err| anyhow!("read the answer: {err}"))?);
    }
    Ok(all)
}
