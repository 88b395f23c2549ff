//! Reads and writes the rows of hosts: their names, keys, labels and holds.

use std::collections::{BTreeMap, HashMap};

use deploy_store::escape;
use deploy_wire::fleet::{HostName, Label};
use jiff::Timestamp;

use super::events::{self, Kind};
use super::{agents, running};
use crate::catalog::audit::Change;
use crate::catalog::packed::packed;
use crate::catalog::positions::raise_shown;
use crate::catalog::tx::{Tx, query, query_as, query_scalar};
use crate::catalog::write_tx::WriteTx;
use crate::catalog::{Catalog, Error, Result, column, nanoseconds, timestamp};

/// Maximum number of hosts. Retired hosts do not count.
pub const MAX_HOSTS: i64 = 100_000;

/// The hold of a host. While an operator holds a host, its agents deploy nothing new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostHold {
    /// Why the operator holds the host.
    pub message: String,
    /// The fingerprint and the comment of the operator's key.
    pub who: String,
    /// When the hold began.
    pub since: Timestamp,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRow {
    /// The number of the host in the catalogue.
    pub number: i64,
    /// The name of the host.
    pub name: String,
    /// The fingerprint of the host's key. With this key, the host sent its first report, or polled
    /// before a wave of a rollout included the host.
    pub key: String,
    /// When the host was added: at its first report, or when a wave of a rollout included the host.
    pub since: Timestamp,
    /// When the host was retired; `None` if the host is not retired.
    pub retired: Option<Timestamp>,
    /// The hold, if an operator holds the host.
    pub hold: Option<HostHold>,
    /// The labels of the host.
    pub labels: BTreeMap<String, String>,
}

impl HostRow {
    /// The host's group: the value of its label `group`. Empty if the host has no such label.
    pub fn group(&self) -> &str {
        self.labels.get("group").map_or("", String::as_str)
    }
}

type Row =
    (i64, String, String, i64, Option<i64>, Option<String>, Option<String>, Option<i64>, String);

/// The query for the columns of a [`Row`]. The last column joins the labels with blanks, because
/// neither names nor values of labels contain blanks.
const COLUMNS: &str = "SELECT h.host, h.name, h.key, h.since, h.retired, h.held, h.held_by, \
     h.held_since, COALESCE((SELECT STRING_AGG(l.name || '=' || l.value, ' ') \
     FROM host_labels l WHERE l.host = h.host), '') FROM hosts h";

fn host(row: Row) -> HostRow {
    let (number, name, key, since, retired, held, held_by, held_since, labels) = row;
    let labels = labels.split(' ').filter_map(|label| label.split_once('='));
    HostRow {
        number,
        name,
        key,
        since: timestamp(since),
        retired: retired.map(timestamp),
        hold: held.map(|message| hold(message, held_by, held_since)),
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}

/// The host that has the name `name` and is not retired; `None` if there is no such host.
pub async fn find(transaction: &mut Tx, name: &str) -> Result<Option<HostRow>> {
    let query = format!("{COLUMNS} WHERE h.name = $1 AND h.retired IS NULL");
    let row: Option<Row> =
        query_as(sqlx::AssertSqlSafe(query)).bind(name).fetch_optional(&mut *transaction).await?;
    Ok(row.map(host))
}

/// All hosts that are not retired, by number. Separate queries read the holds and the labels,
/// because few hosts have a hold, and a host may have many labels.
pub async fn active(transaction: &mut Tx) -> Result<HashMap<i64, HostRow>> {
    let rows = packed("host, name, key, since", "FROM hosts WHERE retired IS NULL");
    let rows: Vec<(i64, String, String, i64)> = rows.fetch_all(&mut *transaction).await?;
    let host = |(number, name, key, since)| {
        let (retired, hold, labels) = (None, None, BTreeMap::new());
        (number, HostRow { number, name, key, since: timestamp(since), retired, hold, labels })
    };
    let mut hosts: HashMap<i64, HostRow> = rows.into_iter().map(host).collect();
    let query = "SELECT host, held, held_by, held_since FROM hosts \
                 WHERE retired IS NULL AND held IS NOT NULL";
    let held: Vec<(i64, String, Option<String>, Option<i64>)> =
        query_as(query).fetch_all(&mut *transaction).await?;
    for (number, message, who, since) in held {
        if let Some(host) = hosts.get_mut(&number) {
            host.hold = Some(hold(message, who, since));
        }
    }
    let labels = packed("host, name, value", "FROM host_labels");
    let labels: Vec<(i64, String, String)> = labels.fetch_all(&mut *transaction).await?;
    for (number, name, value) in labels {
        if let Some(host) = hosts.get_mut(&number) {
            host.labels.insert(name, value);
        }
    }
    Ok(hosts)
}

fn hold(message: String, who: Option<String>, since: Option<i64>) -> HostHold {
    let since = timestamp(since.unwrap_or_default());
    HostHold { message, who: who.unwrap_or_default(), since }
}

/// The first `limit` hosts whose names come after `name`, in byte order. Retired hosts are included
/// only if `with_retired` is true.
pub async fn after(
    transaction: &mut Tx,
    name: Option<&HostName>,
    limit: u64,
    with_retired: bool,
) -> Result<Vec<HostRow>> {
    let query = format!(
        "{COLUMNS} WHERE h.name > $1 AND ($2 OR h.retired IS NULL) ORDER BY h.name, h.host LIMIT $3"
    );
    let rows: Vec<Row> = query_as(sqlx::AssertSqlSafe(query))
        .bind(name.map_or("", HostName::as_str))
        .bind(with_retired)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *transaction)
        .await?;
    Ok(rows.into_iter().map(host).collect())
}

async fn require(transaction: &mut Tx, name: &HostName) -> Result<HostRow> {
    let none = || Error::NotFound(format!("host \"{name}\" not found; see host list"));
    find(transaction, name.as_str()).await?.ok_or_else(none)
}

/// Adds a host, and returns its number.
pub async fn add(transaction: &mut WriteTx, name: &str, key: &str, now: Timestamp) -> Result<i64> {
    let hosts: i64 = query_scalar("SELECT COUNT(*) FROM hosts WHERE retired IS NULL")
        .fetch_one(&mut *transaction)
        .await?;
    if hosts >= MAX_HOSTS {
        return Err(Error::OverLimit(format!(
            "there are {hosts} hosts already; retire some hosts"
        )));
    }
    let number = crate::catalog::counters::count(transaction, "host", 1).await?;
    query("INSERT INTO hosts (host, name, key, since) VALUES ($1, $2, $3, $4)")
        .bind(number)
        .bind(name)
        .bind(key)
        .bind(nanoseconds(now))
        .execute(&mut *transaction)
        .await?;
    events::add(transaction, now, Kind::HostAdded, "", name, key).await?;
    Ok(number)
}

/// If `host` belongs to a key other than `key`, returns why the registry refuses a report from
/// `key`.
pub fn foreign(host: &HostRow, key: &str) -> Option<String> {
    let (name, owner) = (escape(&host.name), escape(&host.key));
    (host.key != key).then(|| {
        format!(
            "host \"{name}\" belongs to another key, {owner}; if the host has a new key, run: \
             host retire {name}"
        )
    })
}

impl Catalog {
    /// The host that has the name `name` and is not retired; [`Error::NotFound`] if there is no
    /// such host.
    pub async fn host(&self, name: &HostName) -> Result<HostRow> {
        let mut transaction = self.read_tx().await?;
        require(&mut transaction, name).await
    }

    /// The first `limit` hosts whose names come after `after`, in byte order. Retired hosts are
    /// included only if `with_retired` is true.
    pub async fn hosts(
        &self,
        after: Option<&HostName>,
        limit: u64,
        with_retired: bool,
    ) -> Result<Vec<HostRow>> {
        self::after(&mut self.scan_tx().await?, after, limit, with_retired).await
    }

    /// The names of at most `limit` groups that have hosts, in byte order.
    pub async fn groups(&self, limit: u64) -> Result<Vec<String>> {
        Ok(query_scalar(
            "SELECT DISTINCT l.value FROM host_labels l JOIN hosts h ON h.host = l.host \
             WHERE l.name = 'group' AND h.retired IS NULL ORDER BY l.value LIMIT $1",
        )
        .bind(limit.cast_signed())
        .fetch_all(&mut self.scan_tx().await?)
        .await?)
    }

    /// Sets each label that has a value in `labels`, and removes each label without a value from
    /// the host.
    pub async fn label_host(
        &self,
        name: &HostName,
        labels: &[(Label, Option<Label>)],
        change: &Change,
    ) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        let host = require(&mut transaction, name).await?;
        transaction.changes_host(name.as_str());
        for (label, value) in labels {
            query("DELETE FROM host_labels WHERE host = $1 AND name = $2")
                .bind(host.number)
                .bind(label.as_str())
                .execute(&mut transaction)
                .await?;
            let Some(value) = value else { continue };
            query("INSERT INTO host_labels (host, name, value) VALUES ($1, $2, $3)")
                .bind(host.number)
                .bind(label.as_str())
                .bind(value.as_str())
                .execute(&mut transaction)
                .await?;
        }
        transaction.commit().await
    }

    /// Holds a host, so that the agents of this host deploy nothing new. Returns the names of the
    /// host's configurations.
    pub async fn hold_host(
        &self,
        name: &HostName,
        message: &str,
        change: &Change,
    ) -> Result<Vec<String>> {
        let mut transaction = self.change_tx(change).await?;
        let host = require(&mut transaction, name).await?;
        transaction.changes_host(name.as_str());
        raise_shown(&mut transaction).await?;
        query("UPDATE hosts SET held = $1, held_by = $2, held_since = $3 WHERE host = $4")
            .bind(message)
            .bind(&change.key)
            .bind(nanoseconds(change.now))
            .bind(host.number)
            .execute(&mut transaction)
            .await?;
        let names = agents::names(&mut transaction, host.number).await?;
        for configuration in &names {
            show_state(&mut transaction, host.number, configuration, true).await?;
        }
        let host = name.as_str();
        events::add(&mut transaction, change.now, Kind::HostHeld, "", host, message).await?;
        transaction.commit().await?;
        Ok(names)
    }

    /// Ends the hold of a host. Returns the names of the host's configurations.
    pub async fn release_host(&self, name: &HostName, change: &Change) -> Result<Vec<String>> {
        let mut transaction = self.change_tx(change).await?;
        let host = require(&mut transaction, name).await?;
        if host.hold.is_none() {
            return Err(Error::NotFound(format!("host \"{name}\" is not held")));
        }
        let names = release(&mut transaction, &host).await?;
        let host = name.as_str();
        events::add(&mut transaction, change.now, Kind::HostReleased, "", host, "").await?;
        transaction.commit().await?;
        Ok(names)
    }

    /// Retires a host: verbs no longer count it, and another host may use its name. Returns the
    /// names of the host's configurations.
    pub async fn retire_host(&self, name: &HostName, change: &Change) -> Result<Vec<String>> {
        let mut transaction = self.change_tx(change).await?;
        let host = require(&mut transaction, name).await?;
        let names = retire(&mut transaction, &host, change.now, "").await?;
        transaction.commit().await?;
        Ok(names)
    }

    /// The names of the hosts that were added before `before`, and have no report and no recorded
    /// connection since then. Some of these hosts may be connected: agents report only when
    /// something changes, and the registry does not record every connection.
    pub async fn silent_hosts(&self, before: Timestamp) -> Result<Vec<String>> {
        Ok(query_scalar(
            "SELECT h.name FROM hosts h WHERE h.retired IS NULL AND h.since < $1 AND h.seen < $1 \
             AND NOT EXISTS (SELECT 1 FROM agents a WHERE a.host = h.host AND a.reported >= $1)",
        )
        .bind(nanoseconds(before))
        .fetch_all(&mut self.scan_tx().await?)
        .await?)
    }

    /// Records that a host was connected at `now`.
    pub async fn see_host(&self, name: &str, now: Timestamp) -> Result<()> {
        let seen = query("UPDATE hosts SET seen = $1 WHERE name = $2 AND retired IS NULL");
        self.write_one(seen.bind(nanoseconds(now)).bind(name)).await?;
        Ok(())
    }

    /// Retires a host that the caller has found silent for longer than `-retire-after`.
    pub async fn retire_silent(&self, name: &str, now: Timestamp) -> Result<()> {
        let mut transaction = self.write_tx().await?;
        if let Some(host) = find(&mut transaction, name).await? {
            let why = "did not report within the time of -retire-after";
            retire(&mut transaction, &host, now, why).await?;
        }
        transaction.commit().await
    }
}

/// Ends the hold of a host. Returns the names of the host's configurations.
async fn release(transaction: &mut WriteTx, host: &HostRow) -> Result<Vec<String>> {
    transaction.changes_host(&host.name);
    raise_shown(transaction).await?;
    query("UPDATE hosts SET held = NULL, held_by = NULL, held_since = NULL WHERE host = $1")
        .bind(host.number)
        .execute(&mut *transaction)
        .await?;
    let names = agents::names(transaction, host.number).await?;
    for configuration in &names {
        show_state(transaction, host.number, configuration, false).await?;
    }
    Ok(names)
}

async fn retire(
    transaction: &mut WriteTx,
    host: &HostRow,
    now: Timestamp,
    why: &str,
) -> Result<Vec<String>> {
    let names = release(transaction, host).await?;
    for name in &names {
        agents::forget_state(transaction, host.number, name).await?;
    }
    query("UPDATE hosts SET retired = $1 WHERE host = $2")
        .bind(nanoseconds(now))
        .bind(host.number)
        .execute(&mut *transaction)
        .await?;
    for statement in ["DELETE FROM agents WHERE host = $1", "DELETE FROM attempts WHERE host = $1"]
    {
        query(statement).bind(host.number).execute(&mut *transaction).await?;
    }
    events::add(transaction, now, Kind::HostRetired, "", &host.name, why).await?;
    Ok(names)
}

/// If `held` is true, records which state to offer to the agent while its host is held: the state
/// that the agent runs, or the current state if the registry does not know which state runs. An
/// earlier record does not change. If `held` is false, deletes the record.
async fn show_state(
    transaction: &mut WriteTx,
    host: i64,
    configuration: &str,
    held: bool,
) -> Result<()> {
    let name = column(configuration)?;
    let Some(current) = running::current(transaction, &name).await? else { return Ok(()) };
    let (state, old): (Option<i64>, Option<i64>) =
        query_as("SELECT state, held_state FROM agents WHERE configuration = $1 AND host = $2")
            .bind(configuration)
            .bind(host)
            .fetch_one(&mut *transaction)
            .await?;
    let new = held.then(|| old.or(state).unwrap_or(current.number));
    running::change(transaction, &current, old, new).await?;
    query("UPDATE agents SET held_state = $1 WHERE configuration = $2 AND host = $3")
        .bind(new)
        .bind(configuration)
        .bind(host)
        .execute(&mut *transaction)
        .await?;
    Ok(())
}
