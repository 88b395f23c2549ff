//! Runs single statements on a server. A single statement needs no transaction: it sees all changes
//! that were committed before it began, and costs one exchange with the server.

use std::io::ErrorKind;

use sqlx::postgres::PgPool;

use super::Result;
use super::database::Server;
use super::tx::{Patience, Query, Typed, postgres_arguments};

/// How many times a statement begins again if the pool has a connection that the server has ended.
/// After a restart of the server, the pool may have several of them.
const TRIES: u32 = 10;

/// Runs a statement that changes rows without the lock of the changes, such as heartbeats and
/// contacts. Returns the number of rows that the statement changed.
pub(super) async fn execute(server: &Server, statement: Query<()>) -> Result<u64> {
    let Query { sql, values, .. } = statement;
    let mut patience = server.patience();
    let mut connection = acquire(server.lookups(), &mut patience).await?;
    let query = sqlx::query_with(sql, postgres_arguments(values)?);
    let done = patience.answer(Box::pin(query.execute(&mut *connection))).await?;
    Ok(done.rows_affected())
}

/// All rows of a statement that only reads.
pub(super) async fn fetch_all<R: Typed>(server: &Server, statement: Query<R>) -> Result<Vec<R>> {
    let mut patience = server.patience();
    let mut tries = 1;
    loop {
        match try_fetch(server.lookups(), &mut patience, &statement).await {
            Err(err) if tries < TRIES && is_old_connection(&err) => tries += 1,
            fetched => return Ok(fetched?),
        }
    }
}

/// The only row of a statement that only reads.
pub(super) async fn fetch_one<R: Typed>(server: &Server, statement: Query<R>) -> Result<R> {
    let mut rows = fetch_all(server, statement).await?;
    Ok(rows.pop().ok_or(sqlx::Error::RowNotFound)?)
}

async fn try_fetch<R: Typed>(
    pool: &PgPool,
    patience: &mut Patience,
    statement: &Query<R>,
) -> sqlx::Result<Vec<R>> {
    let mut connection = acquire(pool, patience).await?;
    let arguments = postgres_arguments(statement.values.clone())?;
    let query = sqlx::query_as_with(statement.sql.clone(), arguments);
    patience.answer(Box::pin(query.fetch_all(&mut *connection))).await
}

async fn acquire(
    pool: &PgPool,
    patience: &mut Patience,
) -> sqlx::Result<sqlx::pool::PoolConnection<sqlx::Postgres>> {
    patience.answer(Box::pin(pool.acquire())).await
}

/// Whether the server has ended the connection before the statement began.
fn is_old_connection(err: &sqlx::Error) -> bool {
    match err {
        sqlx::Error::Io(err) => err.kind() != ErrorKind::TimedOut,
        // The server writes this code (57P01, `admin_shutdown`) before it ends a connection.
        sqlx::Error::Database(err) => err.code().is_some_and(|code| code == "57P01"),
        _ => false,
    }
}
