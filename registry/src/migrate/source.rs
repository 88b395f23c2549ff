//! Opens the registry that migrates, and makes sure that it does not run.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use deploy_store::disk::Lock;
use deploy_store::{Blobs, Meter, escape};
use rustix::process::geteuid;

use super::ServerPlace;
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::go_import::{self, StateDb};
use crate::moved::{self, MovedToDirectory};
use crate::registry::finish_removals;
use crate::{own_bucket, own_catalogue};

/// The name of the note with the random id of a registry that migrates. The same registry keeps its
/// id if it starts a migration again.
const SOURCE: &str = "migration_source";

/// A registry in a directory.
pub(super) struct SourceDirectory {
    /// The id of the registry that migrates.
    pub(super) id: String,
    pub(super) blobs: Arc<Blobs>,
    pub(super) catalog: Catalog,
    _state_db: Option<StateDb>,
    _lock: Lock,
}

/// A registry with its catalogue on a server and its blobs in a bucket.
pub(super) struct SourceServer {
    /// The id of the registry that migrates.
    pub(super) id: String,
    /// The id of the catalogue.
    pub(super) own: String,
    pub(super) catalog: Catalog,
    /// The record of an earlier migration.
    pub(super) moved: Option<MovedToDirectory>,
}

/// Takes the lock of a directory, which a running registry holds.
pub(super) fn lock(dir: &Path) -> Result<Lock> {
    let meta = fs::metadata(dir).map_err(|err| deploy_store::Error::Io {
        action: "open directory",
        path: dir.to_owned(),
        cause: err,
    })?;
    if meta.uid() != geteuid().as_raw() {
        // The registry could not read the new files.
        let why = "the directory belongs to another user; run this command as that user";
        return Err(conflict(dir, why));
    }
    match Lock::take(dir) {
        Err(deploy_store::Error::Busy { pid, .. }) => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let why = format!("the directory is in use by another process{pid}: a registry runs");
            Err(conflict(dir, &format!("{why}; stop it first")))
        }
        locked => Ok(locked?),
    }
}

impl SourceDirectory {
    /// Opens the registry in `dir`, which was locked. Finishes work that a crash interrupted, as the
    /// start of the registry does.
    pub(super) async fn open(dir: &Path, lock: Lock, meter: &Meter) -> Result<Self> {
        if own_catalogue::id_in(dir)?.is_some() {
            return Err(conflict(dir, "the catalogue of this registry is on a database server"));
        }
        if !dir.join("catalogue.db").exists() {
            return Err(conflict(dir, "there is no catalogue.db, so there is nothing to migrate"));
        }
        let state_db = StateDb::open(dir).map_err(import_error)?;
        let blobs = Arc::new(Blobs::open(&dir.join("files"), &dir.join("uploads"), u64::MAX)?);
        let catalog = Catalog::open_to_migrate(dir, None, meter).await?;
        moved::check_catalogue(dir, &catalog, None).await?;
        if catalog.has_note(own_bucket::NOTE).await? {
            return Err(conflict(
                dir,
                "the blobs of this registry are in a bucket, but only a registry with both its \
                 catalogue and its blobs in the directory can migrate",
            ));
        }
        if go_import::is_wanted(state_db.as_ref(), &catalog).await.map_err(import_error)? {
            let why = "the state of a Go registry is not imported yet; run deploy-registry \
                       import-state first";
            return Err(conflict(dir, why));
        }
        blobs.clean_up()?;
        let removed = finish_removals(&blobs, &catalog).await;
        removed.map_err(|err| Error::Failed(err.to_string()))?;
        let id = source_id(&catalog).await?;
        Ok(Self { id, blobs, catalog, _state_db: state_db, _lock: lock })
    }
}

impl SourceServer {
    /// Opens the registry at `from`. `dir` is the destination.
    pub(super) async fn open(dir: &Path, from: &ServerPlace, meter: &Meter) -> Result<Self> {
        let catalog = Catalog::open_to_migrate(dir, Some(&from.catalogue), meter).await?;
        if catalog.has_note(moved::MIGRATION).await? {
            return Err(conflict(
                dir,
                "the catalogue on the database server is the destination of a migration that is \
                 not complete; complete that migration first",
            ));
        }
        let Some(own) = catalog.note(own_catalogue::NOTE).await? else {
            return Err(conflict(dir, "no registry uses the catalogue on the database server"));
        };
        if !catalog.has_note(own_bucket::NOTE).await? {
            return Err(conflict(
                dir,
                "the blobs of the registry are files in its directory, but only a registry with \
                 -catalogue and -bucket can return to a directory",
            ));
        }
        let moved = catalog.note(moved::MOVED).await?;
        let id = source_id(&catalog).await?;
        Ok(Self { id, own, catalog, moved })
    }

    /// The error for a registry that has moved to another directory.
    pub(super) fn has_moved(&self, to: &MovedToDirectory) -> Error {
        let (dir, time) = (escape(&to.dir.display().to_string()), to.time);
        Error::Conflict(format!(
            "migrate: the registry has already moved to {dir} at {time:.0}; nothing was changed"
        ))
    }
}

/// The id of the registry that migrates. Makes the id if this is the first migration.
async fn source_id(catalog: &Catalog) -> Result<String> {
    if let Some(id) = catalog.note(SOURCE).await? {
        return Ok(id);
    }
    let id = catalog.session_id().to_owned();
    catalog.set_note(SOURCE, &id).await?;
    Ok(id)
}

pub(super) fn conflict(dir: &Path, why: &str) -> Error {
    Error::Conflict(format!("migrate {}: {why}; nothing was changed", dir.display()))
}

fn import_error(err: go_import::Error) -> Error {
    Error::Conflict(err.to_string())
}
