//! Tests a catalogue that contradicts itself, clocks that jump, and disks that are full or
//! read-only.

#![allow(clippy::print_stdout, reason = "the test prints skipped parts")]

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::bench::Bench;
use crate::rig::{Rig, both, names};
use deploy_registry::registry::Settings;
use sqlx::Connection as _;

fn settings() -> Settings {
    Settings { grace: Duration::ZERO, max_versions: 1, ..Settings::default() }
}

/// Changes the database with statements that no verb would run.
async fn tamper(rig: &Rig, statements: Vec<String>) {
    if let Some(url) = deploy_testing::catalogue(&rig.path("reg")) {
        let mut database = sqlx::PgConnection::connect(&url).await.unwrap();
        let unchecked = "SET session_replication_role = replica".to_owned();
        for statement in [unchecked].into_iter().chain(statements) {
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut database).await.unwrap();
        }
        return database.close().await.unwrap();
    }
    let url = format!("sqlite://{}", rig.path("reg/catalogue.db").display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
    for statement in ["PRAGMA foreign_keys = OFF".to_owned()].into_iter().chain(statements) {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&mut database).await.unwrap();
    }
    database.close().await.unwrap();
}

#[tokio::test]
async fn inconsistent_catalogue_is_reported_and_nothing_is_removed() {
    for (statement, told) in [
        ("DELETE FROM state_layers WHERE number = 2", "a state has no layers"),
        ("DELETE FROM states WHERE number = 2", "its current state is missing"),
        ("DELETE FROM components", "refers to a missing row of components"),
        ("UPDATE versions SET digest = 'x' WHERE name = 'v2'", "x"),
    ] {
        let mut rig = Rig::start_with(&["-grace", "0s", "-maxver", "1", "-verify-rate", "0"]);
        let is_file = deploy_testing::catalogue(&rig.path("reg")).is_none();
        if told.contains("missing row") && !is_file {
            // A server refuses such a change, so the registry does not look for it.
            continue;
        }
        for version in ["v1", "v2", "v3"] {
            let digest = rig.archive(version, version.as_bytes());
            rig.put(version);
            rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
        }
        rig.ok("addconf -name p -layer code:v1");
        rig.ok("changeconf -name p -component code -version v2");
        rig.stop("-TERM");
        tamper(&rig, vec![statement.to_owned()]).await;
        rig.run();
        for verb in ["verify", "gc"] {
            let output = rig.ssh("op", "me", &[verb]);
            assert_eq!(output.status.code(), Some(8), "{statement}, {verb}: {}", both(&output));
            let text = both(&output);
            let refused = verb == "gc" && text.contains("nothing is removed");
            assert!(refused || text.contains(told), "{statement}, {verb}: {text}");
        }
        assert_eq!(names(&rig.path("reg/files")).len(), 3, "{statement}");
    }
}

#[test]
fn damaged_catalogue_is_refused_and_not_changed() {
    let mut rig = Rig::start();
    let digest = rig.archive("v1", b"v1");
    rig.put("v1");
    rig.ok(&format!("addver -name code -version v1 -hash {digest}"));
    rig.stop("-TERM");
    let path = rig.path("reg/catalogue.db");
    let whole = fs::read(&path).unwrap();
    assert!(!rig.path("reg/catalogue.db-wal").exists(), "the catalogue was not closed");
    let no_database = vec![b'x'; whole.len()];
    let torn = [&whole[..4096], &vec![0xa5; whole.len() - 4096][..]].concat();
    for damaged in [no_database, torn] {
        fs::write(&path, &damaged).unwrap();
        let flags = ["-dir", "reg", "-opauth", "op.keys", "-srvauth", "srv.keys"];
        let refused = rig.refused(&[&["-addr", "127.0.0.1:0"], &flags[..]].concat());
        assert_eq!(refused.status.code(), Some(8), "{}", both(&refused));
        assert!(both(&refused).contains("the file is damaged"), "{}", both(&refused));
        assert!(fs::read(&path).unwrap() == damaged, "the damaged catalogue was changed");
    }
    fs::write(&path, &whole).unwrap();
    rig.run();
    assert!(rig.ok("showcomp -name code").contains("v1"));
}

#[tokio::test]
async fn rollback_skips_states_without_their_files() {
    let mut rig = Rig::start();
    for version in ["v1", "v2", "v3"] {
        let digest = rig.archive(version, version.as_bytes());
        rig.put(version);
        rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
    }
    rig.ok("addconf -name p -layer code:v1");
    rig.ok("changeconf -name p -component code -version v2");
    rig.ok("changeconf -name p -component code -version v3");
    rig.stop("-TERM");
    // An import from a Go registry marks a state as lost if a file of the state is missing.
    let lost = "UPDATE states SET lost = TRUE WHERE number = 2";
    let gone = "DELETE FROM blobs WHERE digest = (SELECT digest FROM versions WHERE name = 'v2')";
    std::fs::remove_file(rig.path("reg/files").join(rig.sha256("v2"))).unwrap();
    tamper(&rig, [lost, gone].map(str::to_owned).to_vec()).await;
    rig.run();
    let refused = rig.ssh("op", "me", &["rollback -name p -to 2"]);
    assert_eq!(refused.status.code(), Some(6), "{}", both(&refused));
    assert!(both(&refused).contains("upload the same bytes again"), "{}", both(&refused));
    rig.ok("rollback -name p");
    assert!(rig.ok("showconf -name p").contains("v1"));
}

#[tokio::test]
async fn long_work_is_not_cut_off_by_the_login_deadline() {
    let rig = Rig::start_with(&["-deadline", "1s"]);
    let url = format!("sqlite://{}", rig.path("reg/catalogue.db").display());
    let mut database = sqlx::SqliteConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut database).await.unwrap();
    let holding = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(7)).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut database).await.unwrap();
    });
    let answer =
        tokio::task::spawn_blocking(move || rig.ssh("op", "me", &["delconf -name p -force"]));
    let answer = answer.await.unwrap();
    holding.await.unwrap();
    assert_eq!(answer.status.code(), Some(5), "{}", both(&answer));
}

#[tokio::test]
async fn clock_set_back_loses_nothing_and_keeps_order() {
    let mut rig = Rig::start_with(&["-maxver", "1", "-verify-rate", "0"]);
    let digests = ["v1", "v2"].map(|version| {
        let digest = rig.archive(version, version.as_bytes());
        rig.put(version);
        rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
        digest
    });
    rig.ok("addconf -name p -layer code:v1");
    rig.stop("-TERM");
    // Moves the times of all earlier changes into the far future.
    let far = "9000000000000000000";
    let later = |table: &str, column: &str| format!("UPDATE {table} SET {column} = {far}");
    let statements =
        [later("versions", "created"), later("states", "modified"), later("blobs", "since")];
    tamper(&rig, statements.to_vec()).await;
    let future = SystemTime::now() + Duration::from_secs(10 * 365 * 86400);
    for name in names(&rig.path("reg/files")) {
        let path = rig.path("reg/files").join(name);
        File::options().append(true).open(path).unwrap().set_modified(future).unwrap();
    }
    rig.run();
    let digest = rig.archive("v3", b"v3");
    rig.put("v3");
    rig.ok(&format!("addver -name code -version v3 -hash {digest}"));
    rig.ok("bumpconf -name p -component code");
    assert!(rig.ok("showconf -name p").contains("v3"));
    // gc deletes the version v2. The time of its file lies in the future, so the file stays.
    let gone = rig.ok("gc");
    assert!(gone.contains("code v2") && gone.ends_with("0 bytes freed\n"), "{gone}");
    rig.ok("rollback -name p");
    assert!(rig.ok("showconf -name p").contains("v1"));
    for digest in digests {
        assert!(rig.path("reg/files").join(digest).exists());
    }
    assert!(rig.ok("verify").ends_with(": 0 damaged\n"));
}

#[test]
fn gc_frees_space_on_a_full_disk() {
    let mut rig = Rig::idle();
    let Some(dir) = rig.on_small_disk() else { return };
    rig.flags = ["-min-free", "0", "-grace", "0s", "-maxver", "1"].map(str::to_owned).to_vec();
    rig.run();
    for version in ["v1", "v2"] {
        let noise: Vec<u8> =
            (0..400_000_u32).map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes()[0]).collect();
        let digest = rig.archive(version, &[version.as_bytes(), &noise].concat());
        rig.put(version);
        rig.ok(&format!("addver -name code -version {version} -hash {digest}"));
    }
    let mut ballast = File::create(dir.path().join("ballast")).unwrap();
    while ballast.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    let refused = rig.ssh("op", "me", &["addconf -name p -layer code:v2"]);
    assert!(both(&refused).contains("disk is full"), "{}", both(&refused));
    // The registry must also start with a full disk, although a start writes files.
    assert!(rig.stop("-TERM").success());
    while ballast.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    rig.run();
    let freed = rig.ok("gc");
    assert!(freed.contains("code v1") && !freed.contains("\n0 bytes"), "{freed}");
    rig.ok("addconf -name p -layer code:v2");
    assert_eq!(names(&rig.path("reg/files")).len(), 1);
}

#[test]
fn read_only_directory_is_reported() {
    let mut rig = Rig::start();
    rig.stop("-TERM");
    let reg = rig.path("reg");
    let mount = |options: &[&str]| Command::new("mount").args(options).arg(&reg).output().unwrap();
    if !mount(&["--bind", reg.to_str().unwrap()]).status.success() {
        assert!(std::env::var_os("CI").is_none(), "cannot mount");
        println!("NOT TESTED: a read-only directory: cannot mount");
        return;
    }
    mount(&["-o", "remount,bind,ro"]);
    let refused = rig.refused(&[
        "-addr",
        "127.0.0.1:0",
        "-dir",
        "reg",
        "-opauth",
        "op.keys",
        "-srvauth",
        "srv.keys",
    ]);
    let unmounted = Command::new("umount").arg("-l").arg(&reg).status().unwrap();
    assert!(unmounted.success());
    assert_eq!(refused.status.code(), Some(1), "{}", both(&refused));
    assert!(both(&refused).to_lowercase().contains("read-only"), "{}", both(&refused));
    rig.run();
    rig.ok("components");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_gc_runs_remove_each_file_once() {
    let bench = Bench::new(settings()).await;
    for n in 0..20 {
        bench.put("code", &format!("v{n}"), &n.to_string()).await;
    }
    let registry = bench.registry();
    let (one, other) = tokio::join!(registry.collect(false), registry.collect(false));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert_eq!(
        (one.blobs.len() + other.blobs.len(), one.versions.len() + other.versions.len()),
        (19, 19)
    );
    assert_eq!(registry.blobs().list().await.unwrap().len(), 1);
    assert!(fs::read_dir(bench.path("uploads")).unwrap().next().is_none());
}
