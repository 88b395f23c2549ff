//! Sums of tables, and their comparison. These functions are pure. Two tables with the same rows
//! have the same sum on both kinds of databases.

use deploy_store::{Digest, Hasher};

use super::tx::Value;

/// The number of rows of a table, and the digest of its sorted rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSum {
    /// The name of the table.
    pub table: &'static str,
    /// The number of rows.
    pub rows: u64,
    /// The digest of all rows, sorted by the primary key.
    pub digest: Digest,
}

/// Sums the rows of a table, which come sorted by the primary key.
#[derive(Default)]
pub(super) struct Summing {
    hasher: Hasher,
    rows: u64,
}

impl Summing {
    pub(super) fn add(&mut self, row: &[Value]) {
        self.rows += 1;
        for value in row {
            match value {
                Value::Number(None) | Value::Text(None) => self.hasher.update(b"-"),
                Value::Number(Some(number)) => {
                    self.hasher.update(b"n");
                    self.hasher.update(&number.to_be_bytes());
                }
                Value::Text(Some(text)) => self.sized(b"t", text.as_bytes()),
                Value::Bytes(bytes) => self.sized(b"b", bytes),
                Value::Truth(truth) => self.hasher.update(if *truth { b"1" } else { b"0" }),
            }
        }
    }

    /// The length comes first, so that no two rows have the same bytes.
    fn sized(&mut self, kind: &[u8], bytes: &[u8]) {
        self.hasher.update(kind);
        self.hasher.update(&(bytes.len() as u64).to_be_bytes());
        self.hasher.update(bytes);
    }

    pub(super) fn end(self, table: &'static str) -> TableSum {
        TableSum { table, rows: self.rows, digest: self.hasher.finish() }
    }
}

/// The tables whose sums differ, with the numbers of rows in both places, as text.
pub fn differences(source: &[TableSum], copy: &[TableSum]) -> Vec<String> {
    let mut found = Vec::new();
    for sum in source {
        match copy.iter().find(|other| other.table == sum.table) {
            Some(other) if other == sum => {}
            Some(other) if other.rows == sum.rows => {
                found.push(format!("{}: {} rows with other contents", sum.table, sum.rows));
            }
            Some(other) => {
                found.push(format!("{}: {} rows instead of {}", sum.table, other.rows, sum.rows));
            }
            None => found.push(format!("{}: the table is missing", sum.table)),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(rows: &[&[Value]]) -> TableSum {
        let mut summing = Summing::default();
        rows.iter().for_each(|row| summing.add(row));
        summing.end("t")
    }

    fn text(text: &str) -> Value {
        Value::Text(Some(text.to_owned()))
    }

    #[test]
    fn different_rows_have_different_sums() {
        let number = |n| Value::Number(Some(n));
        let all = [
            sum(&[]),
            sum(&[&[text("ab"), text("c")]]),
            sum(&[&[text("a"), text("bc")]]),
            sum(&[&[text("a")], &[text("bc")]]),
            sum(&[&[text("")]]),
            sum(&[&[Value::Text(None)]]),
            sum(&[&[Value::Bytes(Vec::new())]]),
            sum(&[&[number(0)]]),
            sum(&[&[number(-1)]]),
            sum(&[&[Value::Truth(false)]]),
            sum(&[&[Value::Truth(true)]]),
            sum(&[&[number(1)], &[number(2)]]),
            sum(&[&[number(2)], &[number(1)]]),
        ];
        for (at, one) in all.iter().enumerate() {
            for (other_at, other) in all.iter().enumerate() {
                assert_eq!(one == other, at == other_at, "{at} {other_at}");
            }
        }
    }

    #[test]
    fn differences_are_named() {
        let one = || vec![sum(&[&[text("a")]])];
        assert_eq!(differences(&one(), &one()), [""; 0]);
        assert_eq!(differences(&one(), &[sum(&[])]), ["t: 0 rows instead of 1"]);
        assert_eq!(differences(&one(), &[sum(&[&[text("b")]])]), ["t: 1 rows with other contents"]);
        assert_eq!(differences(&one(), &[]), ["t: the table is missing"]);
    }
}
