//! Converts errors of the database to errors of the catalogue.

use std::path::Path;

use crate::error::{Error, UNCHANGED};

impl From<sqlx::Error> for Error {
    fn from(err: sqlx::Error) -> Self {
        let advice = if is_full(&err) { "; run gc to free disk space" } else { "" };
        let text = format!("catalogue: {}{UNCHANGED}{advice}", plain(&err));
        if is_lost(&err) { Self::NoAnswer(text) } else { Self::Database(text) }
    }
}

/// The error for a failed commit. If the connection broke during the commit, the server may have
/// committed the transaction.
pub(super) fn not_committed(err: sqlx::Error) -> Error {
    if !is_lost(&err) {
        return err.into();
    }
    let err = plain(&err);
    Error::NoAnswer(format!(
        "catalogue: {err}; it is not known whether the change was made; repeat the command"
    ))
}

/// The error if the registry cannot open the catalogue on the database server.
pub(super) fn no_server(err: &impl std::fmt::Display) -> Error {
    Error::Database(format!("open catalogue on the database server: {err}; nothing was changed"))
}

/// The error for a row with an invalid value.
pub(super) fn bad_row(err: &impl std::fmt::Display) -> Error {
    Error::Damaged(format!("catalogue: {err}"))
}

/// The error if the database file at `path` cannot be opened.
pub(super) fn not_opened(path: &Path, err: &sqlx::Error) -> Error {
    if is_damage(err) { damaged(path, &plain(err)) } else { unusable(path, &err.to_string()) }
}

/// The error for a file at `path` that is not a database, or is damaged.
pub(super) fn damaged(path: &Path, why: &str) -> Error {
    let path = path.display();
    Error::Damaged(format!(
        "open catalogue {path}: the file is damaged: {why}; nothing was changed"
    ))
}

/// The error for a database file at `path` that cannot be used; `why` is the reason.
pub(super) fn unusable(path: &Path, why: &str) -> Error {
    Error::Database(format!("open catalogue {}: {why}; nothing was changed", path.display()))
}

/// The text of `err`. For an error of the database, this is the message without the error code.
fn plain(err: &sqlx::Error) -> String {
    err.as_database_error().map_or_else(|| err.to_string(), |err| err.message().to_owned())
}

/// Whether the disk is full (`SQLITE_FULL` in `SQLite`, or the code 53100 in `PostgreSQL`).
fn is_full(err: &sqlx::Error) -> bool {
    primary_code(err) == Some(13) || state(err) == "53100"
}

/// Whether the result of the statement is unknown: a timeout passed, the connection was lost, or
/// the server stopped or cancelled the statement. The codes are from
/// <https://www.postgresql.org/docs/15/errcodes-appendix.html>. Class 08 means a lost connection.
/// Class 57 means that the server is stopping, or has cancelled the statement. The codes 55P03 and
/// 25P03 mean that a timeout that the catalogue sets has passed.
fn is_lost(err: &sqlx::Error) -> bool {
    let state = state(err);
    matches!(err, sqlx::Error::PoolTimedOut | sqlx::Error::Io(_) | sqlx::Error::Protocol(_))
        || ["08", "57", "55P03", "25P03"].iter().any(|class| state.starts_with(class))
}

/// The error code of `PostgreSQL`, which has five characters; empty for other errors.
fn state(err: &sqlx::Error) -> String {
    let code = err.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.filter(|code| code.len() == 5).unwrap_or_default().into_owned()
}

/// Whether `SQLite` reports that the file is damaged (`SQLITE_CORRUPT`) or not a database
/// (`SQLITE_NOTADB`), see <https://www.sqlite.org/rescode.html>.
fn is_damage(err: &sqlx::Error) -> bool {
    matches!(primary_code(err), Some(11 | 26))
}

/// The primary result code: the lower byte of the extended code.
fn primary_code(err: &sqlx::Error) -> Option<i32> {
    let code = err.as_database_error().and_then(sqlx::error::DatabaseError::code)?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}
