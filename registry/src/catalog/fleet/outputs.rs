//! Stores the last part of each deploy script's output. On hosts that fail in the same way, scripts
//! often print the same output, so the registry stores equal outputs only once.

use deploy_store::Digest;

use crate::catalog::tx::{Tx, query, query_scalar};
use crate::catalog::{Catalog, Result};

/// The compression level of zstd. This level is fast enough for thousands of outputs a second.
const LEVEL: i32 = 3;
/// Maximum size of a decompressed output, in bytes.
const MAX_BYTES: usize = deploy_wire::fleet::MAX_OUTPUT;
/// Maximum number of outputs that one transaction removes.
const BATCH: i64 = 200;

/// Stores an output. Returns the output's digest, or `None` if the output is empty.
pub async fn put(transaction: &mut Tx, output: &str) -> Result<Option<String>> {
    if output.is_empty() {
        return Ok(None);
    }
    let digest = Digest::of(output.as_bytes()).to_string();
    let bytes = zstd::bulk::compress(output.as_bytes(), LEVEL).unwrap_or_default();
    query("INSERT INTO outputs (digest, bytes) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(&digest)
        .bind(bytes)
        .execute(&mut *transaction)
        .await?;
    Ok(Some(digest))
}

impl Catalog {
    /// The output with the digest `digest`; empty if the registry has removed the output.
    pub async fn output(&self, digest: &str) -> Result<String> {
        let bytes: Option<Vec<u8>> = query_scalar("SELECT bytes FROM outputs WHERE digest = $1")
            .bind(digest)
            .fetch_optional(&mut self.read_tx().await?)
            .await?;
        let bytes = bytes.and_then(|bytes| zstd::bulk::decompress(&bytes, MAX_BYTES).ok());
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    }

    /// Removes the outputs to which neither an agent's last report nor a kept deploy refers.
    /// Returns the number of removed outputs.
    pub async fn remove_unused_outputs(&self) -> Result<u64> {
        let mut removed = 0;
        loop {
            let unused = query(
                "DELETE FROM outputs WHERE digest IN (SELECT digest FROM outputs o \
                 WHERE NOT EXISTS (SELECT 1 FROM agents a WHERE a.output = o.digest) \
                 AND NOT EXISTS (SELECT 1 FROM attempts t WHERE t.output = o.digest) LIMIT $1)",
            )
            .bind(BATCH);
            let some = self.write_one(unused).await?;
            removed += some;
            if some == 0 {
                return Ok(removed);
            }
        }
    }
}
