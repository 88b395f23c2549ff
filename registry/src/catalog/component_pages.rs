//! Reads pages of the list of components. For each component, a page has the number of the
//! component's versions, and the sum of the versions' bytes.

use std::collections::HashMap;

use deploy_store::{ComponentName, ConfigurationName, VersionName};
use jiff::Timestamp;

use super::tx::query_as;
use super::{Catalog, Result, column, timestamp};

/// How many versions a component has, and the sum of their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VersionsTotal {
    /// The number of versions.
    pub versions: u64,
    /// The sum of the versions' bytes. If several versions have the same blob, the blob counts for
    /// each of them.
    pub bytes: u64,
}

/// A component on a page of the list.
#[derive(Debug, Clone)]
pub struct ComponentSummary {
    /// The name of the component.
    pub name: ComponentName,
    /// The number and the bytes of the component's versions.
    pub total: VersionsTotal,
    /// The newest version, and when this version was added; `None` if the component has no
    /// versions.
    pub newest: Option<(VersionName, Timestamp)>,
    /// The first configuration, in byte order, whose current state has a version of the component;
    /// `None` if there is no such configuration.
    pub user: Option<ConfigurationName>,
    /// The number of configurations whose current state has a version of the component.
    pub users: u64,
}

/// The columns of a summary: the component's name, the number and the bytes of its versions, the
/// newest version, and the time when this version was added.
type Row = (String, i64, i64, Option<String>, Option<i64>);

impl Catalog {
    /// The first `limit` components with names after `after`, in byte order.
    pub async fn component_page(
        &self,
        after: Option<&ComponentName>,
        limit: u64,
    ) -> Result<Vec<ComponentSummary>> {
        let mut transaction = self.scan_tx().await?;
        let after = after.map_or("", ComponentName::as_str);
        let rows: Vec<Row> = query_as(
            "SELECT t.name, t.versions, t.bytes, n.name, n.created FROM \
               (SELECT c.name AS name, COUNT(v.name) AS versions, \
                  CAST(COALESCE(SUM(b.bytes), 0) AS BIGINT) AS bytes, MAX(v.number) AS newest \
                FROM (SELECT name FROM components WHERE name > $1 ORDER BY name LIMIT $2) AS c \
                LEFT JOIN versions v ON v.component = c.name \
                LEFT JOIN blobs b INDEXED BY blobs_counted ON b.digest = v.digest \
                GROUP BY c.name) AS t \
             LEFT JOIN versions n ON n.component = t.name AND n.number = t.newest ORDER BY t.name",
        )
        .bind(after)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut transaction)
        .await?;
        let last = rows.last().map_or(after, |row| &row.0);
        let users: Vec<(String, String, i64)> = query_as(
            "SELECT u.component, MIN(c.name), COUNT(DISTINCT c.name) FROM uses u \
             JOIN configurations c ON c.history = u.history AND c.current = u.number \
             WHERE u.component > $1 AND u.component <= $2 GROUP BY u.component",
        )
        .bind(after)
        .bind(last)
        .fetch_all(&mut transaction)
        .await?;
        let users = users.into_iter().map(|(component, user, count)| (component, (user, count)));
        let users: HashMap<String, (String, i64)> = users.collect();
        let summary = |(name, versions, bytes, newest, created): Row| {
            let newest = match (newest, created) {
                (Some(newest), Some(created)) => Some((column(&newest)?, timestamp(created))),
                _ => None,
            };
            let used = users.get(&name);
            Ok(ComponentSummary {
                name: column(&name)?,
                total: total(versions, bytes),
                newest,
                user: used.map(|(user, _)| column(user)).transpose()?,
                users: used.map_or(0, |(_, count)| count.cast_unsigned()),
            })
        };
        rows.into_iter().map(summary).collect()
    }

    /// The number and the bytes of one component's versions; zero if there is no such component.
    pub async fn component_total(&self, component: &ComponentName) -> Result<VersionsTotal> {
        let (versions, bytes): (i64, i64) = query_as(
            "SELECT COUNT(*), CAST(COALESCE(SUM(b.bytes), 0) AS BIGINT) FROM versions v \
             LEFT JOIN blobs b INDEXED BY blobs_counted ON b.digest = v.digest \
             WHERE v.component = $1",
        )
        .bind(component.as_str())
        .fetch_one(&mut self.scan_tx().await?)
        .await?;
        Ok(total(versions, bytes))
    }
}

fn total(versions: i64, bytes: i64) -> VersionsTotal {
    VersionsTotal { versions: versions.cast_unsigned(), bytes: bytes.cast_unsigned() }
}
