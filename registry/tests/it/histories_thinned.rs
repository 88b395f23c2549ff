//! Tests the removal of histories of deleted configurations, and of states and audit entries that
//! are too old for `-keep-history`.

use std::time::Duration;

use crate::bench::{Bench, archive, change, upload};
use deploy_registry::catalog::Thinned;
use deploy_registry::registry::Settings;
use deploy_registry::verbs::verify_blobs::Scope;
use deploy_store::{ComponentName, ConfigurationName, VersionName};

fn names() -> (ComponentName, ConfigurationName) {
    ("code".parse().unwrap(), "p".parse().unwrap())
}

/// Gives configuration `p` the versions v1 to v`count` of `code`, one after another.
async fn deploy(bench: &Bench, count: u64) {
    let registry = bench.registry();
    let (component, name) = names();
    for n in 1..=count {
        let version: VersionName = format!("v{n}").parse().unwrap();
        let digest = upload(registry, &archive(version.as_str())).await;
        registry.add_version(&component, &version, digest, &change()).await.unwrap();
        let layers = [(component.clone(), version)];
        registry.catalog.add_configuration(&name, &layers, true, &change()).await.unwrap();
    }
}

async fn numbers(bench: &Bench) -> Vec<u64> {
    let states = bench.registry().catalog.history(&names().1, None, u64::MAX).await.unwrap();
    states.iter().map(|state| state.number).collect()
}

#[tokio::test]
async fn old_states_are_removed_and_rollback_targets_stay() {
    let settings = Settings {
        keep_history: Some(Duration::ZERO),
        keep_states: 3,
        max_versions: 0,
        ..Settings::default()
    };
    let bench = Bench::new(settings).await;
    deploy(&bench, 8).await;
    let (_, name) = names();
    let registry = bench.registry();
    // State 9 restores state 7. So the newest three states with different trees are 9, 8 and 6.
    // State 7 stays, too, because it is newer than state 6.
    registry.catalog.roll_back(&name, None, &change()).await.unwrap();
    let planned = registry.would_collect().await.unwrap();
    assert_eq!(planned.thinned, Thinned { states: 5, audit: 17 });
    let done = registry.collect(false).await.unwrap();
    assert_eq!(done, planned);
    assert_eq!(numbers(&bench).await, [9, 8, 7, 6]);
    assert_eq!(registry.stat().await.unwrap().counts.states, 4);
    // The audit trail says how many states and entries were removed.
    let trail = registry.catalog.audit(None, None, 9).await.unwrap();
    assert_eq!(trail.len(), 1);
    let told = &trail[0].change.command;
    assert!(told.contains("5 states and 17 entries of the audit trail removed"), "{told}");
    // The next rollback restores an older state, and skips the tree that the first rollback
    // replaced.
    let back = registry.catalog.roll_back(&name, None, &change()).await.unwrap();
    assert_eq!(back.number, 6);
    assert!(registry.verify(Scope::default()).await.unwrap().findings.is_empty());
}

#[tokio::test]
async fn all_history_is_kept_without_keep_history() {
    let bench = Bench::new(Settings { keep_states: 1, ..Settings::default() }).await;
    deploy(&bench, 4).await;
    let done = bench.registry().collect(false).await.unwrap();
    assert_eq!(done.thinned, Thinned::default());
    assert_eq!(numbers(&bench).await, [4, 3, 2, 1]);
    assert_eq!(bench.registry().catalog.audit(None, None, 99).await.unwrap().len(), 8);
}

/// A new configuration inherits nothing from a deleted configuration of the same name, neither
/// before gc nor after gc.
#[tokio::test]
async fn new_configuration_with_a_deleted_name_has_no_history() {
    let mut bench = Bench::new(Settings::default()).await;
    deploy(&bench, 700).await;
    let (component, name) = names();
    let catalog = &bench.registry().catalog;
    catalog.delete_configuration(&name, &change()).await.unwrap();
    assert_eq!(bench.registry().stat().await.unwrap().counts.states, 0);
    assert!(catalog.history(&name, None, 9).await.is_err());
    let layers = [(component.clone(), "v3".parse().unwrap())];
    catalog.add_configuration(&name, &layers, false, &change()).await.unwrap();
    assert_eq!(numbers(&bench).await, [1]);
    assert!(catalog.roll_back(&name, None, &change()).await.is_err());
    bench.registry().collect(false).await.unwrap();
    bench.reopen().await;
    assert_eq!(numbers(&bench).await, [1]);
    assert_eq!(bench.registry().stat().await.unwrap().counts.states, 1);
    assert!(bench.registry().verify(Scope::default()).await.unwrap().findings.is_empty());
}

#[tokio::test]
async fn collection_is_skipped_if_nothing_has_changed() {
    let bench = Bench::new(Settings { max_versions: 2, ..Settings::default() }).await;
    deploy(&bench, 9).await;
    let registry = bench.registry();
    let (component, _) = names();
    let done = registry.collect_changes().await.unwrap().unwrap();
    assert_eq!(done.versions.len(), 4);
    // The files of the deleted versions are still young, so a later collection has something to do.
    assert!(registry.collect_changes().await.unwrap().is_some());
    let bench = Bench::new(Settings { grace: Duration::ZERO, ..Settings::default() }).await;
    deploy(&bench, 3).await;
    let registry = bench.registry();
    assert!(registry.collect_changes().await.unwrap().is_some());
    assert!(registry.collect_changes().await.unwrap().is_none());
    registry.catalog.pin(&component, &"v1".parse().unwrap(), "why", &change()).await.unwrap();
    assert!(registry.collect_changes().await.unwrap().is_some());
    assert!(registry.collect_changes().await.unwrap().is_none());
}
