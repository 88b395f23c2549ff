//! Taking over the directory of a Go registry: its `state.db` is read, never written, and
//! what it says is taken into a new catalogue in one transaction.

pub mod bolt;
mod go_files;
mod go_report;
mod go_state;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use deploy_store::disk::{Dir, Lock};
use deploy_store::{Blobs, Meter, Size};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::{self, Catalog, Change};
pub use go_files::Files;
pub use go_report::Report;
pub use go_state::State;

/// The Go tool's catalogue in a registry's directory.
pub const STATE_DB: &str = "state.db";
/// Under which an import is noted.
const NOTE: &str = "import";
/// Largest `state.db` that is read, in bytes.
const MAX_STATE_DB: u64 = 8 << 30;

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Go registry runs.
    #[error(
        "{} is in use by another process{}: a Go registry still runs on this directory; \
         stop it first",
        path.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Running {
        /// The file.
        path: PathBuf,
        /// The process.
        pid: Option<u32>,
    },
    /// The file is not one that can be imported.
    #[error("{} {cause}; nothing was imported or changed", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: go_state::Error,
    },
    /// The file is larger than any such file is.
    #[error("{} is larger than {}; nothing was imported", path.display(), Size(MAX_STATE_DB))]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A Go registry has worked on it since.
    #[error(
        "{} is not what was imported on {time:.0}: a Go registry has changed it since. To go on \
         with the catalogue as it is here, move state.db away; to have state.db imported anew, \
         move catalogue.db, catalogue.db-wal and catalogue.db-shm away",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// When it was imported.
        time: Timestamp,
    },
    /// There is none.
    #[error("there is no {}: no Go registry kept anything here", path.display())]
    Nothing {
        /// The file.
        path: PathBuf,
    },
    /// The directory or a file in it.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
}

/// What is remembered of an import.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Imported {
    time: Timestamp,
    contents: String,
}

/// A Go registry's catalogue, locked against that registry.
#[derive(Debug)]
pub struct StateDb {
    path: PathBuf,
    file: File,
    _lock: Lock,
}

impl StateDb {
    /// Opens the one in `dir`, if there is one.
    pub fn open(dir: &Path) -> Result<Option<Self>, Error> {
        let path = dir.join(STATE_DB);
        let file = match File::open(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|err| deploy_store::Error::io("open", &path, err))?,
        };
        match Lock::share(&file, &path) {
            Ok(lock) => Ok(Some(Self { path, file, _lock: lock })),
            Err(deploy_store::Error::Busy { pid, .. }) => Err(Error::Running { path, pid }),
            Err(err) => Err(err.into()),
        }
    }

    /// Fails where there is none in `dir`.
    pub fn there(dir: &Path) -> Result<(), Error> {
        let path = dir.join(STATE_DB);
        if path.exists() { Ok(()) } else { Err(Error::Nothing { path }) }
    }

    /// All that it says.
    pub fn read(&self) -> Result<State, Error> {
        let path = || self.path.clone();
        let failed = |err| deploy_store::Error::io("read", &self.path, err);
        let mut bytes = Vec::new();
        (&self.file).take(MAX_STATE_DB + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MAX_STATE_DB {
            return Err(Error::TooLong { path: path() });
        }
        State::read(&bytes).map_err(|cause| Error::Unusable { path: path(), cause })
    }
}

/// Whether what a Go registry left is to be imported; an error where it went on after that.
pub async fn is_wanted(state_db: Option<&StateDb>, catalog: &Catalog) -> Result<bool, Error> {
    let Some(state_db) = state_db else { return Ok(false) };
    if let Some(imported) = catalog.note::<Imported>(NOTE).await? {
        unchanged(state_db, &imported)?;
        return Ok(false);
    }
    if !catalog.is_new().await? {
        let path = state_db.path.display();
        tracing::warn!(
            "{path} is not imported: the catalogue has something already; move one away"
        );
        return Ok(false);
    }
    Ok(true)
}

/// Imports what a Go registry left in `dir`, and tells what was found. `meter` counts the bytes of
/// files that were read.
pub async fn take_over(
    dir: &Path,
    state_db: &StateDb,
    blobs: &Blobs,
    quarantine: &Dir,
    catalog: &Catalog,
    meter: &Meter,
) -> Result<Report, Error> {
    let state = state_db.read()?;
    let files = Files::read(&Dir::open(&dir.join("files"))?, meter)?;
    let report = Report::new(&state_db.path, &state, &files, false);
    let now = Timestamp::now();
    let note = Imported { time: now, contents: state.contents.to_string() };
    let change = Change {
        login: String::new(),
        who: "deploy-registry".to_owned(),
        address: "here".to_owned(),
        command: "import-state".to_owned(),
        now,
    };
    // Before the import is noted: an import that begins anew finds them missing, which they are.
    for (digest, (bytes, why)) in &files.damaged {
        tracing::error!(event = "blob_damaged", %digest, bytes, "blob {digest}: {why}; set aside");
        blobs.set_aside(*digest, quarantine)?;
    }
    catalog.import(&state, &files, (NOTE, &note), &change).await?;
    tell(&report);
    Ok(report)
}

/// Whether `state.db` says what it said when it was imported. One that cannot be read any
/// more is nobody's but the Go tool's.
fn unchanged(state_db: &StateDb, imported: &Imported) -> Result<(), Error> {
    match state_db.read() {
        Ok(state) if state.contents.to_string() == imported.contents => Ok(()),
        Ok(_) => Err(Error::Changed { path: state_db.path.clone(), time: imported.time }),
        Err(err) => {
            tracing::warn!("{err}; it was imported on {:.0} and is not needed here", imported.time);
            Ok(())
        }
    }
}

fn tell(report: &Report) {
    let Report { components, versions, configurations, states, files, bytes, .. } = report;
    tracing::info!(
        components,
        versions,
        configurations,
        states,
        files,
        bytes,
        "imported what the Go registry kept; state.db is as it was"
    );
    for (kind, bad) in [("damaged", &report.damaged), ("missing", &report.missing)] {
        for bad in bad {
            let hits = bad.hits.join(", ");
            tracing::warn!("{kind} {}: {}; hits {hits}", bad.path, bad.why);
        }
    }
    for (what, count) in [
        ("files that nothing uses", report.orphans.len()),
        ("earlier states whose files are gone", report.lost.len()),
    ] {
        if count > 0 {
            tracing::info!(count, "{what}");
        }
    }
    report.odd.iter().for_each(|odd| tracing::warn!("{odd}"));
}

/// What an import of the Go registry in `dir` would find. Changes nothing. `meter` counts the bytes
/// of files that were read.
pub fn look(dir: &Path, meter: &Meter) -> Result<Report, Error> {
    let path = dir.join(STATE_DB);
    let state_db = StateDb::open(dir)?.ok_or(Error::Nothing { path })?;
    let state = state_db.read()?;
    let files = match Dir::open(&dir.join("files")) {
        Err(err) if err.is_not_found() => Files::default(),
        other => Files::read(&other?, meter)?,
    };
    Ok(Report::new(&state_db.path, &state, &files, true))
}
