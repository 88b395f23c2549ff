//! Counters, which number things and count rows.

use sqlx::{Sqlite, Transaction};

use super::Result;

/// Adds `more` to a counter, and returns the counter's new value.
pub(super) async fn count(
    transaction: &mut Transaction<'_, Sqlite>,
    counter: &str,
    more: i64,
) -> Result<i64> {
    let query = "UPDATE counters SET value = value + $1 WHERE name = $2 RETURNING value";
    Ok(sqlx::query_scalar(query).bind(more).bind(counter).fetch_one(&mut **transaction).await?)
}
