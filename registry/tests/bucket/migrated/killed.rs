//! Kills migrations at random points. After each kill, exactly one of the two places can be used, or
//! the migration has to be run again. After the last run, everything is in the new place.

#![allow(clippy::print_stdout, reason = "the test prints the seed")]

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use deploy_registry::catalog::{Catalog, differences};
use deploy_registry::verbs::verify_blobs::Scope;
use deploy_store::Meter;
use serde_json::json;

use super::{Move, ok, refusal, start, stop};

/// The blobs of each registry.
const BLOBS: usize = 150;
/// The time in which the first kill comes, in milliseconds. Each further run gets more time.
const FIRST: u64 = 1500;

/// A generator of random numbers (xorshift64*).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

/// The seeds of a test. `DEPLOY_TEST_SEEDS` sets their number.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let wanted = std::env::var("DEPLOY_TEST_SEEDS").ok().and_then(|text| text.parse().ok());
    1..=wanted.unwrap_or(count)
}

/// Runs a command until it ends or `time` is over, and then kills it. Returns whether it succeeded.
fn run_for(mut command: Command, time: Duration) -> bool {
    let mut child: Child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + time;
    while Instant::now() < end {
        if child.try_wait().unwrap().is_some() {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", crate::rig::both(&output));
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

/// The sums of the tables of a catalogue that no registry uses.
async fn sums(moving: &Move, url: Option<&str>) -> Vec<deploy_registry::catalog::TableSum> {
    let meter = Meter::default();
    let catalog = Catalog::open_to_migrate(&moving.dir(), url, &meter).await.unwrap();
    let sums = catalog.sum_tables(&meter).await.unwrap();
    catalog.close().await;
    sums
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_migration_to_a_server_continues_and_loses_nothing() {
    for seed in seeds(5) {
        println!("seed {seed}");
        let (mut dice, mut limit, mut kills) = (Dice(seed), FIRST, 0);
        let Some(moving) = Move::new(BLOBS).await else { return };
        let at_server = || moving.at_server(&moving.dir());
        let mut expected = sums(&moving, None).await;
        while !run_for(moving.forward(), Duration::from_millis(dice.throw(limit))) {
            (limit, kills) = (limit + 700, kills + 1);
            if moving.dir().join("moved.json").exists() {
                break;
            }
            let refused = start(at_server()).await.unwrap_err();
            assert!(
                refused.contains("has the catalogue") || refused.contains("has blobs"),
                "{refused}"
            );
            // The old place stays in use: what changes there is part of the next run.
            let registry = start(&*moving.dir()).await.unwrap();
            registry.catalog.set_note("gc", &kills).await.unwrap();
            stop(registry).await;
            expected = sums(&moving, None).await;
        }
        println!("seed {seed}: {kills} kills");
        start(&*moving.dir()).await.unwrap_err();
        let registry = start(at_server()).await.unwrap();
        let verified = registry.verify(Scope::default()).await.unwrap();
        assert!(verified.findings.is_empty(), "{verified:?}");
        assert_eq!(verified.blobs, BLOBS as u64 + 2);
        assert_eq!(registry.blobs().staged().await.unwrap().files, 1);
        stop(registry).await;
        // Only the notes about starts and `verify` differ.
        let found = differences(&expected, &sums(&moving, Some(&moving.catalogue)).await);
        assert!(found.iter().all(|line| line.starts_with("notes: ")), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_migration_to_a_directory_continues_and_loses_nothing() {
    for seed in seeds(2) {
        println!("seed {seed}");
        let (mut dice, mut limit) = (Dice(seed + 100), FIRST);
        let Some(moving) = Move::new(BLOBS).await else { return };
        ok(moving.forward());
        let back = moving.rig.path("back");
        let expected = sums(&moving, Some(&moving.catalogue)).await;
        while !run_for(moving.back("back"), Duration::from_millis(dice.throw(limit))) {
            limit += 700;
            let refused = start(&*back).await;
            if let Ok(registry) = refused {
                // The run was killed before it made its first note: the directory is a new registry.
                assert!(registry.catalog.is_unused().await.unwrap());
                stop(registry).await;
                std::fs::remove_dir_all(&back).unwrap();
                continue;
            }
            let refused = refused.unwrap_err();
            assert!(refused.contains("a migration that is not complete"), "{refused}");
        }
        let refused = start(moving.at_server(&moving.dir())).await.unwrap_err();
        assert!(refused.contains("has moved to the directory"), "{refused}");
        let meter = Meter::default();
        let copy = Catalog::open_to_migrate(&back, None, &meter).await.unwrap();
        let found = differences(&expected, &copy.sum_tables(&meter).await.unwrap());
        assert_eq!(found, [""; 0]);
        copy.close().await;
        let registry = start(&*back).await.unwrap();
        let verified = registry.verify(Scope::default()).await.unwrap();
        assert!(verified.findings.is_empty(), "{verified:?}");
        assert_eq!(verified.blobs, BLOBS as u64 + 2);
        assert_eq!(registry.blobs().staged().await.unwrap().files, 1);
        stop(registry).await;
    }
}

/// A crash between the record of the move and the last steps: the new place works, and a further run
/// does the last steps, too.
#[tokio::test(flavor = "multi_thread")]
async fn crash_right_after_the_move_needs_only_the_last_steps() {
    let Some(moving) = Move::new(20).await else { return };
    ok(moving.forward());
    let moved = std::fs::read_to_string(moving.dir().join("moved.json")).unwrap();
    let id = serde_json::from_str::<serde_json::Value>(&moved).unwrap()["id"].clone();
    let undo = async || {
        let meter = Meter::default();
        let url = Some(&*moving.catalogue);
        let catalog = Catalog::open_to_migrate(&moving.dir(), url, &meter).await.unwrap();
        catalog.delete_note("catalogue").await.unwrap();
        catalog.set_note("migration", &json!({ "id": id, "source": "s" })).await.unwrap();
        catalog.close().await;
        std::fs::remove_file(moving.dir().join("catalogue.id")).unwrap();
    };
    undo().await;
    let other = moving.rig.path("other");
    let refused = start(moving.at_server(&other)).await.unwrap_err();
    assert!(refused.contains("a migration that is not complete"), "{refused}");
    let registry = start(moving.at_server(&moving.dir())).await.unwrap();
    assert!(!registry.catalog.has_note("migration").await.unwrap());
    stop(registry).await;
    undo().await;
    let report = ok(moving.forward());
    assert!(report.contains("an earlier run has copied them"), "{report}");
    stop(start(moving.at_server(&moving.dir())).await.unwrap()).await;
    let text = refusal(&moving.forward().output().unwrap(), 6);
    assert!(text.contains("the registry has already moved to postgres://"), "{text}");
}
