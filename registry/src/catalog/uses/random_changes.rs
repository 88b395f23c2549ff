//! Makes random changes to a catalogue. After each change, the test compares the table `uses`, and
//! results that depend on this table, with a reference computation. The reference computation reads
//! every state of every configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use deploy_store::Digest;
use jiff::Timestamp;
use proptest::prelude::*;

use crate::catalog::tests::open_keeping;
use crate::catalog::tx::{query, query_as, query_scalar};
use crate::catalog::{Catalog, Change, Need};

const KEEP_STATES: usize = 2;
const VERSIONS: u8 = 5;
const KEEP_VERSIONS: usize = 2;
const NAMES: [&str; 3] = ["p", "q", "r"];
const COMPONENTS: [&str; 3] = ["code", "config", "data"];

#[derive(Debug, Clone)]
enum Step {
    AddVersion(usize, u8),
    Configure(usize, Vec<(usize, u8)>),
    Change(usize, usize, u8),
    Bump(usize, usize),
    RollBack(usize, Option<u64>),
    DeleteConfiguration(usize),
    DeleteVersion(usize, u8, bool),
    Pin(usize, u8),
    Unpin(usize, u8),
    Lose(usize, u64),
    Collect,
    Thin,
    Reopen(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (name, component, version) = (0..NAMES.len(), 0..COMPONENTS.len(), 0..VERSIONS);
    let pair = (component.clone(), version.clone());
    let step = prop_oneof![
        3 => pair.clone().prop_map(|(c, v)| Step::AddVersion(c, v)),
        2 => (name.clone(), proptest::collection::vec(pair.clone(), 1..4))
            .prop_map(|(n, layers)| Step::Configure(n, layers)),
        12 => (name.clone(), pair.clone()).prop_map(|(n, (c, v))| Step::Change(n, c, v)),
        2 => (name.clone(), component).prop_map(|(n, c)| Step::Bump(n, c)),
        3 => (name.clone(), proptest::option::of(1..9_u64)).prop_map(|(n, to)| Step::RollBack(n, to)),
        1 => name.clone().prop_map(Step::DeleteConfiguration),
        2 => (pair.clone(), any::<bool>()).prop_map(|((c, v), f)| Step::DeleteVersion(c, v, f)),
        1 => pair.clone().prop_map(|(c, v)| Step::Pin(c, v)),
        1 => pair.prop_map(|(c, v)| Step::Unpin(c, v)),
        1 => (name, 1..9_u64).prop_map(|(n, number)| Step::Lose(n, number)),
        2 => Just(Step::Collect),
        1 => Just(Step::Thin),
        1 => (1..5_usize).prop_map(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

struct World {
    dir: tempfile::TempDir,
    catalog: Catalog,
    keep: usize,
    now: Timestamp,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open_keeping(dir.path(), KEEP_STATES).await;
        let mut world = Self { dir, catalog, keep: KEEP_STATES, now: Timestamp::UNIX_EPOCH };
        for c in 0..COMPONENTS.len() {
            for v in 0..VERSIONS {
                world.step(&Step::AddVersion(c, v)).await;
            }
        }
        for n in 0..NAMES.len() {
            let layers = (0..COMPONENTS.len()).map(|c| (c, 0)).collect();
            world.step(&Step::Configure(n, layers)).await;
        }
        world
    }

    fn change(&mut self) -> Change {
        self.now = self.now.checked_add(Duration::from_secs(60)).unwrap();
        let text = String::new;
        Change {
            user: text(),
            key: text(),
            address: text(),
            command: text(),
            now: self.now,
            overrides: false,
            rolling: deploy_wire::command::Rolling::default(),
        }
    }

    /// Makes one random change. The verb may refuse the change. The comparison after the step must
    /// succeed in both cases.
    async fn step(&mut self, step: &Step) {
        let change = self.change();
        let catalog = &self.catalog;
        let component = |c: usize| COMPONENTS[c].parse().unwrap();
        let version = |v: u8| format!("v{v}").parse().unwrap();
        let name = |n: usize| NAMES[n].parse().unwrap();
        match step {
            Step::AddVersion(c, v) => {
                // Different versions may have the same blob.
                let digest = Digest::of(format!("{c} {}", v % 3).as_bytes());
                let _ = catalog.add_version(&component(*c), &version(*v), digest, 1, &change).await;
            }
            Step::Configure(n, layers) => {
                let layers: BTreeMap<_, _> = layers.iter().copied().collect();
                let layers: Vec<_> =
                    layers.into_iter().map(|(c, v)| (component(c), version(v))).collect();
                let _ = catalog.add_configuration(&name(*n), &layers, true, &change).await;
            }
            Step::Change(n, c, v) => {
                let changes = [(component(*c), version(*v))];
                let _ = catalog.change_configuration(&name(*n), &changes, None, &change).await;
            }
            Step::Bump(n, c) => {
                let _ =
                    catalog.bump_configuration(&name(*n), &[component(*c)], None, &change).await;
            }
            Step::RollBack(n, to) => {
                let _ = catalog.roll_back(&name(*n), *to, &change).await;
            }
            Step::DeleteConfiguration(n) => {
                let _ = catalog.delete_configuration(&name(*n), &change).await;
            }
            Step::DeleteVersion(c, v, force) => {
                let _ = catalog.delete_version(&component(*c), &version(*v), *force, &change).await;
            }
            Step::Pin(c, v) => {
                let _ = catalog.pin(&component(*c), &version(*v), "why", &change).await;
            }
            Step::Unpin(c, v) => {
                let _ = catalog.unpin(&component(*c), &version(*v), &change).await;
            }
            Step::Lose(n, number) => self.lose(NAMES[*n], *number).await,
            Step::Collect => self.collect().await,
            Step::Thin => self.thin().await,
            Step::Reopen(keep) => {
                self.catalog.close().await;
                self.keep = *keep;
                self.catalog = open_keeping(self.dir.path(), *keep).await;
            }
        }
    }

    /// Marks a state as lost, as an import from a Go registry does if the state's files are
    /// missing.
    async fn lose(&self, name: &str, number: u64) {
        let mut transaction = self.catalog.write_tx().await.unwrap();
        let row: Option<(i64, i64)> =
            query_as("SELECT history, current FROM configurations WHERE name = $1")
                .bind(name)
                .fetch_optional(&mut transaction)
                .await
                .unwrap();
        let Some((history, current)) = row else { return };
        query("UPDATE states SET lost = TRUE WHERE history = $1 AND number = $2")
            .bind(history)
            .bind(number.cast_signed())
            .execute(&mut transaction)
            .await
            .unwrap();
        super::renew(&mut transaction, history, current).await.unwrap();
        transaction.commit().await.unwrap();
    }

    /// Checks that gc deletes exactly the planned versions, and that exactly the planned blobs are
    /// needed afterwards.
    async fn collect(&self) {
        let (planned, left) = self.catalog.old_versions(KEEP_VERSIONS).await.unwrap();
        let mut done = self.catalog.delete_old_versions(KEEP_VERSIONS).await.unwrap();
        done.sort();
        let mut planned = planned;
        planned.sort();
        assert_eq!(planned, done);
        assert_eq!(self.catalog.needs().await.unwrap(), left);
        self.catalog.remove_histories().await.unwrap();
    }

    /// Checks that thinning removes the planned number of rows. Also checks that a rollback would
    /// restore the same state before and after thinning, if this state is a kept state.
    async fn thin(&mut self) {
        let before = self.targets().await;
        let cutoff = self.now.checked_sub(Duration::from_secs(60 * 5)).unwrap();
        let planned = self.catalog.would_thin(cutoff).await.unwrap();
        assert_eq!(self.catalog.thin(cutoff).await.unwrap(), planned);
        for (name, target) in self.targets().await {
            let was = before[&name];
            assert!(target == was || !self.kept(&name).await.contains(&was), "{name}: {was:?}");
        }
    }

    /// For each configuration, the number of the state that a rollback would restore.
    async fn targets(&mut self) -> BTreeMap<String, Option<u64>> {
        let mut targets = BTreeMap::new();
        for name in NAMES {
            let mut transaction = self.catalog.read_tx().await.unwrap();
            let name = name.parse().unwrap();
            let target =
                crate::catalog::earlier_state::find_before(&mut transaction, &name).await.ok();
            targets.insert(name.as_str().to_owned(), target);
        }
        targets
    }

    async fn kept(&self, name: &str) -> BTreeSet<Option<u64>> {
        let kept = self.oracle().await;
        let of = kept.into_iter().filter(|used| used.0 == name);
        of.map(|used| Some(used.1.cast_unsigned())).collect()
    }

    /// Every use by a kept state, computed from all states. A use has the configuration, the
    /// state's number, whether the state is current, the component, the version and the digest.
    async fn oracle(&self) -> BTreeSet<(String, i64, bool, String, String, String)> {
        let mut transaction = self.catalog.read_tx().await.unwrap();
        let rows: Vec<(String, i64, String, i64, bool)> = query_as(
            "SELECT c.name, s.number, s.hash, c.current, s.lost FROM states s \
             JOIN configurations c ON c.history = s.history \
             ORDER BY c.name, s.number DESC",
        )
        .fetch_all(&mut transaction)
        .await
        .unwrap();
        let mut kept = BTreeMap::new();
        let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (configuration, number, hash, current, lost) in rows {
            if lost && number != current {
                continue;
            }
            let hashes = seen.entry(configuration.clone()).or_default();
            let new = hashes.len() < self.keep && hashes.insert(hash);
            if new || number == current {
                kept.insert((configuration, number), number == current);
            }
        }
        let rows: Vec<(String, i64, String, String, String)> = query_as(
            "SELECT c.name, l.number, l.component, l.version, l.digest FROM state_layers l \
             JOIN configurations c ON c.history = l.history",
        )
        .fetch_all(&mut transaction)
        .await
        .unwrap();
        let uses = rows.into_iter().filter_map(|(name, number, component, version, digest)| {
            let current = *kept.get(&(name.clone(), number))?;
            Some((name, number, current, component, version, digest))
        });
        uses.collect()
    }

    async fn is_right(&self) {
        let uses = self.oracle().await;
        let mut transaction = self.catalog.read_tx().await.unwrap();
        let table: Vec<(String, i64, bool, String, String, String)> = query_as(
            "SELECT c.name, u.number, u.number = c.current, u.component, u.version, u.digest \
             FROM uses u JOIN configurations c ON c.history = u.history",
        )
        .fetch_all(&mut transaction)
        .await
        .unwrap();
        let count: i64 =
            query_scalar("SELECT COUNT(*) FROM uses").fetch_one(&mut transaction).await.unwrap();
        assert_eq!(table.len(), usize::try_from(count).unwrap(), "orphaned rows in uses");
        assert_eq!(table.into_iter().collect::<BTreeSet<_>>(), uses);
        drop(transaction);
        assert_eq!(self.catalog.check().await.unwrap(), [""; 0]);
        assert_eq!(self.catalog.check_kept().await.unwrap(), [""; 0]);
        let needs = self.catalog.needs().await.unwrap();
        for (_, _, current, _, _, digest) in &uses {
            let need = needs[&digest.parse::<Digest>().unwrap()];
            assert!(need == Need::Current || (!current && need == Need::RollbackTarget));
        }
        for (digest, need) in &needs {
            let references = self.catalog.references_of(*digest).await.unwrap();
            assert_eq!(references[0].need(), *need, "{references:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn uses_match_a_computation_from_all_states(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in &steps {
                world.step(step).await;
                world.is_right().await;
            }
            world.catalog.close().await;
        });
    }
}
