//! Opens the place to which a registry migrates, and makes sure that it is empty or has a part of
//! the same registry.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deploy_store::{Blobs, Meter, escape};

use super::ServerPlace;
use super::place_check::{FoundInDirectory, Verdict, judge, refusal};
use super::source::{SourceServer, conflict};
use crate::bucket::{Bucket, BucketSettings};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::go_import::STATE_DB;
use crate::moved::{self, Unfinished};
use crate::own_catalogue;

/// The place to which a registry migrates.
pub(super) struct Destination {
    /// The id of the migration, which becomes the id of a catalogue on a server.
    pub(super) id: String,
    pub(super) catalog: Catalog,
    /// The bucket. `None`: the blobs become files.
    bucket: Option<Arc<Bucket>>,
}

impl Destination {
    /// Opens a database server and a bucket for the registry `source` in the directory `dir`.
    pub(super) async fn on_server(
        dir: &Path,
        to: &ServerPlace,
        source: &str,
        meter: &Meter,
    ) -> Result<Self> {
        let catalog = Catalog::open_to_migrate(dir, Some(&to.catalogue), meter).await?;
        let note: Option<Unfinished> = catalog.note(moved::MIGRATION).await?;
        let why = match judge(note, source, catalog.is_unused().await?) {
            verdict @ (Verdict::Begin | Verdict::Continue(_)) => {
                let catalog = catalog.with_objects();
                // The bucket has to be empty, or belong to this catalogue. The note of the migration
                // comes after this check.
                let copies = dir.join("cache");
                let bucket = open_bucket(dir, &copies, to, &catalog).await?;
                let id = begin(&catalog, verdict, source).await?;
                return Ok(Self { id, catalog, bucket: Some(bucket) });
            }
            Verdict::NotEmpty => {
                "the catalogue on the database server is not empty; give a new database with -to"
            }
            Verdict::OfAnother => {
                "the catalogue on the database server is the destination of an unfinished \
                 migration of another registry; give a new database with -to"
            }
        };
        Err(conflict(dir, why))
    }

    /// Opens the directory `dir` for the registry `source`.
    pub(super) async fn in_directory(
        dir: &Path,
        source: &SourceServer,
        meter: &Meter,
    ) -> Result<Self> {
        let id = own_catalogue::id_in(dir)?;
        let has_catalogue = dir.join("catalogue.db").exists();
        let found = FoundInDirectory {
            id: id.as_deref(),
            has_moved: moved::read(dir)?.is_some(),
            has_catalogue,
            has_files: fs::read_dir(dir.join("files"))
                .is_ok_and(|mut files| files.next().is_some()),
            has_go_state: dir.join(STATE_DB).exists(),
        };
        if let Some(why) = refusal(found, &source.own) {
            return Err(conflict(dir, why));
        }
        if let Some(to) = source.moved.as_ref().filter(|_| !has_catalogue) {
            return Err(source.has_moved(to));
        }
        let catalog = Catalog::open_to_migrate(dir, None, meter).await?;
        let note: Option<Unfinished> = catalog.note(moved::MIGRATION).await?;
        let verdict = judge(note, &source.id, catalog.is_unused().await?);
        if let Some(to) = &source.moved
            && !matches!(verdict, Verdict::Continue(_))
        {
            return Err(source.has_moved(to));
        }
        let why = match verdict {
            verdict @ (Verdict::Begin | Verdict::Continue(_)) => {
                let id = begin(&catalog, verdict, &source.id).await?;
                return Ok(Self { id, catalog, bucket: None });
            }
            Verdict::NotEmpty if moved::read(dir)?.is_some() => {
                "the directory has the catalogue of the time before the registry moved to the \
                 server; move catalogue.db, catalogue.db-wal and catalogue.db-shm away, or give an \
                 empty directory with -dir"
            }
            Verdict::NotEmpty => "the directory has a catalogue; give an empty directory with -dir",
            Verdict::OfAnother => {
                "the directory is the destination of an unfinished migration of another registry; \
                 give an empty directory with -dir"
            }
        };
        Err(conflict(dir, why))
    }

    /// The bucket.
    pub(super) fn bucket(&self) -> Result<&Arc<Bucket>> {
        let none = || Error::Failed("internal error: the destination has no bucket".to_owned());
        self.bucket.as_ref().ok_or_else(none)
    }

    /// Fails if an object is missing in the bucket, or has another length than its row says.
    pub(super) async fn compare_objects(&self) -> Result<()> {
        let compared = self.bucket()?.compare().await?;
        let Some(first) = compared.missing.first() else { return Ok(()) };
        Err(Error::Failed(format!(
            "migrate: objects that are missing in the bucket or have another length: {}, such as \
             {}; the registry has not moved",
            compared.missing.len(),
            escape(&first.place)
        )))
    }
}

/// The id of the migration. Writes the note of a migration that begins.
async fn begin(catalog: &Catalog, verdict: Verdict, source: &str) -> Result<String> {
    if let Verdict::Continue(id) = verdict {
        return Ok(id);
    }
    let id = catalog.session_id().to_owned();
    let note = Unfinished { id: id.clone(), source: source.to_owned() };
    catalog.set_note(moved::MIGRATION, &note).await?;
    Ok(id)
}

/// Opens the bucket of a catalogue. `copies` is the directory of the local copies, and stays as it
/// is.
pub(super) async fn open_bucket(
    dir: &Path,
    copies: &Path,
    at: &ServerPlace,
    catalog: &Catalog,
) -> Result<Arc<Bucket>> {
    let settings = BucketSettings {
        address: at.bucket.clone(),
        cache: u64::MAX,
        linger: Duration::ZERO,
        abandon: Duration::MAX,
        accepts_older: None,
    };
    let local = || Blobs::open(copies, &dir.join("uploads"), u64::MAX);
    let local = (Arc::new(local()?), local()?);
    Bucket::open(settings, catalog.clone(), local.0, local.1).await
}
