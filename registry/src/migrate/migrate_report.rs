//! Makes the report of a migration.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use deploy_store::Digest;

use super::ServerPlace;
use super::copy_blobs::Copied;
use super::shown_address::without_password;
use crate::catalog::TableSum;
use crate::moved::MovedToServer;

/// The result of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    dir: PathBuf,
    catalogue: String,
    bucket: String,
    is_back: bool,
    /// The numbers of tables and rows. `None` if only the last steps of a migration were missing.
    tables: Option<(usize, u64)>,
    copied: Copied,
}

impl Report {
    pub(super) fn to_server(
        dir: &Path,
        to: &MovedToServer,
        sums: &[TableSum],
        copied: Copied,
    ) -> Self {
        let (catalogue, bucket) = (to.catalogue.clone(), to.bucket.clone());
        let (dir, tables) = (dir.to_owned(), tables(sums));
        Self { dir, catalogue, bucket, is_back: false, tables, copied }
    }

    pub(super) fn to_directory(
        dir: &Path,
        from: &ServerPlace,
        sums: &[TableSum],
        copied: Copied,
    ) -> Self {
        let (catalogue, bucket) = (without_password(&from.catalogue), from.bucket.flag());
        let (dir, tables) = (dir.to_owned(), tables(sums));
        Self { dir, catalogue, bucket, is_back: true, tables, copied }
    }

    /// Whether all blobs that the catalogue lists exist.
    pub fn is_sound(&self) -> bool {
        self.copied.missing.is_empty()
    }

    /// The report as text, with the next steps of the operator.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<15} {value}");
        };
        let dir = self.dir.display().to_string();
        let Copied { blobs, bytes, staged, missing } = &self.copied;
        match self.tables {
            Some((tables, rows)) => {
                line("tables", &format!("{tables}, {rows} rows, compared"));
                line("files", &format!("{blobs}, {bytes} bytes"));
                line("uploads", &staged.to_string());
            }
            None => line("tables, files", "an earlier migration has copied them"),
        }
        for digest in missing {
            let missing = missing_file(*digest);
            line("missing", &missing);
        }
        let server = format!("{} and {}", self.catalogue, self.bucket);
        let (from, to) = if self.is_back { (&server, &dir) } else { (&dir, &server) };
        line("moved from", from);
        line("moved to", to);
        text.push_str(&if self.is_back { self.steps_back() } else { self.steps() });
        text
    }

    fn steps(&self) -> String {
        let Self { catalogue, bucket, .. } = self;
        let dir = self.dir.display();
        format!(
            "\nnext:\n  \
             start the registry with: -dir {dir} -catalogue '{catalogue}' -bucket '{bucket}'\n  \
             ssh REGISTRY verify\n  \
             when verify has found no damage, and the database and the bucket have a backup, you \
             may remove\n  \
             catalogue.db, catalogue.db-wal, catalogue.db-shm and files/ from {dir}; keep the \
             rest\n"
        )
    }

    fn steps_back(&self) -> String {
        let dir = self.dir.display();
        let key = format!("  copy host_key from the registry's old directory to {dir}\n");
        let key = if self.dir.join("host_key").exists() { String::new() } else { key };
        format!(
            "\nnext:\n{key}  \
             start the registry with: -dir {dir}, without -catalogue and -bucket\n  \
             ssh REGISTRY verify\n  \
             when verify has found no damage, and {dir} has a backup, you may drop the database, \
             and remove the\n  \
             objects in the bucket and the registry's old directory\n"
        )
    }
}

fn missing_file(digest: Digest) -> String {
    format!("files/{digest}: did not exist before; upload the same bytes again")
}

fn tables(sums: &[TableSum]) -> Option<(usize, u64)> {
    (!sums.is_empty()).then(|| (sums.len(), sums.iter().map(|sum| sum.rows).sum()))
}
