//! Runs transactions and statements on both database engines, `SQLite` and `PostgreSQL`. Each
//! statement is written once, in the SQL that both engines share. Most other files of the catalogue
//! do not depend on the engine. The exceptions are `packed`, and files that open, migrate or check
//! a database, or ask whether the database is on a server.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{
    Arguments as _, AssertSqlSafe, Decode, FromRow, Postgres, SqlSafeStr, SqlStr, Sqlite,
    Transaction, Type,
};
use tokio::sync::watch;

/// The present time of a `PostgreSQL` server, in nanoseconds since 1970.
pub(in crate::catalog) const SERVER_NOW: &str =
    "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000000 AS BIGINT)";

/// A transaction of one of the engines.
#[derive(Debug)]
pub(in crate::catalog) enum Tx {
    /// A transaction on an `SQLite` file.
    Sqlite(Transaction<'static, Sqlite>),
    /// A transaction on a `PostgreSQL` server, and how long the transaction waits for the server.
    Postgres(Transaction<'static, Postgres>, Patience),
}

impl Tx {
    /// Makes the changes of the transaction durable.
    pub(in crate::catalog) async fn commit(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(transaction) => Box::pin(transaction.commit()).await,
            Self::Postgres(transaction, mut patience) => {
                patience.answer(Box::pin(transaction.commit())).await
            }
        }
    }

    /// The present time in nanoseconds since 1970, by the clock of the database. A file has the clock
    /// of this process.
    pub(in crate::catalog) async fn now(&mut self) -> sqlx::Result<i64> {
        match self {
            Self::Sqlite(_) => {
                Ok(i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX))
            }
            Self::Postgres(..) => {
                let now = AssertSqlSafe(format!("SELECT {SERVER_NOW}"));
                query_scalar(now).fetch_one(self).await
            }
        }
    }

    /// Undoes the transaction.
    pub(in crate::catalog) async fn rollback(self) -> sqlx::Result<()> {
        match self {
            Self::Sqlite(transaction) => Box::pin(transaction.rollback()).await,
            Self::Postgres(transaction, mut patience) => {
                patience.answer(Box::pin(transaction.rollback())).await
            }
        }
    }
}

/// How long a verb waits for a free connection to a server.
pub(in crate::catalog) const SERVER_WAIT: Duration = Duration::from_secs(10);
/// How much longer than the limit the registry waits for the server's answer, and how long it waits
/// for an answer that takes the server no time.
pub(in crate::catalog) const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How long a transaction waits for each answer of a server. The limit that the server itself has
/// for a statement does not help if the server hangs.
#[derive(Debug, Clone)]
pub(in crate::catalog) struct Patience {
    /// The longest time that the transaction waits for one answer.
    pub(in crate::catalog) limit: Duration,
    /// Whether the server is lost. While it is lost, the transaction does not wait at all.
    pub(in crate::catalog) lost: watch::Receiver<bool>,
}

impl Patience {
    /// Waits for an answer.
    pub(in crate::catalog) async fn answer<T>(
        &mut self,
        answer: impl Future<Output = sqlx::Result<T>>,
    ) -> sqlx::Result<T> {
        let Self { limit, lost } = self;
        let lost = async {
            // If nobody watches the server any more, only the limit applies.
            if lost.wait_for(|lost| *lost).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            answer = answered(*limit, answer) => answer,
            () = lost => Err(no_answer()),
        }
    }
}

/// Waits for an answer of a server, `limit` at most.
pub(in crate::catalog) async fn answered<T>(
    limit: Duration,
    answer: impl Future<Output = sqlx::Result<T>>,
) -> sqlx::Result<T> {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| Err(no_answer()))
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "the database does not answer"))
}

/// A row that both engines can return.
pub(in crate::catalog) trait Typed:
    Send + Unpin + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow>
{
}

impl<R> Typed for R where
    R: Send + Unpin + for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow>
{
}

/// A value of one column that both engines can return.
pub(in crate::catalog) trait Column:
    Send
    + Unpin
    + Type<Sqlite>
    + Type<Postgres>
    + for<'r> Decode<'r, Sqlite>
    + for<'r> Decode<'r, Postgres>
{
}

impl<T> Column for T where
    T: Send
        + Unpin
        + Type<Sqlite>
        + Type<Postgres>
        + for<'r> Decode<'r, Sqlite>
        + for<'r> Decode<'r, Postgres>
{
}

/// Implements `FromRow` for both engines. `$row` is the name that `$body` uses for the row.
macro_rules! from_row {
    ($type:ty, |$row:ident| $body:expr) => {
        from_row!(sqlx::sqlite::SqliteRow, $type, |$row| $body);
        from_row!(sqlx::postgres::PgRow, $type, |$row| $body);
    };
    ($engine:ty, $type:ty, |$row:ident| $body:expr) => {
        impl sqlx::FromRow<'_, $engine> for $type {
            fn from_row($row: &$engine) -> sqlx::Result<Self> {
                $body
            }
        }
    };
}
pub(in crate::catalog) use from_row;

/// The value of a parameter, or of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::catalog) enum Value {
    /// A number, or NULL.
    Number(Option<i64>),
    /// A text, or NULL.
    Text(Option<String>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// True or false.
    Truth(bool),
}

macro_rules! value_from {
    ($($type:ty => |$value:ident| $made:expr),* $(,)?) => {
        $(impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $made
            }
        })*
    };
}

value_from! {
    i64 => |value| Self::Number(Some(value)),
    u32 => |value| Self::Number(Some(i64::from(value))),
    &i64 => |value| Self::Number(Some(*value)),
    Option<i64> => |value| Self::Number(value),
    Option<i32> => |value| Self::Number(value.map(i64::from)),
    bool => |value| Self::Truth(value),
    &str => |value| Self::Text(Some(value.to_owned())),
    &String => |value| Self::Text(Some(value.clone())),
    String => |value| Self::Text(Some(value)),
    Option<&str> => |value| Self::Text(value.map(str::to_owned)),
    Option<String> => |value| Self::Text(value),
    Vec<u8> => |value| Self::Bytes(value),
    &[u8] => |value| Self::Bytes(value.to_vec()),
}

/// A statement with its parameters. Its rows become values of `R`.
#[derive(Debug)]
pub(in crate::catalog) struct Query<R> {
    pub(in crate::catalog) sql: SqlStr,
    pub(in crate::catalog) values: Vec<Value>,
    row: PhantomData<fn() -> R>,
}

/// A statement whose rows have one column.
#[derive(Debug)]
pub(in crate::catalog) struct Scalar<T>(Query<(T,)>);

/// A statement whose rows the caller does not read.
pub(in crate::catalog) fn query(sql: impl SqlSafeStr) -> Query<()> {
    query_as(sql)
}

/// A statement whose rows become values of `R`.
pub(in crate::catalog) fn query_as<R>(sql: impl SqlSafeStr) -> Query<R> {
    Query { sql: sql.into_sql_str(), values: Vec::new(), row: PhantomData }
}

/// A statement whose rows have one column.
pub(in crate::catalog) fn query_scalar<T>(sql: impl SqlSafeStr) -> Scalar<T> {
    Scalar(query_as(sql))
}

/// Calls the method `$call` of the statement `$self`, with the connection of the transaction `$tx`.
/// The futures of both engines are large, and thousands of watches contain such a future. So the
/// macro boxes them.
macro_rules! run {
    ($self:ident, $tx:ident, $call:ident) => {
        match $tx {
            Tx::Sqlite(transaction) => {
                let arguments = sqlite_arguments($self.values)?;
                Box::pin(sqlx::query_as_with($self.sql, arguments).$call(&mut **transaction)).await
            }
            Tx::Postgres(transaction, patience) => {
                let arguments = postgres_arguments($self.values)?;
                let query = sqlx::query_as_with(without_hints($self.sql), arguments);
                patience.answer(Box::pin(query.$call(&mut **transaction))).await
            }
        }
    };
}

impl<R> Query<R> {
    /// Adds the value of the next parameter.
    pub(in crate::catalog) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs the statement. Returns the number of rows that the statement changed.
    pub(in crate::catalog) async fn execute(self, tx: &mut Tx) -> sqlx::Result<u64> {
        match tx {
            Tx::Sqlite(transaction) => {
                let arguments = sqlite_arguments(self.values)?;
                let query = sqlx::query_with(self.sql, arguments);
                Ok(Box::pin(query.execute(&mut **transaction)).await?.rows_affected())
            }
            Tx::Postgres(transaction, patience) => {
                let arguments = postgres_arguments(self.values)?;
                let query = sqlx::query_with(without_hints(self.sql), arguments);
                let done = patience.answer(Box::pin(query.execute(&mut **transaction))).await?;
                Ok(done.rows_affected())
            }
        }
    }
}

impl<R: Typed> Query<R> {
    /// All rows.
    pub(in crate::catalog) async fn fetch_all(self, tx: &mut Tx) -> sqlx::Result<Vec<R>> {
        self.fetch(tx)?.try_collect().await
    }

    /// The first row. Fails if there is no row.
    pub(in crate::catalog) async fn fetch_one(self, tx: &mut Tx) -> sqlx::Result<R> {
        run!(self, tx, fetch_one)
    }

    /// The first row, if there is one.
    pub(in crate::catalog) async fn fetch_optional(self, tx: &mut Tx) -> sqlx::Result<Option<R>> {
        run!(self, tx, fetch_optional)
    }

    /// The rows one by one, so that they are never all in memory at once.
    pub(in crate::catalog) fn fetch<'tx>(
        self,
        tx: &'tx mut Tx,
    ) -> sqlx::Result<Pin<Box<dyn Stream<Item = sqlx::Result<R>> + Send + 'tx>>>
    where
        R: 'tx,
    {
        let rows: Pin<Box<dyn Stream<Item = _> + Send>> = match tx {
            Tx::Sqlite(transaction) => {
                let arguments = sqlite_arguments(self.values)?;
                sqlx::query_as_with(self.sql, arguments).fetch(&mut **transaction)
            }
            Tx::Postgres(transaction, patience) => {
                let arguments = postgres_arguments(self.values)?;
                let query = sqlx::query_as_with(without_hints(self.sql), arguments);
                Box::pin(rows_in_time(patience.clone(), query.fetch(&mut **transaction)))
            }
        };
        // While rows are ready, the stream never waits. Without this call, a long read would keep
        // its thread from all other tasks, such as polls.
        Ok(Box::pin(rows.then(async |row| {
            tokio::task::coop::consume_budget().await;
            row
        })))
    }
}

/// The same rows, but with an error if the server takes too long for one of them.
fn rows_in_time<'tx, R: Send + 'tx>(
    patience: Patience,
    rows: Pin<Box<dyn Stream<Item = sqlx::Result<R>> + Send + 'tx>>,
) -> impl Stream<Item = sqlx::Result<R>> + Send + 'tx {
    futures_util::stream::unfold((rows, patience), |(mut rows, mut patience)| async move {
        let next = patience.answer(async { rows.next().await.transpose() }).await;
        Some((next.transpose()?, (rows, patience)))
    })
}

impl<T: Column> Scalar<T> {
    /// Adds the value of the next parameter.
    pub(in crate::catalog) fn bind(self, value: impl Into<Value>) -> Self {
        Self(self.0.bind(value))
    }

    /// The values of all rows.
    pub(in crate::catalog) async fn fetch_all(self, tx: &mut Tx) -> sqlx::Result<Vec<T>> {
        Ok(self.0.fetch_all(tx).await?.into_iter().map(|(value,)| value).collect())
    }

    /// The value of the first row. Fails if there is no row.
    pub(in crate::catalog) async fn fetch_one(self, tx: &mut Tx) -> sqlx::Result<T> {
        Ok(self.0.fetch_one(tx).await?.0)
    }

    /// The value of the first row, if there is one.
    pub(in crate::catalog) async fn fetch_optional(self, tx: &mut Tx) -> sqlx::Result<Option<T>> {
        Ok(self.0.fetch_optional(tx).await?.map(|(value,)| value))
    }
}

/// Makes arguments of the type `$arguments` from `$values`.
macro_rules! arguments {
    ($arguments:ty, $values:ident) => {{
        let mut arguments = <$arguments>::default();
        for value in $values {
            match value {
                Value::Number(number) => arguments.add(number),
                Value::Text(text) => arguments.add(text),
                Value::Bytes(bytes) => arguments.add(bytes),
                Value::Truth(truth) => arguments.add(truth),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }};
}

fn sqlite_arguments(values: Vec<Value>) -> sqlx::Result<SqliteArguments> {
    arguments!(SqliteArguments, values)
}

/// The parameters in the form of `PostgreSQL`.
pub(in crate::catalog) fn postgres_arguments(values: Vec<Value>) -> sqlx::Result<PgArguments> {
    arguments!(PgArguments, values)
}

/// Removes the hint to use the index `blobs_counted`, which only `SQLite` understands. Without the
/// hint, the planner of `SQLite` chooses another index, and the query has to read the table in
/// addition to the index.
fn without_hints(sql: SqlStr) -> SqlStr {
    const HINT: &str = " INDEXED BY blobs_counted";
    if !sql.as_str().contains(HINT) {
        return sql;
    }
    AssertSqlSafe(sql.as_str().replace(HINT, "")).into_sql_str()
}
