//! Makes the statements that read and write whole rows of the tables in `table_list`. These
//! functions are pure.

use super::table_list::{Kind, PLACE_NOTES, Table};

impl Table {
    /// A query for at most `limit` rows, sorted by the primary key. With `continues`, only rows
    /// after a given key, whose values are the parameters. The first column of the result has the
    /// kinds of the other columns.
    pub(super) fn select(&self, continues: bool, limit: usize) -> String {
        let kinds: String = self.columns.iter().map(|(_, kind)| kind.letter()).collect();
        let columns = quoted(self.columns);
        let keys = quoted(&self.columns[..self.keys]);
        let after = continues.then(|| format!("({keys}) > ({})", parameters(0, self.keys)));
        let conditions: Vec<String> = self.condition().into_iter().chain(after).collect();
        let only = if conditions.is_empty() { "" } else { " WHERE " };
        let only = format!("{only}{}", conditions.join(" AND "));
        let name = self.name;
        format!("SELECT '{kinds}', {columns} FROM {name}{only} ORDER BY {keys} LIMIT {limit}")
    }

    /// Whether the rows of the copy are updated. All catalogues have the same counters.
    pub(super) fn is_updated(&self) -> bool {
        self.name == "counters"
    }

    /// The statement that adds `rows` rows. Its parameters are the values of all rows in sequence.
    pub(super) fn insert(&self, rows: usize) -> String {
        let width = self.columns.len();
        let row = |row| format!("({})", parameters(row * width, width));
        let rows: Vec<String> = (0..rows).map(row).collect();
        let (name, columns) = (self.name, quoted(self.columns));
        let update = " ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        let update = if self.is_updated() { update } else { "" };
        format!("INSERT INTO {name} ({columns}) VALUES {}{update}", rows.join(", "))
    }

    /// The query for the number of rows that a migration copies.
    pub(super) fn count(&self) -> String {
        let only = self.condition().map(|only| format!(" WHERE {only}")).unwrap_or_default();
        format!("SELECT COUNT(*) FROM {}{only}", self.name)
    }

    /// The statement that deletes the rows that a migration copies.
    pub(super) fn delete(&self) -> String {
        let only = self.condition().map(|only| format!(" WHERE {only}")).unwrap_or_default();
        format!("DELETE FROM {}{only}", self.name)
    }

    /// The condition for the rows that a migration copies. `None`: it copies all rows.
    pub(super) fn condition(&self) -> Option<String> {
        (self.name == "notes").then(|| format!("name NOT IN ('{}')", PLACE_NOTES.join("', '")))
    }
}

fn quoted(columns: &[(&str, Kind)]) -> String {
    let names: Vec<String> = columns.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    names.join(", ")
}

/// The names of `count` parameters after the first `before` parameters.
fn parameters(before: usize, count: usize) -> String {
    let names: Vec<String> = (before + 1..=before + count).map(|n| format!("${n}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use Kind::{Number as N, Text as T, Truth as F};

    use super::super::table_list::{TABLES, table};
    use super::*;

    #[test]
    fn statements_have_all_columns_and_keys() {
        let table = table("t", 2, &[("a", N), ("b", T), ("c", F)]);
        assert_eq!(
            table.select(false, 5),
            "SELECT 'NTF', \"a\", \"b\", \"c\" FROM t ORDER BY \"a\", \"b\" LIMIT 5"
        );
        assert_eq!(
            table.select(true, 5),
            "SELECT 'NTF', \"a\", \"b\", \"c\" FROM t WHERE (\"a\", \"b\") > ($1, $2) \
             ORDER BY \"a\", \"b\" LIMIT 5"
        );
        assert_eq!(
            table.insert(2),
            "INSERT INTO t (\"a\", \"b\", \"c\") VALUES ($1, $2, $3), ($4, $5, $6)"
        );
    }

    #[test]
    fn notes_about_the_place_are_left_out() {
        let notes = TABLES.iter().find(|table| table.name == "notes").unwrap();
        assert!(notes.count().ends_with(
            "name NOT IN ('bucket', 'catalogue', 'host_key', 'migration', \
             'migration_source', 'moved', 'owner')"
        ));
        assert!(notes.select(true, 1).contains("'owner') AND (\"name\") > ($1) ORDER BY"));
    }
}
