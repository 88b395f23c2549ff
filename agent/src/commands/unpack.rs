//! Runs `unpack`, which merges local archives into a directory without a registry.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use deploy_cli::progress::{Form, Shown, Stderr};
use deploy_store::{Limits, LinkMode, Meter, Options, Result};
use deploy_wire::exit;

use crate::flags::Flags;
use crate::flags::MAX_BLOB;
use crate::progress_log;
use crate::records::agent_report;
use crate::sandbox::Confinement;

/// Merges `archives` into the directory `into`. The first archive is the lowest layer. `meter`
/// counts the progress. Returns a line of text with the result.
pub fn run(
    archives: &[PathBuf],
    into: &Path,
    link: LinkMode,
    limits: Limits,
    meter: &Arc<Meter>,
) -> Result<String> {
    let started = Instant::now();
    let options = Options { limits, link, max_blob: MAX_BLOB, keep_blobs: false };
    let placed = deploy_store::unpack_counted(archives, into, options, meter)?;
    let archives = match archives.len() {
        1 => "1 archive".to_owned(),
        n => format!("{n} archives"),
    };
    let (placed, ms) = (agent_report::describe(placed), started.elapsed().as_millis());
    let into = into.to_string_lossy();
    Ok(format!("unpacked {archives} into {into:?}: {placed} in {ms} ms"))
}

/// The directory to which the sandbox confines `unpack`: `into` if `into` exists, otherwise the
/// nearest existing parent of `into`.
pub fn ground(into: &Path) -> PathBuf {
    let path = std::path::absolute(into).unwrap_or_else(|_| into.to_owned());
    let there = path.ancestors().find(|above| above.is_dir());
    there.unwrap_or(Path::new("/")).to_owned()
}

/// Confines the whole program in the sandbox, and unpacks. The sandbox may confine the whole
/// program, because the program only unpacks.
pub(super) fn unpack_confined(flags: &Flags, blobs: &[PathBuf], into: &Path) -> anyhow::Result<u8> {
    let confinement = Confinement::to(&ground(into), flags.confine)?;
    confinement.enter();
    let meter = Arc::default();
    let shown = Shown::with(&meter, Form::here(flags.q), progress_log::tell);
    let line = run(blobs, into, flags.link.into(), flags.limits.limits(), &meter)?;
    drop(shown);
    writeln!(Stderr, "{line}")?;
    Ok(exit::OK)
}
