//! Reads and writes the maintenance windows of groups.

use std::collections::HashMap;

use deploy_rollout::Windows;
use deploy_wire::fleet::Label;
use jiff::Timestamp;

use crate::catalog::audit::Change;
use crate::catalog::positions::raise_shown;
use crate::catalog::tx::{query, query_as, query_scalar};
use crate::catalog::{Catalog, Error, Result, bad_row, nanoseconds, timestamp};

/// Maximum number of groups with windows.
const MOST: i64 = 1000;

/// The maintenance windows of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupWindows {
    /// The name of the group.
    pub group: String,
    /// The windows.
    pub windows: Windows,
    /// The fingerprint and the comment of the key that set the windows.
    pub who: String,
    /// When the windows were set.
    pub since: Timestamp,
}

impl Catalog {
    /// Sets the windows of a group.
    pub async fn set_windows(&self, group: &Label, times: &str, change: &Change) -> Result<()> {
        let windows: Windows =
            times.parse().map_err(|err| Error::Invalid(format!("-times: {err}")))?;
        let mut transaction = self.change_tx(change).await?;
        transaction.changes_windows();
        raise_shown(&mut transaction).await?;
        query(
            "INSERT INTO group_windows (name, times, who, since) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name) DO UPDATE SET times = $2, who = $3, since = $4",
        )
        .bind(group.as_str())
        .bind(windows.to_string())
        .bind(&change.key)
        .bind(nanoseconds(change.now))
        .execute(&mut transaction)
        .await?;
        let groups: i64 =
            query_scalar("SELECT COUNT(*) FROM group_windows").fetch_one(&mut transaction).await?;
        if groups > MOST {
            return Err(Error::OverLimit(format!("at most {MOST} groups may have windows")));
        }
        transaction.commit().await
    }

    /// Deletes the windows of a group.
    pub async fn delete_windows(&self, group: &Label, change: &Change) -> Result<()> {
        let mut transaction = self.change_tx(change).await?;
        transaction.changes_windows();
        raise_shown(&mut transaction).await?;
        let deleted = query("DELETE FROM group_windows WHERE name = $1")
            .bind(group.as_str())
            .execute(&mut transaction)
            .await?;
        if deleted == 0 {
            return Err(Error::NotFound(format!("group \"{group}\" has no windows")));
        }
        transaction.commit().await
    }

    /// The windows of all groups, sorted by the name of the group.
    pub async fn windows(&self) -> Result<Vec<GroupWindows>> {
        let rows: Vec<(String, String, String, i64)> =
            query_as("SELECT name, times, who, since FROM group_windows ORDER BY name")
                .fetch_all(&mut self.read_tx().await?)
                .await?;
        let windows = |(group, times, who, since): (String, String, String, i64)| {
            let windows = times.parse().map_err(|err: deploy_rollout::BadWindows| bad_row(&err))?;
            Ok(GroupWindows { group, windows, who, since: timestamp(since) })
        };
        rows.into_iter().map(windows).collect()
    }

    /// The windows of all groups, by the name of the group.
    pub async fn windows_by_group(&self) -> Result<HashMap<String, Windows>> {
        let all = self.windows().await?;
        Ok(all.into_iter().map(|one| (one.group, one.windows)).collect())
    }
}
