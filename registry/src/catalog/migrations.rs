//! The migration steps, which bring the tables of a database to the form that this version expects.
//!
//! The macro `sqlx::migrate!` could list the steps. But with this macro, cargo builds sqlx and
//! `SQLite` a second time, which takes a tenth of the time of a first build.

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

/// Number, name and statements of each step. A database records the number, name and checksum of
/// every step that was applied to the database. So a published step never changes.
const STEPS: [(i64, &str, &str); 10] = [
    (1, "catalogue", include_str!("../../migrations/0001_catalogue.sql")),
    (2, "keeping", include_str!("../../migrations/0002_keeping.sql")),
    (4, "lost", include_str!("../../migrations/0004_lost.sql")),
    (5, "layers", include_str!("../../migrations/0005_layers.sql")),
    (6, "rollbacks", include_str!("../../migrations/0006_rollbacks.sql")),
    (7, "histories", include_str!("../../migrations/0007_histories.sql")),
    (8, "fleet", include_str!("../../migrations/0008_fleet.sql")),
    (9, "rollouts", include_str!("../../migrations/0009_rollouts.sql")),
    (10, "objects", include_str!("../../migrations/0010_objects.sql")),
    (11, "registries", include_str!("../../migrations/0011_registries.sql")),
];

/// The number of the step that renames the tables of an earlier version. After this step, the
/// registry moves the rows to the new tables.
const HISTORIES: i64 = 7;

/// Defines the function `instr` of `SQLite` on a server. The function returns the place of a text
/// in another text.
const INSTR: &str = "\nCREATE FUNCTION instr(text, text) RETURNS BIGINT LANGUAGE SQL IMMUTABLE \
     AS 'SELECT CAST(strpos($1, $2) AS BIGINT)';\n";

/// The migrator for a database file. It brings a database of any earlier version to this version,
/// and refuses a database of a later version.
pub fn migrator() -> Migrator {
    let steps = STEPS.map(|(number, name, statements)| {
        let statements = statements.into_sql_str();
        Migration::new(number, name.into(), MigrationType::Simple, statements, false)
    });
    Migrator::with_migrations(steps.into())
}

/// The migrator for a database server. The steps are the same, in the SQL of the server. Texts are
/// sorted by their bytes, as in `SQLite`.
pub fn server_migrator() -> Migrator {
    let steps = STEPS.map(|(number, name, statements)| {
        let mut statements = statements
            .replace("TEXT", "TEXT COLLATE \"C\"")
            .replace("BLOB", "BYTEA")
            .replace(" WITHOUT ROWID", "");
        if number == 1 {
            statements.push_str(INSTR);
        }
        if number == HISTORIES {
            // No earlier version had a catalogue on a server, so the old tables are empty.
            statements.push_str("\nDROP TABLE old_state_layers;\nDROP TABLE old_states;\n");
        }
        let statements = AssertSqlSafe(statements).into_sql_str();
        Migration::new(number, name.into(), MigrationType::Simple, statements, false)
    });
    Migrator::with_migrations(steps.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Databases in use have recorded these checksums.
    #[test]
    fn published_steps_are_unchanged() {
        let checksums = [
            (
                1,
                "ba1d904505f1c120b6e44a973fe1fcc77ebbdce05c401d26\
              35af1613dc1c792fe569c75c340ec986ba57c6936625cec9",
            ),
            (
                2,
                "f3da92070f02cee05b73daa02202cd8b856fb7b4dfd3dd81\
              5da20a10d7743802ccd2d53633b03984312b4d9b1eb3d91b",
            ),
            (
                4,
                "103b04869ba1399a4b63d36330b3c1ae84821279406fb017\
              63e514040b14d287ecb30b7f73395f66fed6d1c3294f47a0",
            ),
            (
                5,
                "9754523e54dc6521f4f2370fee05424473a7cfbd6a239844\
              a70d5e56d2fa2e340b4aaadfed7eaa0a39c1de1abcfd191a",
            ),
            (
                6,
                "b384394735e8395f252453434b9efbd26b4c1ed57120fe8f\
              ba7361e8b16d7b143a7b3a1b1e9e8039a15045eb44a18450",
            ),
            (
                7,
                "8741f12c0cd431868ac7f0933493f36fa1ce2a7fa4cff1fb\
              35a9d2abd7efc17c947246cf6529bf116b30ac640e5bd534",
            ),
            (
                8,
                "e8656985140dd2fcc02da279c040d1a6fda234655002bdc8\
                 d9adb6b4164e2b177e629af6a6ce1da59dd3836b765f6f9b",
            ),
            (
                9,
                "72ef7d0dbd6ee163e0a95ad050027db68538e5a77bbd9749\
                 6b45c148eadbb2c761f47c5082e43e2525a4022ff379d2b2",
            ),
            (
                10,
                "183207645e3903d9df66fd370756d101cce5959cb9de3f95\
                 a3092255a018ea40675dc6d5f6fa7bb1b0e31e93abe5a43f",
            ),
            (
                11,
                "547ce9e045f079ac08bdb5c77b9563485c98d38eeb9565e0\
                 cc2d479014a693d9d6071c02db47aba62277618245a074c2",
            ),
        ];
        let steps: Vec<_> =
            migrator().iter().map(|step| (step.version, hex(&step.checksum))).collect();
        let expected: Vec<_> =
            checksums.map(|(number, hex): (i64, &str)| (number, hex.to_owned())).into();
        assert_eq!(steps, expected);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    }

    /// A step that is missing from the list would never run.
    #[test]
    fn every_migration_file_is_listed() {
        let dir = std::path::Path::new("migrations");
        let mut files: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed = STEPS.map(|(number, name, _)| format!("{number:04}_{name}.sql"));
        assert_eq!(files, listed);
    }
}
