//! Imports the directory of a Go registry. The import reads the file `state.db` and never changes
//! this file. One transaction loads the contents of `state.db` into a new catalogue.

pub mod bolt;
mod go_files;
mod go_report;
mod go_state;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use deploy_store::disk::{Dir, Lock};
use deploy_store::{Blobs, Digest, Meter, Size};
use deploy_wire::command::Rolling;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::{BlobRow, Catalog, Change, Contents, StateToLoad};
pub use go_files::Files;
pub use go_report::Report;
pub use go_state::State;

/// The name of the Go tool's catalogue in a registry's directory.
pub const STATE_DB: &str = "state.db";
/// The name of the note in the catalogue that records an import.
const NOTE: &str = "import";
/// Maximum size of a `state.db` that the import reads, in bytes.
const MAX_STATE_DB: u64 = 8 << 30;

/// Why the registry imported nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Go registry is running.
    #[error(
        "{} is in use by another process{}: a Go registry still runs on this directory; \
         stop it first",
        path.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Running {
        /// The path of `state.db`.
        path: PathBuf,
        /// The id of the process that uses the file, if it is known.
        pid: Option<u32>,
    },
    /// The registry cannot import `state.db`.
    #[error("{} {cause}; nothing was imported or changed", path.display())]
    Unusable {
        /// The path of `state.db`.
        path: PathBuf,
        /// Why the registry cannot import the file.
        cause: go_state::Error,
    },
    /// `state.db` is larger than the limit.
    #[error("{} is larger than {}; nothing was imported", path.display(), Size(MAX_STATE_DB))]
    TooLong {
        /// The path of `state.db`.
        path: PathBuf,
    },
    /// A Go registry has changed `state.db` since the import.
    #[error(
        "{} was imported on {time:.0}, and a Go registry has changed it since. To continue with \
         this registry's catalogue, move state.db away; to import state.db again, move \
         catalogue.db, catalogue.db-wal and catalogue.db-shm away",
        path.display()
    )]
    Changed {
        /// The path of `state.db`.
        path: PathBuf,
        /// The time of the import.
        time: Timestamp,
    },
    /// There is no `state.db`.
    #[error("there is no {}, so there is nothing to import", path.display())]
    Nothing {
        /// The path of `state.db`.
        path: PathBuf,
    },
    /// An operation on the directory, or on a file in the directory, failed.
    #[error(transparent)]
    Store(#[from] deploy_store::Error),
    /// The catalogue failed.
    #[error(transparent)]
    Catalog(#[from] crate::error::Error),
}

/// The contents of the note about an import.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Imported {
    time: Timestamp,
    contents: String,
}

/// The open catalogue of a Go registry. While this value exists, the file is locked, so that the Go
/// registry cannot start.
#[derive(Debug)]
pub struct StateDb {
    path: PathBuf,
    file: File,
    _lock: Lock,
}

impl StateDb {
    /// Opens `state.db` in `dir`, if this file exists.
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

    /// Fails if `dir` has no `state.db`.
    pub fn there(dir: &Path) -> Result<(), Error> {
        let path = dir.join(STATE_DB);
        if path.exists() { Ok(()) } else { Err(Error::Nothing { path }) }
    }

    /// Reads the whole database.
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

/// Whether the registry should import the state of a Go registry now. Fails with [`Error::Changed`]
/// if a Go registry has changed `state.db` since an earlier import.
pub async fn is_wanted(state_db: Option<&StateDb>, catalog: &Catalog) -> Result<bool, Error> {
    let Some(state_db) = state_db else { return Ok(false) };
    if let Some(imported) = catalog.note::<Imported>(NOTE).await? {
        unchanged(state_db, &imported)?;
        return Ok(false);
    }
    if !catalog.is_new().await? {
        let path = state_db.path.display();
        tracing::warn!(
            "{path} is not imported, because the catalogue is not empty; start with an empty \
             catalogue to import it, or move {path} away"
        );
        return Ok(false);
    }
    Ok(true)
}

/// Imports the state of a Go registry in `dir`, and logs the report. `meter` counts the bytes that
/// the import reads from `files`.
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
        user: String::new(),
        key: "deploy-registry".to_owned(),
        address: "here".to_owned(),
        command: "import-state".to_owned(),
        now,
        overrides: false,
        rolling: Rolling::default(),
    };
    // The import first moves damaged files to quarantine, and then writes its note. If the import
    // is interrupted between these steps, the next import reports these files as missing, which is
    // correct.
    for (digest, (bytes, why)) in &files.damaged {
        tracing::error!(
            event = "blob_damaged",
            %digest,
            bytes,
            "blob {digest}: {why}; quarantined"
        );
        blobs.set_aside(*digest, quarantine)?;
    }
    catalog.load(&contents(&state, &files), (NOTE, &note), &change).await?;
    log(&report);
    Ok(report)
}

/// The contents of the new catalogue. An earlier state that needs a missing file counts as lost.
fn contents<'a>(state: &'a State, files: &Files) -> Contents<'a> {
    let row = |(&digest, bytes): (&Digest, u64), damaged| BlobRow { digest, bytes, damaged };
    let sound = files.sound.iter().map(|(digest, bytes)| row((digest, *bytes), false));
    let damaged = files.damaged.iter().map(|(digest, (bytes, _))| row((digest, *bytes), true));
    let mut configurations = Vec::with_capacity(state.configurations.len());
    for configuration in &state.configurations {
        let current = configuration.states.len();
        let states = (1..).zip(&configuration.states).map(|(number, state)| {
            let lost = number != current && !files.have_all_of(state);
            StateToLoad { state, lost }
        });
        configurations.push((&configuration.name, states.collect()));
    }
    Contents {
        components: &state.components,
        versions: &state.versions,
        blobs: sound.chain(damaged).collect(),
        configurations,
    }
}

/// Fails if `state.db` has changed since the import. If the file cannot be read, the function only
/// logs the error, because the registry no longer needs the file.
fn unchanged(state_db: &StateDb, imported: &Imported) -> Result<(), Error> {
    match state_db.read() {
        Ok(state) if state.contents.to_string() == imported.contents => Ok(()),
        Ok(_) => Err(Error::Changed { path: state_db.path.clone(), time: imported.time }),
        Err(err) => {
            tracing::warn!(
                "{err}; state.db was already imported on {:.0} and is no longer needed",
                imported.time
            );
            Ok(())
        }
    }
}

fn log(report: &Report) {
    let Report { components, versions, configurations, states, files, bytes, .. } = report;
    tracing::info!(
        components,
        versions,
        configurations,
        states,
        files,
        bytes,
        "imported the state of the Go registry; state.db is unchanged"
    );
    for (kind, bad) in [("damaged", &report.damaged), ("missing", &report.missing)] {
        for bad in bad {
            let hits = bad.hits.join(", ");
            let hits = if hits.is_empty() { hits } else { format!("; affects {hits}") };
            tracing::warn!("{kind} {}: {}{hits}", bad.path, bad.why);
        }
    }
    for (what, count) in [
        ("unused files", report.orphans.len()),
        ("earlier states with missing files", report.lost.len()),
    ] {
        if count > 0 {
            tracing::info!(count, "{what}");
        }
    }
    report.odd.iter().for_each(|odd| tracing::warn!("{odd}"));
}

/// The report that an import of the Go registry in `dir` would make. This function changes nothing.
/// `meter` counts the bytes that the function reads from `files`.
pub fn dry_run(dir: &Path, meter: &Meter) -> Result<Report, Error> {
    let path = dir.join(STATE_DB);
    let state_db = StateDb::open(dir)?.ok_or(Error::Nothing { path })?;
    let state = state_db.read()?;
    let files = match Dir::open(&dir.join("files")) {
        Err(err) if err.is_not_found() => Files::default(),
        other => Files::read(&other?, meter)?,
    };
    Ok(Report::new(&state_db.path, &state, &files, true))
}
