//! Moves a registry from its directory to a database server and a bucket, or back. The registry does
//! not run meanwhile. A migration that was interrupted continues when it is started again.
//!
//! ```text
//! source, destination   opens both places, and refuses what must not be migrated
//! place_check           decides whether a migration may begin or continue (pure)
//! copy_blobs            files to objects, and objects to files
//! shown_address         addresses without passwords (pure)
//! migrate_report        the report, as text
//! ```
//!
//! Until the old place has the record that the registry has moved (see `moved`), only the old place
//! can be used. From then on, only the new place can be used. Nothing of the old place is removed.

mod copy_blobs;
mod destination;
mod migrate_report;
mod place_check;
mod shown_address;
mod source;

use std::path::Path;

use deploy_store::Meter;
use deploy_store::disk::Dir;
use jiff::Timestamp;

use self::copy_blobs::Copied;
use self::destination::Destination;
pub use self::migrate_report::Report;
use self::shown_address::without_password;
use self::source::{SourceDirectory, SourceServer};
use crate::bucket::BucketAddress;
use crate::catalog::{Catalog, TableSum, differences};
use crate::error::{Error, Result};
use crate::moved::{self, MovedToDirectory, MovedToServer};
use crate::{own_catalogue, ssh};

/// A database server and a bucket.
#[derive(Debug, Clone)]
pub struct ServerPlace {
    /// The address of the database server, in the form `postgres://USER@HOST/NAME`.
    pub catalogue: String,
    /// The address of the bucket.
    pub bucket: BucketAddress,
}

/// Moves the registry in the directory `dir` to `to`. `meter` counts the progress.
pub async fn to_server(dir: &Path, to: &ServerPlace, meter: &Meter) -> Result<Report> {
    let lock = source::lock(dir)?;
    if let Some(moved) = moved::read(dir)? {
        return finish_to_server(dir, to, &moved).await;
    }
    let source = SourceDirectory::open(dir, lock, meter).await?;
    let destination = Destination::on_server(dir, to, &source.id, meter).await?;
    copy_tables(&source.catalog, &destination.catalog, meter).await?;
    let copied = copy_blobs::to_bucket(dir, &source, &destination, meter).await?;
    let sums = compare_tables(&source.catalog, &destination.catalog, meter).await?;
    destination.compare_objects().await?;
    // Clients know this host key, so every registry of the new place has to have it.
    let recorded = ssh::record_host_key(dir, &destination.catalog).await;
    recorded.map_err(|err| Error::Failed(format!("migrate: {err}; the registry has not moved")))?;
    source.catalog.close().await;
    let moved = MovedToServer {
        id: destination.id.clone(),
        time: Timestamp::now(),
        catalogue: without_password(&to.catalogue),
        bucket: to.bucket.flag(),
    };
    // This is the moment of the move.
    moved::write(dir, &moved)?;
    moved::finish(dir, &destination.catalog, &moved.id).await.map_err(|err| not_finished(&err))?;
    destination.catalog.close().await;
    Ok(Report::to_server(dir, &moved, &sums, copied))
}

/// Does the last steps of a migration that has been interrupted after the record of the move was
/// made.
async fn finish_to_server(dir: &Path, to: &ServerPlace, moved: &MovedToServer) -> Result<Report> {
    let catalog = Catalog::open_to_migrate(dir, Some(&to.catalogue), &Meter::default()).await?;
    let migration: Option<moved::Unfinished> = catalog.note(moved::MIGRATION).await?;
    if migration.is_none_or(|migration| migration.id != moved.id) {
        return Err(source::conflict(
            dir,
            &format!(
                "the registry has already moved to {} and {} at {:.0}",
                moved.catalogue, moved.bucket, moved.time
            ),
        ));
    }
    moved::finish(dir, &catalog, &moved.id).await.map_err(|err| not_finished(&err))?;
    catalog.close().await;
    Ok(Report::to_server(dir, moved, &[], Copied::default()))
}

/// Moves the registry with the catalogue and the bucket `from` to the directory `dir`. `meter`
/// counts the progress.
pub async fn to_directory(dir: &Path, from: &ServerPlace, meter: &Meter) -> Result<Report> {
    let top = Dir::open_or_create(dir, 0o700)?;
    let _lock = source::lock(dir)?;
    let source = SourceServer::open(dir, from, meter).await?;
    let destination = Destination::in_directory(dir, &source, meter).await?;
    let (sums, copied) = match &source.moved {
        // An earlier run was interrupted after the record of the move was made.
        Some(to) if to.id == destination.id => (Vec::new(), Copied::default()),
        Some(to) => return Err(source.has_moved(to)),
        None => {
            copy_tables(&source.catalog, &destination.catalog, meter).await?;
            let copied = copy_blobs::to_files(dir, &source, from, meter).await?;
            let sums = compare_tables(&source.catalog, &destination.catalog, meter).await?;
            let (id, time) = (destination.id.clone(), Timestamp::now());
            let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
            // This is the moment of the move.
            source.catalog.set_note(moved::MOVED, &MovedToDirectory { id, time, dir }).await?;
            (sums, copied)
        }
    };
    let finished = finish_to_directory(&top, &destination.catalog).await;
    finished.map_err(|err| not_finished(&err))?;
    source.catalog.close().await;
    Ok(Report::to_directory(dir, from, &sums, copied))
}

/// Does the last steps of a migration to a directory, after the record of the move was made.
async fn finish_to_directory(top: &Dir, catalog: &Catalog) -> Result<()> {
    for name in [own_catalogue::ID, moved::FILE] {
        let name = std::ffi::CString::new(name).unwrap_or_default();
        top.remove_file(&name)?;
    }
    top.sync()?;
    catalog.delete_note(moved::MIGRATION).await?;
    catalog.close().await;
    Ok(())
}

/// The error if one of the last steps fails, after the record of the move was made.
fn not_finished(err: &Error) -> Error {
    Error::Failed(format!(
        "migrate: the registry has moved, but a last step failed: {err}; run the same command again"
    ))
}

/// Copies all tables. Rows of an earlier, interrupted migration are replaced, because the registry
/// may have run since.
async fn copy_tables(from: &Catalog, to: &Catalog, meter: &Meter) -> Result<()> {
    to.clear_tables().await?;
    from.copy_tables(to, meter).await
}

/// Fails if the copy of a table differs from the original. Returns the sums of the tables.
async fn compare_tables(from: &Catalog, copy: &Catalog, meter: &Meter) -> Result<Vec<TableSum>> {
    let sums = from.sum_tables(meter).await?;
    let found = differences(&sums, &copy.sum_tables(meter).await?);
    if found.is_empty() {
        return Ok(sums);
    }
    let found = found.join("; ");
    Err(Error::Failed(format!(
        "migrate: tables differ from their copies: {found}; the registry has not moved"
    )))
}
