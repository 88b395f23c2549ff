//! Reads and writes the rows of a rollout's waves, and the rows of its members. The members are the
//! hosts that the waves have taken.

use std::collections::HashMap;

use deploy_rollout::{Member, Outcome};
use jiff::Timestamp;

use crate::catalog::packed::packed;
use crate::catalog::tx::{Tx, query, query_as};
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Result, bad_row, nanoseconds, timestamp};

/// A wave that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedWave {
    /// The number of the wave, from 1.
    pub wave: u32,
    /// The selector of the wave.
    pub selector: String,
    /// The number of hosts that the wave took.
    pub hosts: u64,
    /// When the wave was opened.
    pub opened: Timestamp,
}

/// The columns of a [`Row`]. `SQLite` has no booleans: in JSON, it writes the number 1 for true. So
/// the query turns booleans into numbers on both engines.
const MEMBER: &str = "host, wave, offered, healthy, result, CASE WHEN repaired THEN 1 ELSE 0 END, \
     CASE WHEN marked THEN 1 ELSE 0 END, CASE WHEN has_left THEN 1 ELSE 0 END";
type Row = (i64, i64, i64, Option<i64>, Option<String>, u8, u8, u8);

/// The members of a rollout, by the number of the host.
pub async fn members(transaction: &mut Tx, rollout: u64) -> Result<HashMap<i64, Member>> {
    let rows = packed(MEMBER, "FROM rollout_hosts WHERE rollout = $1").bind(rollout.cast_signed());
    let rows: Vec<Row> = rows.fetch_all(&mut *transaction).await?;
    rows.into_iter().map(member).collect()
}

fn member(row: Row) -> Result<(i64, Member)> {
    let (host, wave, offered, healthy, result, repaired, marked, left) = row;
    let read = |text: String| serde_json::from_str::<Outcome>(&text).map_err(|err| bad_row(&err));
    let member = Member {
        wave: u32::try_from(wave).unwrap_or(u32::MAX),
        offered: timestamp(offered),
        healthy_since: healthy.map(timestamp),
        result: result.map(read).transpose()?,
        repaired: repaired != 0,
        marked: marked != 0,
        left: left != 0,
    };
    Ok((host, member))
}

/// Writes the row of a member.
pub async fn put(
    transaction: &mut WriteTx,
    rollout: u64,
    host: i64,
    member: &Member,
) -> Result<()> {
    let result = member.result.as_ref().map(serde_json::to_string).transpose();
    query(
        "INSERT INTO rollout_hosts \
         (rollout, host, wave, offered, healthy, result, repaired, marked, has_left) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (rollout, host) DO UPDATE SET \
         wave = $3, offered = $4, healthy = $5, result = $6, repaired = $7, marked = $8, \
         has_left = $9",
    )
    .bind(rollout.cast_signed())
    .bind(host)
    .bind(i64::from(member.wave))
    .bind(nanoseconds(member.offered))
    .bind(member.healthy_since.map(nanoseconds))
    .bind(result.map_err(|err| bad_row(&err))?)
    .bind(member.repaired)
    .bind(member.marked)
    .bind(member.left)
    .execute(&mut *transaction)
    .await?;
    Ok(())
}

/// The opened waves of a rollout, in order.
pub async fn waves(transaction: &mut Tx, rollout: u64) -> Result<Vec<OpenedWave>> {
    let rows: Vec<(i64, String, i64, i64)> = query_as(
        "SELECT wave, selector, hosts, opened FROM rollout_waves WHERE rollout = $1 ORDER BY wave",
    )
    .bind(rollout.cast_signed())
    .fetch_all(&mut *transaction)
    .await?;
    let wave = |(wave, selector, hosts, opened): (i64, String, i64, i64)| OpenedWave {
        wave: u32::try_from(wave).unwrap_or(u32::MAX),
        selector,
        hosts: hosts.cast_unsigned(),
        opened: timestamp(opened),
    };
    Ok(rows.into_iter().map(wave).collect())
}

/// Records that a wave was opened.
pub async fn put_wave(
    transaction: &mut WriteTx,
    rollout: u64,
    wave: u32,
    selector: &str,
    hosts: usize,
    now: Timestamp,
) -> Result<()> {
    query(
        "INSERT INTO rollout_waves (rollout, wave, selector, hosts, opened) \
         VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(rollout.cast_signed())
    .bind(i64::from(wave))
    .bind(selector)
    .bind(i64::try_from(hosts).unwrap_or(i64::MAX))
    .bind(nanoseconds(now))
    .execute(&mut *transaction)
    .await?;
    Ok(())
}
