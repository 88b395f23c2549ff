//! Records that a registry has moved to another place. The move is complete as soon as the old place
//! has its record. From then on, only the new place can be used. The records are:
//!
//! ```text
//! moved.json         in a directory: the registry has moved to a database server and a bucket
//! note "moved"       in a catalogue on a server: the registry has moved to a directory
//! note "migration"   in the new catalogue, until it is complete and the old place has its record
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use deploy_store::{escape, replace_file};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::own_catalogue;

/// The name of the file with the record of a move to a server.
pub(crate) const FILE: &str = "moved.json";
/// The name of the note with the record of a move to a directory.
pub(crate) const MOVED: &str = "moved";
/// The name of the note in a catalogue that is the destination of an unfinished migration.
pub(crate) const MIGRATION: &str = "migration";

/// The record of a move to a database server and a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MovedToServer {
    /// The id of the migration, which is the id of the new catalogue.
    pub(crate) id: String,
    pub(crate) time: Timestamp,
    /// The address of the catalogue, without a password.
    pub(crate) catalogue: String,
    /// The address of the bucket.
    pub(crate) bucket: String,
}

/// The record of a move to a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MovedToDirectory {
    /// The id of the migration.
    pub(crate) id: String,
    pub(crate) time: Timestamp,
    pub(crate) dir: PathBuf,
}

/// The note about an unfinished migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unfinished {
    /// The id of the migration.
    pub(crate) id: String,
    /// The id of the registry that migrates.
    pub(crate) source: String,
}

/// What the catalogue on a server is for a registry that has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    /// The registry's own catalogue.
    Own,
    /// The registry's own catalogue. The migration stopped after the record of the move was made.
    ToFinish,
    Other,
}

/// Compares the record in the directory with the catalogue.
fn compare(
    moved: &MovedToServer,
    catalogue: Option<&str>,
    migration: Option<&Unfinished>,
) -> Destination {
    if migration.is_some_and(|migration| migration.id == moved.id) {
        Destination::ToFinish
    } else if migration.is_none() && catalogue == Some(&*moved.id) {
        Destination::Own
    } else {
        Destination::Other
    }
}

/// The record in the directory `dir`, if the registry has moved to a server.
pub(crate) fn read(dir: &Path) -> Result<Option<MovedToServer>> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|err| Error::Failed(format!("read {}: {err}", path.display())))?,
    };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|err| Error::Damaged(format!("read {}: {err}", path.display())))
}

/// Writes the record into the directory `dir`. When this function returns, the registry has moved.
pub(crate) fn write(dir: &Path, moved: &MovedToServer) -> Result<()> {
    let text = serde_json::to_string_pretty(moved)
        .map_err(|err| Error::Failed(format!("write {FILE}: {err}")))?;
    Ok(replace_file(&dir.join(FILE), format!("{text}\n").as_bytes(), 0o600)?)
}

/// Fails if a registry without a server or a bucket is about to start on a directory whose registry
/// has moved.
pub(crate) fn check_start(
    dir: &Path,
    moved: &MovedToServer,
    has_server_and_bucket: bool,
) -> Result<()> {
    if has_server_and_bucket {
        return Ok(());
    }
    let MovedToServer { catalogue, bucket, time, .. } = moved;
    Err(conflict(
        dir,
        &format!(
            "the registry has moved to {} and {} at {time:.0}; start it with -catalogue and \
             -bucket, or return to a directory with deploy-registry migrate -back",
            escape(catalogue),
            escape(bucket)
        ),
    ))
}

/// Fails if the catalogue is the source of a finished migration, or the destination of an unfinished
/// one. If only the last steps of the migration of the directory `dir` are missing, does them.
pub(crate) async fn check_catalogue(
    dir: &Path,
    catalog: &Catalog,
    moved: Option<&MovedToServer>,
) -> Result<()> {
    if let Some(to) = catalog.note::<MovedToDirectory>(MOVED).await? {
        return Err(conflict(
            dir,
            &format!(
                "the registry of this catalogue has moved to the directory {} at {:.0}; start it \
                 there without -catalogue and -bucket",
                escape(&to.dir.display().to_string()),
                to.time
            ),
        ));
    }
    let migration: Option<Unfinished> = catalog.note(MIGRATION).await?;
    let Some(moved) = moved else {
        return match migration {
            None => Ok(()),
            Some(_) => Err(conflict(
                dir,
                "the catalogue is the destination of a migration that is not complete; run \
                 deploy-registry migrate again as before, or start the registry at its old place",
            )),
        };
    };
    let recorded: Option<String> = catalog.note(own_catalogue::NOTE).await?;
    match compare(moved, recorded.as_deref(), migration.as_ref()) {
        Destination::Own => Ok(()),
        Destination::ToFinish => finish(dir, catalog, &moved.id).await,
        Destination::Other => Err(conflict(
            dir,
            &format!(
                "the registry has moved to {}, and this is another catalogue; give the right \
                 address with -catalogue",
                escape(&moved.catalogue)
            ),
        )),
    }
}

/// Does the last steps of a migration to a server, after the record of the move was made.
pub(crate) async fn finish(dir: &Path, catalog: &Catalog, id: &str) -> Result<()> {
    own_catalogue::join(dir, catalog, id).await?;
    catalog.delete_note(MIGRATION).await
}

fn conflict(dir: &Path, text: &str) -> Error {
    Error::Conflict(format!("open registry {}: {text}; nothing was changed", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved() -> MovedToServer {
        MovedToServer {
            id: "a".to_owned(),
            time: Timestamp::UNIX_EPOCH,
            catalogue: "postgres://me@host/deploy".to_owned(),
            bucket: "s3://blobs".to_owned(),
        }
    }

    #[test]
    fn directory_that_has_moved_accepts_only_its_new_catalogue() {
        let unfinished = |id: &str| Unfinished { id: id.to_owned(), source: "s".to_owned() };
        let check =
            |catalogue, migration: Option<&Unfinished>| compare(&moved(), catalogue, migration);
        assert_eq!(check(Some("a"), None), Destination::Own);
        assert_eq!(check(None, Some(&unfinished("a"))), Destination::ToFinish);
        assert_eq!(check(Some("a"), Some(&unfinished("a"))), Destination::ToFinish);
        assert_eq!(check(None, None), Destination::Other);
        assert_eq!(check(Some("b"), None), Destination::Other);
        assert_eq!(check(None, Some(&unfinished("b"))), Destination::Other);
        assert_eq!(check(Some("a"), Some(&unfinished("b"))), Destination::Other);
    }

    #[test]
    fn record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        write(dir.path(), &moved()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(moved()));
        check_start(dir.path(), &moved(), true).unwrap();
        let refused = check_start(dir.path(), &moved(), false).unwrap_err().to_string();
        let why = "the registry has moved to postgres://me@host/deploy and s3://blobs at \
                   1970-01-01T00:00:00Z; start it with -catalogue and -bucket, or return to a \
                   directory with deploy-registry migrate -back; nothing was changed";
        assert!(refused.ends_with(why), "{refused}");
        fs::write(dir.path().join(FILE), "{}").unwrap();
        assert!(matches!(read(dir.path()), Err(Error::Damaged(_))));
    }
}
