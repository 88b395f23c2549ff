//! Changes the counters of the catalogue. Some counters count rows, and others give numbers to new
//! rows.

use super::Result;
use super::tx::{Tx, query_scalar};

/// Adds `more` to a counter, and returns the counter's new value.
pub(super) async fn count(transaction: &mut Tx, counter: &str, more: i64) -> Result<i64> {
    let query = "UPDATE counters SET value = value + $1 WHERE name = $2 RETURNING value";
    Ok(query_scalar(query).bind(more).bind(counter).fetch_one(&mut *transaction).await?)
}
