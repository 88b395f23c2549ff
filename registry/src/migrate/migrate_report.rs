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
            None => line("tables, files", "an earlier run has copied them"),
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
             rest\n  \
             further registries need a copy of {dir}/host_key; see docs/SCALING.md\n"
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn moved() -> MovedToServer {
        MovedToServer {
            id: "a".to_owned(),
            time: Timestamp::UNIX_EPOCH,
            catalogue: "postgres://me@host/deploy".to_owned(),
            bucket: "s3://blobs?region=here".to_owned(),
        }
    }

    #[test]
    fn report_names_both_places_and_the_next_steps() {
        let sum = |table, rows| TableSum { table, rows, digest: Digest::of(b"") };
        let missing = vec![Digest::of(b"gone")];
        let copied = Copied { blobs: 3, bytes: 70, staged: 1, missing };
        let sums = [sum("a", 2), sum("b", 5)];
        let report = Report::to_server(Path::new("/reg"), &moved(), &sums, copied);
        assert!(!report.is_sound());
        let text = report.to_text();
        let (lines, steps) = text.split_once("\nnext:\n").unwrap();
        let digest = Digest::of(b"gone");
        assert_eq!(
            lines,
            format!(
                "tables          2, 7 rows, compared\n\
                 files           3, 70 bytes\n\
                 uploads         1\n\
                 missing         files/{digest}: did not exist before; upload the same bytes again\n\
                 moved from      /reg\n\
                 moved to        postgres://me@host/deploy and s3://blobs?region=here\n"
            )
        );
        let start = "  start the registry with: -dir /reg -catalogue 'postgres://me@host/deploy' \
                     -bucket 's3://blobs?region=here'\n";
        assert!(steps.starts_with(start), "{steps}");
        let last = Report::to_server(Path::new("/reg"), &moved(), &[], Copied::default());
        assert!(last.is_sound() && last.to_text().starts_with("tables, files   an earlier run"));
    }

    #[test]
    fn report_of_a_return_never_has_a_password() {
        let from = ServerPlace {
            catalogue: "postgres://me:secret@host/deploy".to_owned(),
            bucket: "s3://blobs".parse().unwrap(),
        };
        let dir = tempfile::tempdir().unwrap();
        let report = || Report::to_directory(dir.path(), &from, &[], Copied::default()).to_text();
        let text = report();
        let moved = "moved from      postgres://me@host/deploy and s3://blobs\nmoved to        ";
        assert!(text.contains(moved) && text.contains("copy host_key"), "{text}");
        std::fs::write(dir.path().join("host_key"), "").unwrap();
        assert!(!report().contains("host_key"));
    }
}
