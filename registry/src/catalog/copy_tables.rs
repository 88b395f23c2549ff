//! Copies all tables of a catalogue into another catalogue, possibly of the other kind. `table_list`
//! lists the tables. No other process uses either catalogue meanwhile.

use deploy_store::{Meter, Unit};
use serde::de::IgnoredAny;

use super::database_error::bad_row;
use super::table_list::{Kind, TABLES, Table};
use super::table_sums::{Summing, TableSum};
use super::tx::{Tx, Value, from_row, query, query_as, query_scalar};
use super::{Catalog, OWNER, Result};

/// How many rows are read and written at a time. A row has at most 23 columns, and `SQLite` allows
/// 32,766 parameters.
const PAGE: usize = 500;
/// What replaces a NUL in a text. `SQLite` allows NUL, and `PostgreSQL` does not.
const NUL: &str = "\u{fffd}";

/// A row of any table.
struct AnyRow(Vec<Value>);

from_row!(AnyRow, |row| {
    use sqlx::Row as _;
    let kinds: String = row.try_get(0)?;
    let value = |(before, kind): (usize, char)| {
        let at = before + 1;
        Ok(match Kind::from_letter(kind) {
            Some(Kind::Number) => Value::Number(row.try_get(at)?),
            Some(Kind::Text) => Value::Text(row.try_get(at)?),
            Some(Kind::Bytes) => Value::Bytes(row.try_get(at)?),
            Some(Kind::Truth) => Value::Truth(row.try_get(at)?),
            None => return Err(sqlx::Error::ColumnNotFound(kind.to_string())),
        })
    };
    kinds.chars().enumerate().map(value).collect::<sqlx::Result<_>>().map(Self)
});

impl Catalog {
    /// Whether a migration may copy another catalogue into this one: there are no rows apart from
    /// those of a new catalogue, and no directory belongs to it.
    pub async fn is_unused(&self) -> Result<bool> {
        for table in TABLES.iter().map(|table| table.name).chain(["objects"]) {
            let rest = match table {
                "counters" => "counters WHERE name <> 'keep_states' AND value <> 0".to_owned(),
                // A migration writes the note of the bucket before its own note.
                "notes" => format!("notes WHERE name NOT IN ('bucket', '{OWNER}')"),
                other => other.to_owned(),
            };
            let sql = format!("SELECT COUNT(*) FROM (SELECT 1 FROM {rest} LIMIT 1) AS one");
            let rows: i64 = query_scalar(sqlx::AssertSqlSafe(sql))
                .fetch_one(&mut self.read_tx().await?)
                .await?;
            if rows > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes the rows that a migration copies, but keeps the counters, without which no catalogue
    /// can be opened.
    pub async fn clear_tables(&self) -> Result<()> {
        let mut transaction = self.begin_write().await?;
        let cleared = || TABLES.iter().filter(|table| !table.is_updated());
        if let Tx::Postgres(..) = transaction {
            let whole = cleared().filter(|table| table.condition().is_none());
            let names: Vec<&str> = whole.map(|table| table.name).collect();
            let sql = format!("TRUNCATE {}", names.join(", "));
            query(sqlx::AssertSqlSafe(sql)).execute(&mut transaction).await?;
        }
        for table in cleared().rev() {
            query(sqlx::AssertSqlSafe(table.delete())).execute(&mut transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Copies the rows of all tables into `copy`, whose tables are empty. `meter` counts the rows.
    pub async fn copy_tables(&self, copy: &Self, meter: &Meter) -> Result<()> {
        meter.begin("copied", Unit::Items("rows"), self.count_rows().await?);
        for table in &TABLES {
            let mut pages = Pages::new(self, table);
            while let Some(rows) = pages.next().await? {
                meter.add(rows.len() as u64);
                let mut statement = query(sqlx::AssertSqlSafe(table.insert(rows.len())));
                for value in rows.into_iter().flatten() {
                    statement = statement.bind(value);
                }
                copy.write_one(statement).await?;
            }
        }
        meter.end();
        Ok(())
    }

    /// The sums of all tables that a migration copies. `meter` counts the rows.
    pub async fn sum_tables(&self, meter: &Meter) -> Result<Vec<TableSum>> {
        meter.begin("compared", Unit::Items("rows"), self.count_rows().await?);
        let mut sums = Vec::with_capacity(TABLES.len());
        for table in &TABLES {
            let (mut pages, mut summing) = (Pages::new(self, table), Summing::default());
            while let Some(rows) = pages.next().await? {
                meter.add(rows.len() as u64);
                rows.iter().for_each(|row| summing.add(row));
            }
            sums.push(summing.end(table.name));
        }
        meter.end();
        Ok(sums)
    }

    /// Whether the catalogue has the note `name`, even if the note cannot be parsed as intended.
    pub async fn has_note(&self, name: &str) -> Result<bool> {
        Ok(self.note::<IgnoredAny>(name).await?.is_some())
    }

    async fn count_rows(&self) -> Result<u64> {
        let mut transaction = self.scan_tx().await?;
        let mut rows = 0;
        for table in &TABLES {
            let count: i64 = query_scalar(sqlx::AssertSqlSafe(table.count()))
                .fetch_one(&mut transaction)
                .await?;
            rows += count.cast_unsigned();
        }
        Ok(rows)
    }
}

/// Reads a table page by page. Each page is a transaction of its own, so that a large table takes no
/// long transaction.
struct Pages<'a> {
    catalog: &'a Catalog,
    table: &'a Table,
    /// The primary key of the last row of the page before.
    after: Option<Vec<Value>>,
    is_at_end: bool,
}

impl<'a> Pages<'a> {
    fn new(catalog: &'a Catalog, table: &'a Table) -> Self {
        Self { catalog, table, after: None, is_at_end: false }
    }

    async fn next(&mut self) -> Result<Option<Vec<Vec<Value>>>> {
        if self.is_at_end {
            return Ok(None);
        }
        let sql = self.table.select(self.after.is_some(), PAGE);
        let mut statement = query_as(sqlx::AssertSqlSafe(sql));
        for value in self.after.iter().flatten() {
            statement = statement.bind(value.clone());
        }
        let mut transaction = self.catalog.scan_tx().await?;
        let rows: Vec<AnyRow> = statement.fetch_all(&mut transaction).await?;
        self.is_at_end = rows.len() < PAGE;
        let mut page = Vec::with_capacity(rows.len());
        for AnyRow(row) in rows {
            page.push(without_nul(self.table, row)?);
        }
        self.after = page.last().map(|row| row[..self.table.keys].to_vec());
        Ok((!page.is_empty()).then_some(page))
    }
}

/// The row with texts that `PostgreSQL` accepts. An audited command may contain NUL, but a name
/// never does.
fn without_nul(table: &Table, mut row: Vec<Value>) -> Result<Vec<Value>> {
    for (at, value) in row.iter_mut().enumerate() {
        let Value::Text(Some(text)) = value else { continue };
        if text.contains('\0') && at < table.keys {
            let reason = format!("a row of {} has a name with a NUL", table.name);
            let path = "catalogue.db".into();
            return Err(bad_row(&deploy_store::Error::Corrupt { path, reason }));
        }
        if text.contains('\0') {
            *text = text.replace('\0', NUL);
        }
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::table_sums::differences;
    use crate::catalog::tests::{deploy, open};

    async fn run(catalog: &Catalog, sql: &'static str) {
        catalog.write_one(query(sql)).await.unwrap();
    }

    /// The copy is in a file if `DEPLOY_TEST_POSTGRES` is not set, and otherwise on a server.
    #[tokio::test]
    async fn copy_has_the_same_sums_and_replaces_an_earlier_copy() {
        let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let source = Catalog::open(from.path(), 2, &Meter::default()).await.unwrap();
        let copy = open(to.path()).await;
        assert!(copy.is_unused().await.unwrap());
        let meter = Meter::default();
        let all =
            [source.sum_tables(&meter).await.unwrap(), copy.sum_tables(&meter).await.unwrap()];
        assert_eq!(differences(&all[0], &all[1]), [""; 0], "two new catalogues are equal");
        for version in 0..300 {
            deploy(&source, &format!("v{version}")).await;
        }
        run(&source, "INSERT INTO outputs VALUES ('a', X'0001FF'), ('b', X'')").await;
        run(&source, "INSERT INTO hosts (host, name, key, since) VALUES (7, 'a', 'k', -1)").await;
        run(&source, "INSERT INTO freezes VALUES ('p', 'Gr\u{fc}\u{df}e \u{1f600}', '', 1, 2)")
            .await;
        run(&source, "UPDATE audit SET command = 'a' || char(0) || 'b' WHERE number = 3").await;
        source.set_note("gc", &"last").await.unwrap();
        source.set_note("moved", &"stays").await.unwrap();
        for _ in 0..2 {
            copy.clear_tables().await.unwrap();
            source.copy_tables(&copy, &meter).await.unwrap();
            let expected = source.sum_tables(&meter).await.unwrap();
            let sums = copy.sum_tables(&meter).await.unwrap();
            assert_eq!(differences(&expected, &sums), [""; 0]);
            let rows = |table| sums.iter().find(|sum| sum.table == table).unwrap().rows;
            assert_eq!((rows("versions"), rows("states"), rows("audit")), (300, 300, 600));
        }
        assert!(!copy.is_unused().await.unwrap());
        assert!(!copy.has_note("moved").await.unwrap());
        assert_eq!(copy.note("gc").await.unwrap(), Some("last".to_owned()));
        let audit = copy.audit(None, None, 2000).await.unwrap();
        let third = audit.iter().find(|entry| entry.number == 3).unwrap();
        assert_eq!(third.change.command, "a\u{fffd}b");
        // The copy continues to count where the source stopped.
        deploy(&copy, "v300").await;
        run(&copy, "UPDATE hosts SET key = 'other'").await;
        let sums = copy.sum_tables(&meter).await.unwrap();
        let found = differences(&source.sum_tables(&meter).await.unwrap(), &sums);
        assert!(found.contains(&"versions: 301 rows instead of 300".to_owned()), "{found:?}");
        assert!(found.contains(&"hosts: 1 rows with other contents".to_owned()), "{found:?}");
        source.close().await;
        copy.close().await;
    }
}
