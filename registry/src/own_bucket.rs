//! Makes sure that a directory keeps its place of blobs: files in the directory, or a bucket. The
//! code in `bucket/` checks whether a bucket and a catalogue belong together.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::de::IgnoredAny;

use crate::catalog::Catalog;
use crate::error::{Error, Result};

/// The name of the note that a catalogue has if the blobs are in a bucket.
pub(crate) const NOTE: &str = "bucket";

/// Why a directory or a catalogue cannot be used with or without a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mismatch {
    /// The directory has blobs, but `-bucket` is given.
    HasFiles,
    /// The blobs are in a bucket, but `-bucket` is not given.
    NeedsBucket,
    /// The state of a Go registry would be imported, but `-bucket` is given.
    HasGoRegistry,
}

impl Mismatch {
    fn error(self, dir: &Path) -> Error {
        let text = match self {
            Self::HasFiles => {
                "the directory has blobs in files/; leave -bucket out, or give an empty -dir"
            }
            Self::NeedsBucket => "the blobs are in a bucket; give the bucket with -bucket",
            Self::HasGoRegistry => {
                "the directory has the state of a Go registry; import it without -bucket"
            }
        };
        Error::Conflict(format!("open registry {}: {text}; nothing was changed", dir.display()))
    }
}

/// Fails if the directory has blobs, although the blobs are in a bucket.
pub(crate) fn check_files(dir: &Path, uses_bucket: bool) -> Result<()> {
    if !uses_bucket {
        return Ok(());
    }
    let files = dir.join("files");
    match fs::read_dir(&files).map(|mut items| items.next().is_some()) {
        Ok(true) => Err(Mismatch::HasFiles.error(dir)),
        Ok(false) => Ok(()),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        Err(err) => Err(Error::Failed(format!("list {}: {err}", files.display()))),
    }
}

/// Fails if the catalogue has its blobs in a bucket, but the registry has no bucket.
pub(crate) async fn check_catalogue(
    dir: &Path,
    catalog: &Catalog,
    uses_bucket: bool,
) -> Result<()> {
    if !uses_bucket && catalog.note::<IgnoredAny>(NOTE).await?.is_some() {
        return Err(Mismatch::NeedsBucket.error(dir));
    }
    Ok(())
}

/// Fails if the state of a Go registry would be imported into a registry with a bucket.
pub(crate) fn check_import(dir: &Path, would_import: bool) -> Result<()> {
    if would_import { Err(Mismatch::HasGoRegistry.error(dir)) } else { Ok(()) }
}
