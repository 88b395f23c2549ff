//! Makes sure that a directory and a catalogue on a server belong together. With the catalogue of
//! another directory, the blobs of this directory would have no references, and gc would remove
//! these blobs.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use deploy_store::{Blobs, replace_file};

use crate::catalog::Catalog;
use crate::error::{Error, Result};

/// If the catalogue is on a server, the file with this name holds the catalogue's id. A directory
/// with a catalogue file has no file of this name.
pub(crate) const ID: &str = "catalogue.id";
/// The note with this name holds the same id in the catalogue on the server.
pub(crate) const NOTE: &str = "catalogue";

/// Why a directory cannot be used with a catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mismatch {
    /// The directory has a catalogue file, but `-catalogue` names a server.
    HasFile,
    /// The catalogue of the directory is on a server, but `-catalogue` is not given.
    NeedsServer,
    /// The catalogue on the server belongs to another directory.
    OtherDirectory,
    /// The catalogue on the server is new, but the directory has blobs.
    HasBlobs,
    /// The directory belongs to another catalogue, which several registries may use.
    OtherCatalogue,
}

impl Mismatch {
    fn text(self) -> &'static str {
        match self {
            Self::HasFile => {
                "the directory has the catalogue catalogue.db; leave -catalogue out, or give an \
                 empty directory with -dir"
            }
            Self::NeedsServer => {
                "the catalogue is on a database server; give the server's address with -catalogue"
            }
            Self::OtherDirectory => {
                "the catalogue on the database server belongs to another directory; give that \
                 directory with -dir, or another database with -catalogue"
            }
            Self::HasBlobs => {
                "the directory has files, but the catalogue on the database server is new; give \
                 the database of this directory with -catalogue, or an empty directory with -dir"
            }
            Self::OtherCatalogue => {
                "the directory belongs to another catalogue; give the database of this directory \
                 with -catalogue, or an empty directory with -dir"
            }
        }
    }

    fn error(self, dir: &Path) -> Error {
        let (dir, text) = (dir.display(), self.text());
        Error::Conflict(format!("open registry {dir}: {text}; nothing was changed"))
    }
}

/// Checks whether a directory has the kind of catalogue that the registry is about to open.
fn before(is_on_server: bool, has_file: bool, has_id: bool) -> Option<Mismatch> {
    match is_on_server {
        true if has_file => Some(Mismatch::HasFile),
        false if has_id => Some(Mismatch::NeedsServer),
        _ => None,
    }
}

/// Compares the id in a directory with the id in the catalogue on the server.
fn compare(dir: Option<&str>, catalogue: Option<&str>, has_blobs: bool) -> Option<Mismatch> {
    match (dir, catalogue) {
        (Some(dir), Some(catalogue)) if dir == catalogue => None,
        (_, Some(_)) => Some(Mismatch::OtherDirectory),
        (_, None) => has_blobs.then_some(Mismatch::HasBlobs),
    }
}

/// Like [`compare`], if the blobs are in a bucket: then each catalogue may have several directories.
fn compare_shared(dir: Option<&str>, catalogue: &str) -> Option<Mismatch> {
    dir.filter(|dir| *dir != catalogue).map(|_| Mismatch::OtherCatalogue)
}

/// Fails if the directory has the other kind of catalogue: a file if `is_on_server` is true, or a
/// catalogue on a server if `is_on_server` is false.
pub(crate) fn check_kind(dir: &Path, is_on_server: bool) -> Result<()> {
    let [has_file, has_id] = ["catalogue.db", ID].map(|name| dir.join(name).exists());
    let mismatch = before(is_on_server, has_file, has_id);
    mismatch.map_or(Ok(()), |mismatch| Err(mismatch.error(dir)))
}

/// Fails if the directory does not belong to the open catalogue on the server. If the catalogue is
/// new and the directory has no blobs, records in both places that the directory and the catalogue
/// belong together.
pub(crate) async fn check_server(dir: &Path, catalog: &Catalog, blobs: &Blobs) -> Result<()> {
    let own = id_in(dir)?;
    let own = own.as_deref();
    if catalog.is_shared() {
        let new = own.unwrap_or(catalog.session_id()).to_owned();
        let id = catalog.claim_note(NOTE, new).await?;
        return match compare_shared(own, &id) {
            Some(mismatch) => Err(mismatch.error(dir)),
            None if own.is_none() => write_id(dir, &id),
            None => Ok(()),
        };
    }
    let recorded: Option<String> = catalog.note(NOTE).await?;
    let has_blobs = recorded.is_none() && !blobs.list()?.is_empty();
    if let Some(mismatch) = compare(own, recorded.as_deref(), has_blobs) {
        return Err(mismatch.error(dir));
    }
    if recorded.is_none() {
        // After a crash between the two writes, the catalogue is still new and the directory still
        // has no blobs. The next start then repeats both writes.
        let id = own.map_or_else(|| catalog.session_id().to_owned(), str::to_owned);
        join(dir, catalog, &id).await?;
    }
    Ok(())
}

/// The id in the directory, if there is one.
pub(crate) fn id_in(dir: &Path) -> Result<Option<String>> {
    let path = dir.join(ID);
    match fs::read_to_string(&path) {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::Failed(format!("read {}: {err}", path.display()))),
        Ok(text) => Ok(Some(text.trim().to_owned())),
    }
}

/// Records in both places that the directory and the catalogue belong together.
pub(crate) async fn join(dir: &Path, catalog: &Catalog, id: &str) -> Result<()> {
    write_id(dir, id)?;
    catalog.set_note(NOTE, &id).await
}

fn write_id(dir: &Path, id: &str) -> Result<()> {
    Ok(replace_file(&dir.join(ID), format!("{id}\n").as_bytes(), 0o600)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_keeps_its_kind_of_catalogue() {
        assert_eq!(before(false, true, false), None);
        assert_eq!(before(true, false, true), None);
        assert_eq!(before(true, false, false), None);
        assert_eq!(before(true, true, false), Some(Mismatch::HasFile));
        assert_eq!(before(false, false, true), Some(Mismatch::NeedsServer));
    }

    #[test]
    fn blobs_never_get_the_catalogue_of_another_directory() {
        assert_eq!(compare(Some("a"), Some("a"), true), None);
        assert_eq!(compare(None, None, false), None);
        assert_eq!(compare(Some("a"), None, false), None);
        assert_eq!(compare(Some("a"), None, true), Some(Mismatch::HasBlobs));
        assert_eq!(compare(None, None, true), Some(Mismatch::HasBlobs));
        assert_eq!(compare(Some("a"), Some("b"), false), Some(Mismatch::OtherDirectory));
        assert_eq!(compare(None, Some("b"), false), Some(Mismatch::OtherDirectory));
    }

    #[test]
    fn shared_catalogue_accepts_further_directories_but_not_those_of_other_catalogues() {
        assert_eq!(compare_shared(None, "a"), None);
        assert_eq!(compare_shared(Some("a"), "a"), None);
        assert_eq!(compare_shared(Some("b"), "a"), Some(Mismatch::OtherCatalogue));
    }
}
