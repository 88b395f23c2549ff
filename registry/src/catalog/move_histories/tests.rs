//! Tests the move with a catalogue like those of version 0.8.

use std::path::Path;
use std::sync::Arc;

use deploy_store::Meter;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};
use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use crate::catalog::database::{Database, file_pool};
use crate::catalog::tx::query_as;
use crate::catalog::{Catalog, Change, migrations};

const FIRST: i64 = 1_600_000_000_000_000_000;

/// Makes a database with the tables of step 6. Configuration `p` has 300 states, and its last state
/// is a rollback to the first state. Configuration `q` has two states, and its first state was
/// imported without its files.
async fn earlier(dir: &Path) {
    let options =
        SqliteConnectOptions::new().filename(dir.join("catalogue.db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    let mut steps = migrations::migrator();
    steps.migrations = steps.iter().filter(|step| step.version <= 6).cloned().collect();
    steps.run(&pool).await.unwrap();
    let digest = |n: i64| deploy_store::Digest::of(n.to_string().as_bytes()).to_string();
    let mut statements = vec!["INSERT INTO components (name) VALUES ('code')".to_owned()];
    for n in 1..=300 {
        let (digest, time) = (digest(n), FIRST + n);
        statements.push(format!(
            "INSERT INTO versions (component, name, digest, created, number) \
             VALUES ('code', 'v{n}', '{digest}', {time}, {n})"
        ));
        statements.push(format!(
            "INSERT INTO blobs (digest, bytes, state, since) \
             VALUES ('{digest}', 1, 'live', {time})"
        ));
    }
    statements.push("UPDATE counters SET value = 300 WHERE name = 'version'".to_owned());
    statements.push("INSERT INTO configurations VALUES ('p', 300), ('q', 2)".to_owned());
    for (name, last) in [("p", 300), ("q", 2)] {
        for n in 1..=last {
            let version = if n == 300 { 1 } else { n };
            let (digest, time) = (digest(version), FIRST + n);
            let (lost, back_to) = (name == "q" && n == 1, if n == 300 { "1" } else { "NULL" });
            statements.push(format!(
                "INSERT INTO states VALUES \
                 ('{name}', {n}, '{digest}', {time}, 'who {n}', 'did {n}', {lost}, {back_to})"
            ));
            statements.push(format!(
                "INSERT INTO state_layers VALUES \
                 ('{name}', {n}, 0, 'code', 'v{version}', '{digest}', {time})"
            ));
        }
    }
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&pool).await.unwrap();
    }
    pool.close().await;
}

/// Checks that callers see the same catalogue as before the move.
async fn is_as_it_was(catalog: &Catalog) {
    assert_eq!(catalog.check().await.unwrap(), [""; 0]);
    assert_eq!(catalog.check_kept().await.unwrap(), [""; 0]);
    assert_eq!(catalog.counts().await.unwrap().states, 302);
    let (p, q) = ("p".parse().unwrap(), "q".parse().unwrap());
    let states = catalog.history(&p, None, u64::MAX).await.unwrap();
    assert_eq!(states.len(), 300);
    assert_eq!(
        (states[1].number, &*states[1].who, &*states[1].command),
        (299, "who 299", "did 299")
    );
    assert!(states[0].current && states[0].back_to == Some(1));
    assert_eq!(catalog.state(&p, 7).await.unwrap().layers()[0].version.as_str(), "v7");
    assert!(catalog.history(&q, None, 9).await.unwrap()[1].lost);
    // For `p`, the table `uses` has the current state and the two newest states with other trees.
    // For `q`, the table has only the current state.
    let mut uses: Vec<(i64, String)> = query_as("SELECT number, version FROM uses")
        .fetch_all(&mut catalog.read_tx().await.unwrap())
        .await
        .unwrap();
    uses.sort();
    let row = |number: i64, version: &str| (number, version.to_owned());
    assert_eq!(uses, [row(2, "v2"), row(298, "v298"), row(299, "v299"), row(300, "v1")]);
}

#[tokio::test]
async fn catalogue_of_an_earlier_version_is_moved() {
    let dir = tempfile::tempdir().unwrap();
    earlier(dir.path()).await;
    let catalog = Catalog::open(dir.path(), 3, &Meter::default()).await.unwrap();
    is_as_it_was(&catalog).await;
    let change = Change {
        user: String::new(),
        key: String::new(),
        address: String::new(),
        command: String::new(),
        now: jiff::Timestamp::now(),
        overrides: false,
        rolling: deploy_wire::command::Rolling::default(),
    };
    let none = catalog.roll_back(&"p".parse().unwrap(), None, &change).await;
    assert!(
        none.unwrap_err().to_string().contains("no earlier state"),
        "the rollback failed for another reason"
    );
    catalog.close().await;
}

/// The registry ends after it has moved one configuration, and before it has moved the other.
#[tokio::test]
async fn interrupted_move_continues() {
    let dir = tempfile::tempdir().unwrap();
    earlier(dir.path()).await;
    let url = format!("sqlite://{}", dir.path().join("catalogue.db").display());
    let writer = file_pool(1).connect(&url).await.unwrap();
    migrations::migrator().run(&writer).await.unwrap();
    let (readers, scanners) = (writer.clone(), writer.clone());
    let catalog = Catalog {
        sharing: None,
        database: Database::Sqlite { writer, readers, scanners },
        own: String::new(),
        documents: Arc::default(),
        changes: Arc::default(),
        keep_states: 3,
        has_objects: false,
    };
    assert_eq!(catalog.move_history("p", 1).await.unwrap(), 300);
    catalog.close().await;
    let catalog = Catalog::open(dir.path(), 3, &Meter::default()).await.unwrap();
    is_as_it_was(&catalog).await;
    catalog.close().await;
    let mut database = SqliteConnection::connect(&url).await.unwrap();
    let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE name LIKE 'old%'")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(left, 0);
}
