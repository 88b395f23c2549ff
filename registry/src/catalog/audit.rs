//! Reads and writes the audit trail. The catalogue writes a change and its entry in one
//! transaction. Refused changes have an entry, too.

use deploy_wire::command::Rolling;
use jiff::Timestamp;

use super::tx::{Tx, query, query_as, query_scalar};
use super::write_tx::WriteTx;
use super::{Catalog, Result, nanoseconds, timestamp};

/// The author, the command and the time of a change.
#[derive(Debug, Clone)]
pub struct Change {
    /// The name of the user who makes the change.
    pub user: String,
    /// The fingerprint and the comment of the user's key, separated by a blank.
    pub key: String,
    /// The network address of the client.
    pub address: String,
    /// The command line.
    pub command: String,
    /// When the change was made or refused.
    pub now: Timestamp,
    /// Whether the change may also change frozen configurations.
    pub overrides: bool,
    /// The flags that say how a change of a configuration reaches the hosts: at once, or in a
    /// rollout.
    pub rolling: Rolling,
}

/// One entry of the audit trail.
#[derive(Debug, Clone)]
pub struct Audited {
    /// The entry's number; the first entry has number 1.
    pub number: u64,
    /// The change that was made or refused.
    pub change: Change,
    /// The exit code of the command; 0 if the change was made.
    pub code: u8,
    /// Why the change was refused; empty if the change was made.
    pub why: String,
}

/// Conditions for the entries of one page of the audit trail. `None` and an empty text set no
/// condition.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Only entries that were made at this time or later.
    pub since: Option<Timestamp>,
    /// Only entries with numbers below this number.
    pub before: Option<u64>,
    /// Only entries with this user name, or with this text in the fingerprint or the comment of the
    /// key.
    pub who: String,
    /// Only commands of this verb.
    pub verb: String,
    /// Only commands that have this name as a whole word after the verb. Blanks, `=`, `:` and
    /// double quotes separate words.
    pub name: String,
}

/// One page of the audit trail.
#[derive(Debug, Clone, Default)]
pub struct AuditPage {
    /// The entries, newest first.
    pub entries: Vec<Audited>,
    /// The value of [`AuditQuery::before`] for the next page; `None` if no older entry can fulfil
    /// the conditions.
    pub older: Option<u64>,
}

/// Maximum number of entries that the search for one page reads. The limit keeps the search short
/// even if no entry fulfils the conditions.
const SEARCHED: i64 = 20_000;

type Row = (i64, i64, String, String, String, String, i64, String);

fn entry((number, time, user, key, address, command, code, why): Row) -> Audited {
    let now = timestamp(time);
    let rolling = Rolling::default();
    let change = Change { user, key, address, command, now, overrides: false, rolling };
    let code = u8::try_from(code).unwrap_or(u8::MAX);
    Audited { number: number.cast_unsigned(), change, code, why }
}

impl Catalog {
    /// Begins a transaction, and writes the audit entry of `change` in this transaction.
    pub(super) async fn change_tx(&self, change: &Change) -> Result<WriteTx> {
        let mut transaction = self.write_tx().await?;
        record(&mut transaction, change, 0, "").await?;
        Ok(transaction)
    }

    /// Writes the audit entry of a change that was refused, or that is not a single transaction of
    /// the catalogue, such as a gc. `code` is the command's exit code, which is 0 if the change was
    /// made.
    pub async fn audit_change(&self, change: &Change, code: u8, why: &str) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        record(&mut transaction, change, code, why).await?;
        transaction.commit().await
    }

    /// The number of the newest entry of the trail; 0 if no entry was ever written.
    pub async fn last_change(&self) -> Result<u64> {
        let number: i64 = query_scalar("SELECT value FROM counters WHERE name = 'audit'")
            .fetch_one(&mut self.read_tx().await?)
            .await?;
        Ok(number.cast_unsigned())
    }

    /// The newest `limit` entries with numbers below `before` that were made at `since` or later,
    /// newest first.
    pub async fn audit(
        &self,
        since: Option<Timestamp>,
        before: Option<u64>,
        limit: u64,
    ) -> Result<Vec<Audited>> {
        let rows: Vec<Row> = query_as(
            "SELECT number, time, login, who, address, command, code, why FROM audit \
             WHERE time >= $1 AND number < $2 ORDER BY number DESC LIMIT $3",
        )
        .bind(since.map_or(i64::MIN, nanoseconds))
        .bind(before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX)))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut self.scan_tx().await?)
        .await?;
        Ok(rows.into_iter().map(entry).collect())
    }

    /// The newest `limit` entries that fulfil the conditions of `query`. The search reads at most
    /// [`SEARCHED`] entries. If older entries may fulfil the conditions, [`AuditPage::older`] says
    /// where the next page begins.
    pub async fn audit_page(&self, query: &AuditQuery, limit: usize) -> Result<AuditPage> {
        let mut transaction = self.scan_tx().await?;
        let newest: i64 = query_scalar("SELECT value FROM counters WHERE name = 'audit'")
            .fetch_one(&mut transaction)
            .await?;
        let before = query.before.map_or(i64::MAX, |it| i64::try_from(it).unwrap_or(i64::MAX));
        let before = before.min(newest + 1);
        let (floor, since) = (before - SEARCHED, query.since.map_or(i64::MIN, nanoseconds));
        // The unary + prevents SQLite from using the index on `time`. With that index, SQLite would
        // have to sort the rows.
        let rows: Vec<Row> = query_as(
            "SELECT number, time, login, who, address, command, code, why FROM audit \
             WHERE number < $1 AND number >= $2 AND +time >= $3 \
             AND ($4 = '' OR login = $4 OR instr(who, $4) > 0) \
             AND ($5 = '' OR substr(command || ' ', 1, length($5) + 1) = $5 || ' ') \
             AND ($6 = '' OR instr(replace(replace(replace(command, '=', ' '), '\"', ' '), ':', ' ') \
             || ' ', ' ' || $6 || ' ') > 0) \
             ORDER BY number DESC LIMIT $7",
        )
        .bind(before)
        .bind(floor)
        .bind(since)
        .bind(&query.who)
        .bind(&query.verb)
        .bind(&query.name)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1))
        .fetch_all(&mut transaction)
        .await?;
        let mut entries: Vec<Audited> = rows.into_iter().map(entry).collect();
        if entries.len() > limit {
            entries.truncate(limit);
            let older = entries.last().map(|last| last.number);
            return Ok(AuditPage { entries, older });
        }
        let next: Option<(i64, i64)> = query_as(
            "SELECT number, time FROM audit WHERE number < $1 ORDER BY number DESC LIMIT 1",
        )
        .bind(floor)
        .fetch_optional(&mut transaction)
        .await?;
        let next = next.filter(|(_, time)| *time >= since);
        Ok(AuditPage { entries, older: next.map(|(number, _)| number.cast_unsigned() + 1) })
    }
}

pub(super) async fn record(
    transaction: &mut Tx,
    change: &Change,
    code: u8,
    why: &str,
) -> Result<()> {
    let number: i64 =
        query_scalar("UPDATE counters SET value = value + 1 WHERE name = 'audit' RETURNING value")
            .fetch_one(&mut *transaction)
            .await?;
    query(
        "INSERT INTO audit (number, time, login, who, address, command, code, why) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(number)
    .bind(nanoseconds(change.now))
    .bind(&change.user)
    .bind(&change.key)
    .bind(&change.address)
    .bind(&change.command)
    .bind(i64::from(code))
    .bind(why)
    .execute(&mut *transaction)
    .await?;
    Ok(())
}
