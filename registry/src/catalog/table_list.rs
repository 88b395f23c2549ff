//! Lists the tables of the catalogue with their columns. A migration of the registry to another place
//! copies the tables in this list.

use Kind::{Bytes as B, Number as N, Text as T, Truth as F};

/// The kind of the values in a column. Values of the kinds `Number` and `Text` may be NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Number,
    Text,
    Bytes,
    Truth,
}

impl Kind {
    /// The letter for this kind in the first column of [`Table::select`].
    pub(super) fn letter(self) -> char {
        match self {
            N => 'N',
            T => 'T',
            B => 'B',
            F => 'F',
        }
    }

    pub(super) fn from_letter(letter: char) -> Option<Self> {
        [N, T, B, F].into_iter().find(|kind| kind.letter() == letter)
    }
}

/// A table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// The number of columns in the primary key, which are the first columns.
    pub(super) keys: usize,
    pub(super) columns: &'static [(&'static str, Kind)],
}

/// The notes that describe the place of a catalogue and not its contents: the registry that uses the
/// catalogue, the directory and the bucket that belong to it, the host key of the registries that
/// share it, and an unfinished or complete migration. No migration copies them.
pub(super) const PLACE_NOTES: [&str; 7] =
    ["bucket", "catalogue", "host_key", "migration", "migration_source", "moved", "owner"];

/// The tables that describe the place of a registry and not its contents. No migration copies them.
/// `objects` is about the bucket, and a migration fills it while it sends the blobs. The others are
/// about the registries that share a catalogue: which of them run, which work each of them does, which
/// agents are connected to them, and which polls they have told each other. A registry whose catalogue
/// is in a file has the connections and polls only in memory, and none of them survives a restart.
#[cfg(test)]
const PLACE_TABLES: [&str; 5] = ["contacts", "duties", "objects", "polls", "registries"];

pub(super) const fn table(name: &'static str, keys: usize, columns: &'static [(&'static str, Kind)]) -> Table {
    Table { name, keys, columns }
}

/// All tables that a migration copies. A table comes after the tables to which it refers. The list
/// has the columns of each primary key first, and in the order of this key.
pub(super) static TABLES: [Table; 27] = [
    table("counters", 1, &[("name", T), ("value", N)]),
    table("components", 1, &[("name", T)]),
    table(
        "versions",
        2,
        &[("component", T), ("name", T), ("digest", T), ("created", N), ("number", N)],
    ),
    table("pins", 2, &[("component", T), ("version", T), ("message", T), ("who", T), ("since", N)]),
    table("configurations", 1, &[("name", T), ("current", N), ("history", N), ("revision", N)]),
    table(
        "states",
        2,
        &[
            ("history", N),
            ("number", N),
            ("hash", T),
            ("modified", N),
            ("who", T),
            ("command", T),
            ("lost", F),
            ("back_to", N),
            ("proposed", F),
        ],
    ),
    table(
        "state_layers",
        3,
        &[
            ("history", N),
            ("number", N),
            ("position", N),
            ("component", T),
            ("version", T),
            ("digest", T),
            ("created", N),
        ],
    ),
    table(
        "uses",
        3,
        &[
            ("history", N),
            ("number", N),
            ("position", N),
            ("component", T),
            ("version", T),
            ("digest", T),
        ],
    ),
    table("removed_histories", 1, &[("history", N)]),
    table("blobs", 1, &[("digest", T), ("bytes", N), ("state", T), ("since", N)]),
    table(
        "layers",
        3,
        &[("diff_id", T), ("removals", T), ("compression", T), ("digest", T), ("asked", N)],
    ),
    table(
        "audit",
        1,
        &[
            ("number", N),
            ("time", N),
            ("login", T),
            ("who", T),
            ("address", T),
            ("command", T),
            ("code", N),
            ("why", T),
        ],
    ),
    table("notes", 1, &[("name", T), ("value", T)]),
    table(
        "hosts",
        1,
        &[
            ("host", N),
            ("name", T),
            ("key", T),
            ("since", N),
            ("seen", N),
            ("retired", N),
            ("held", T),
            ("held_by", T),
            ("held_since", N),
        ],
    ),
    table("host_labels", 2, &[("host", N), ("name", T), ("value", T)]),
    table(
        "agents",
        2,
        &[
            ("configuration", T),
            ("host", N),
            ("instance", T),
            ("seq", N),
            ("revision", N),
            ("attempt", N),
            ("tried", N),
            ("phase", T),
            ("runs", T),
            ("wants", T),
            ("reason", T),
            ("message", T),
            ("exit_code", N),
            ("output", T),
            ("steps", T),
            ("boot", T),
            ("version", T),
            ("link", T),
            ("since", N),
            ("reported", N),
            ("retries", N),
            ("state", N),
            ("held_state", N),
        ],
    ),
    table("running", 2, &[("history", N), ("number", N), ("hosts", N)]),
    table(
        "attempts",
        3,
        &[
            ("configuration", T),
            ("host", N),
            ("number", N),
            ("phase", T),
            ("wants", T),
            ("reason", T),
            ("message", T),
            ("exit_code", N),
            ("output", T),
            ("steps", T),
            ("began", N),
            ("reported", N),
        ],
    ),
    table("outputs", 1, &[("digest", T), ("bytes", B)]),
    table(
        "events",
        1,
        &[
            ("number", N),
            ("time", N),
            ("kind", T),
            ("configuration", T),
            ("host", T),
            ("message", T),
        ],
    ),
    table(
        "freezes",
        1,
        &[("configuration", T), ("message", T), ("who", T), ("since", N), ("until", N)],
    ),
    table(
        "rollouts",
        1,
        &[
            ("number", N),
            ("configuration", T),
            ("history", N),
            ("base", N),
            ("target", N),
            ("revision", N),
            ("policy", T),
            ("status", T),
            ("why", T),
            ("status_since", N),
            ("wave", N),
            ("opened", N),
            ("soaking", N),
            ("soak_skipped", F),
            ("waiting", N),
            ("budget", N),
            ("step", N),
            ("who", T),
            ("started", N),
            ("ended", N),
        ],
    ),
    table(
        "rollout_hosts",
        2,
        &[
            ("rollout", N),
            ("host", N),
            ("wave", N),
            ("offered", N),
            ("healthy", N),
            ("result", T),
            ("repaired", F),
            ("marked", F),
            ("has_left", F),
        ],
    ),
    table(
        "rollout_waves",
        2,
        &[("rollout", N), ("wave", N), ("selector", T), ("hosts", N), ("opened", N)],
    ),
    table("rollout_policies", 1, &[("name", T), ("policy", T), ("who", T), ("since", N)]),
    table("group_windows", 1, &[("name", T), ("times", T), ("who", T), ("since", N)]),
    table("policy_uses", 1, &[("configuration", T), ("policy", T)]),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::catalog::Catalog;
    use crate::catalog::tests::open;
    use crate::catalog::tx::query_as;

    /// The columns of all tables of the database: table, column, type, and the column's place in the
    /// primary key, counted from 1, or 0.
    type Found = Vec<(String, String, String, i64)>;

    async fn columns_in(catalog: &Catalog) -> Found {
        let sql = if catalog.is_on_server() {
            "SELECT CAST(c.relname AS TEXT), CAST(a.attname AS TEXT), \
             format_type(a.atttypid, NULL), \
             CAST(COALESCE(array_position(i.indkey::int2[], a.attnum), -1) + 1 AS BIGINT) \
             FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
             LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisprimary \
             WHERE c.relkind = 'r' AND NOT a.attisdropped \
             AND c.relnamespace = current_schema()::regnamespace"
        } else {
            "SELECT m.name, c.name, c.type, c.pk FROM sqlite_master m, pragma_table_info(m.name) c \
             WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'"
        };
        query_as(sql).fetch_all(&mut catalog.read_tx().await.unwrap()).await.unwrap()
    }

    fn kind(of: &str) -> Kind {
        match of.to_lowercase().as_str() {
            "bigint" => N,
            "text" => T,
            "blob" | "bytea" => B,
            "boolean" => F,
            other => panic!("a column has the type {other}; add it to Kind"),
        }
    }

    /// With `DEPLOY_TEST_POSTGRES`, this test runs on a server.
    #[tokio::test]
    async fn every_table_and_column_is_listed() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).await;
        let mut found: BTreeMap<String, Vec<(i64, String, Kind)>> = BTreeMap::new();
        for (table, column, of, key) in columns_in(&catalog).await {
            if table != "_sqlx_migrations" && !PLACE_TABLES.contains(&&*table) {
                found.entry(table).or_default().push((key, column, kind(&of)));
            }
        }
        let mut listed = BTreeMap::new();
        for table in &TABLES {
            let column = |(at, (name, kind)): (usize, &(&str, Kind))| {
                let key = if at < table.keys { i64::try_from(at).unwrap() + 1 } else { 0 };
                (key, (*name).to_owned(), *kind)
            };
            let mut columns: Vec<_> = table.columns.iter().enumerate().map(column).collect();
            columns.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            assert!(listed.insert(table.name.to_owned(), columns).is_none(), "{}", table.name);
        }
        for columns in found.values_mut() {
            columns.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        }
        assert_eq!(found, listed, "add the tables and columns of a new migration to TABLES");
        catalog.close().await;
    }
}
