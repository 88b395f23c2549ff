//! Tests that a sweep removes as many files, and (except with reflinks) frees as many bytes, as its
//! plan states. All roots and layers that stay are complete and can be deployed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::rig::{configuration, layer, options, run};
use deploy_store::{
    Ages, Configuration, Digest, Keep, Layer, LinkMode, Store, Sweep, What, sweep_alone, verify,
};
use deploy_testing::directories;

struct Bench {
    work: tempfile::TempDir,
    store: Option<Store>,
    link: LinkMode,
}

/// The paths of all entries except directories, and a map from the inode of each regular file to
/// the file's size.
#[derive(Debug, PartialEq, Eq)]
struct Census {
    names: BTreeSet<PathBuf>,
    inodes: BTreeMap<u64, u64>,
}

impl Census {
    fn of(dir: &Path) -> Self {
        let mut census = Self { names: BTreeSet::new(), inodes: BTreeMap::new() };
        let mut queue = vec![dir.to_owned()];
        while let Some(dir) = queue.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                if meta.is_dir() {
                    queue.push(path);
                    continue;
                }
                if meta.is_file() {
                    census.inodes.insert(meta.ino(), meta.len());
                }
                census.names.insert(path);
            }
        }
        census
    }

    fn bytes(&self) -> u64 {
        self.inodes.values().sum()
    }
}

impl Bench {
    fn new(dir: &Path, link: LinkMode) -> Self {
        let work = tempfile::tempdir_in(dir).unwrap();
        let store = Some(Store::open(&work.path().join("agent"), options(link)).unwrap());
        Self { work, store, link }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join("agent").join(name)
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Makes a layer with `n` files that share their contents with files of other layers. The layer
    /// also has a file with contents of its own.
    fn layer(&self, name: &str, version: u32, n: u32) -> Layer {
        let tree = self.work.path().join(format!("{name}{version}"));
        fs::create_dir_all(tree.join("dir")).unwrap();
        let write = |path: &str, text: &str| {
            let path = tree.join(path);
            fs::write(&path, text).unwrap();
            let mut touch = std::process::Command::new("touch");
            assert!(touch.args(["-d", "@1700000000"]).arg(path).status().unwrap().success());
        };
        for file in 0..n {
            write(&format!("dir/{name}{file}"), &format!("shared {file}").repeat(50));
        }
        write(&format!("{name}-own"), &format!("{name} {version}").repeat(100));
        // This file equals another file of the root, but the two files are not linked.
        write(&format!("{name}-twin"), &"shared 0".repeat(50));
        std::os::unix::fs::symlink("dir", tree.join(format!("{name}-link"))).unwrap();
        let archive = self.work.path().join(format!("{name}{version}.tar.gz"));
        run("tar", &["-czf", archive.to_str().unwrap(), "."], &tree);
        layer(self.store(), name, &archive)
    }

    /// Deploys three configurations one after another. Then adds an unused layer, a partial
    /// download, files that a service wrote, and quarantined files.
    fn history(&self) -> [Configuration; 3] {
        let code = self.layer("code", 1, 5);
        let all = [1, 2, 3].map(|version| {
            let config = self.layer("config", version, version);
            configuration(&[code.clone(), config])
        });
        for configuration in &all {
            self.store().root(configuration).unwrap();
        }
        self.layer("nobody", 1, 7);
        self.store().blobs().resume(Digest::of(b"to come")).unwrap().write_at(0, b"half").unwrap();
        // A service creates a file in its root, and writes in place to another file.
        let root = self.store().root_path(all[0].id());
        fs::write(root.join("log"), "of a service").unwrap();
        fs::write(root.join("config-own"), "in place").unwrap();
        fs::create_dir_all(self.path("quarantine/was/a/directory")).unwrap();
        fs::write(self.path("quarantine/was/a/file"), "damaged").unwrap();
        all
    }

    fn keep(current: &Configuration, roots: &[&Configuration]) -> Keep {
        let ages =
            Ages { downloads: Some(std::time::UNIX_EPOCH), leftovers: true, ..Ages::default() };
        Keep {
            configurations: vec![(current.clone(), "the deployed configuration")],
            roots: Some(roots.iter().map(|root| (root.id(), "asked for")).collect()),
            cache: Some(ages),
            taken_over: false,
            keep_blobs: true,
            weigh: true,
            replaced: true,
        }
    }

    fn sound(&self, what: &str) {
        let mut found = Vec::new();
        verify(&self.path(""), |finding| found.push(finding)).unwrap();
        assert_eq!(found, [], "{what}");
    }
}

/// Checks that as many files and bytes as planned were removed between `before` and `after`. If
/// `shared` is set, the bytes are not compared.
fn sweep_matches_plan(planned: &Sweep, before: &Census, after: &Census, shared: bool, what: &str) {
    let names = before.names.difference(&after.names).count();
    assert_eq!(planned.files(), names as u64, "{what}: {planned:#?}");
    assert!(after.names.is_subset(&before.names), "{what}: the sweep created a file");
    if !shared {
        assert_eq!(planned.bytes(), before.bytes() - after.bytes(), "{what}: {planned:#?}");
    }
}

fn each_mode(mut test: impl FnMut(Bench, &str)) {
    for dir in directories() {
        for link in [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy] {
            test(Bench::new(&dir, link), &format!("{link:?} in {}", dir.display()));
        }
    }
}

#[test]
fn dry_run_matches_what_the_sweep_frees() {
    each_mode(|bench, what| {
        let all = bench.history();
        let shared = bench.store().link_mode() == LinkMode::Reflink;
        // Each sweep keeps fewer roots. The last sweep keeps only the current root.
        for kept in [&all[..], &all[1..], &all[2..]] {
            let kept: Vec<&Configuration> = kept.iter().collect();
            let keep = Bench::keep(&all[2], &kept);
            let before = Census::of(&bench.path(""));
            let rehearsed = bench.store().plan_sweep(&keep).unwrap();
            assert_eq!(Census::of(&bench.path("")), before, "{what}: a dry run changed a file");
            let planned = bench.store().plan_sweep(&keep).unwrap();
            assert_eq!(rehearsed, planned);
            bench.store().sweep(&planned).unwrap();
            let after = Census::of(&bench.path(""));
            sweep_matches_plan(&planned, &before, &after, shared, what);
            assert!(planned.files() > 0, "{what}: the plan removes no file");
            for root in &kept {
                assert!(bench.store().root(root).unwrap().reused, "{what}");
            }
            let again = bench.store().plan_sweep(&keep).unwrap();
            assert_eq!((again.files(), again.bytes()), (0, 0), "{what}: {again:#?}");
        }
        assert!(!bench.path("quarantine/was").exists());
        assert_eq!(fs::read_dir(bench.path("partial")).unwrap().count(), 1, "{what}");
        bench.sound(what);
        // All data of the current configuration still exists.
        bench.store().sweep_roots(&[]).unwrap();
        let root = bench.store().root(&all[2]).unwrap();
        assert!(!root.reused && root.path.join("dir/code4").exists(), "{what}");
        assert_eq!(
            fs::read_to_string(root.path.join("config-own")).unwrap(),
            "config 3".repeat(100)
        );
    });
}

/// If `-link` changes, new objects get other names than the old objects. The old objects of a
/// deployed layer stay until the layer has new objects. Until then, a root can be made from the old
/// objects.
#[test]
fn sweep_after_a_link_mode_change_keeps_the_deployed_root() {
    for dir in directories() {
        for (before, after) in
            [(LinkMode::Copy, LinkMode::Hardlink), (LinkMode::Hardlink, LinkMode::Copy)]
        {
            let what = format!("{before:?} to {after:?} in {}", dir.display());
            let mut bench = Bench::new(&dir, before);
            let code = bench.layer("code", 1, 5);
            let configuration = configuration(std::slice::from_ref(&code));
            bench.store().root(&configuration).unwrap();
            bench.store().blobs().remove(code.digest).unwrap();
            bench.store = None;
            bench.store = Some(Store::open(&bench.path(""), options(after)).unwrap());
            let keep = Bench::keep(&configuration, &[&configuration]);
            let planned = bench.store().plan_sweep(&keep).unwrap();
            assert_eq!(planned.count(What::Object), 0, "{what}: {planned:#?}");
            bench.store().sweep(&planned).unwrap();
            bench.store().sweep_roots(&[]).unwrap();
            let root = bench.store().root(&configuration).unwrap();
            let text = fs::read_to_string(root.path.join("code-own")).unwrap();
            assert_eq!(text, "code 1".repeat(100), "{what}");
            // Now each file has two objects.
            let planned = bench.store().plan_sweep(&keep).unwrap();
            assert!(planned.count(What::Object) > 5, "{what}: {planned:#?}");
            bench.store().sweep(&planned).unwrap();
            bench.sound(&what);
            bench.store().sweep_roots(&[]).unwrap();
            bench.store().root(&configuration).unwrap();
        }
    }
}

#[test]
fn reflinked_files_count_once_and_private_writes_count() {
    each_mode(|bench, what| {
        let all = bench.history();
        if bench.store().link_mode() != LinkMode::Reflink {
            return;
        }
        let keep = Bench::keep(&all[2], &[&all[1], &all[2]]);
        let planned = bench.store().plan_sweep(&keep).unwrap();
        let root = planned.removals.iter().find(|it| it.what == What::Root).unwrap();
        let record = fs::metadata(bench.path("roots").join(all[0].id().to_string())).unwrap().len();
        // The bytes of "of a service" and of "in place" count, because these two files share no
        // extents with an object.
        assert_eq!(root.bytes, 12 + 8 + record, "{what}");
    });
}

#[test]
fn sweep_without_an_agent_also_removes_crash_leftovers() {
    each_mode(|mut bench, what| {
        let all = bench.history();
        let shared = bench.store().link_mode() == LinkMode::Reflink;
        let keep = Bench::keep(&all[2], &[&all[2]]);
        let beside = bench.store().plan_sweep(&keep).unwrap();
        let link = bench.store().link_mode();
        bench.store = None;
        let alone = |rehearsal| {
            sweep_alone(&bench.path(""), link, rehearsal, |_| Ok(keep.clone())).unwrap()
        };
        assert_eq!(alone(true), beside, "{what}");
        for name in
            ["unpacked/.new-1-1", "unpacked/.old-1-1", "unpacked/.spare-1-1", "objects/.new-1-1"]
        {
            fs::create_dir_all(bench.path(name).join("a")).unwrap();
            fs::write(bench.path(name).join("a/file"), "half").unwrap();
        }
        fs::write(bench.path("layers/index-1-1"), "half").unwrap();
        fs::write(bench.path("temp-state-1-1"), "half").unwrap();
        fs::write(bench.path("temp-seals-1-1"), "half").unwrap();
        // The root was removed by hand, so its record does not keep its layers.
        fs::remove_dir_all(bench.path("unpacked").join(all[0].id().to_string())).unwrap();
        let before = Census::of(&bench.path(""));
        let rehearsed = alone(true);
        assert_eq!(Census::of(&bench.path("")), before, "{what}: a dry run changed a file");
        let done = alone(false);
        assert_eq!(rehearsed, done, "{what}");
        sweep_matches_plan(&done, &before, &Census::of(&bench.path("")), shared, what);
        assert_eq!((done.count(What::Leftover), done.count(What::Record)), (7, 1), "{what}");
        bench.store = Some(Store::open(&bench.path(""), options(bench.link)).unwrap());
        bench.sound(what);
        assert!(bench.store().root(&all[2]).unwrap().reused);
    });
}

#[test]
fn spare_and_its_objects_are_kept() {
    each_mode(|bench, what| {
        let all = bench.history();
        bench.store().prepare_spare(&all[0]).unwrap();
        let keep = Bench::keep(&all[2], &[&all[2]]);
        let before = Census::of(&bench.path(""));
        let planned = bench.store().plan_sweep(&keep).unwrap();
        bench.store().sweep(&planned).unwrap();
        let shared = bench.store().link_mode() == LinkMode::Reflink;
        sweep_matches_plan(&planned, &before, &Census::of(&bench.path("")), shared, what);
        assert!(planned.kept.iter().any(|kept| kept.what == What::Spare), "{what}");
        assert!(bench.store().remove_spare().unwrap() && !bench.store().remove_spare().unwrap());
        let spares = fs::read_dir(bench.path("unpacked")).unwrap();
        let left =
            spares.filter(|it| it.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.');
        assert_eq!(left.count(), 0, "{what}");
        bench.sound(what);
    });
}

#[test]
fn sweep_removes_no_object_if_an_index_is_damaged() {
    each_mode(|bench, what| {
        let all = bench.history();
        let index = bench.path("layers").join(all[2].layers()[0].digest.to_string());
        fs::write(index, "nonsense").unwrap();
        let keep = Bench::keep(&all[2], &[&all[2]]);
        let planned = bench.store().plan_sweep(&keep).unwrap();
        assert_eq!(planned.count(What::Object), 0, "{what}");
        let objects = planned.kept.iter().find(|kept| kept.what == What::Object).unwrap();
        assert!(
            objects.count > 5 && objects.why.contains("the objects of this layer are not known"),
            "{what}: {objects:?}"
        );
    });
}

#[test]
fn root_of_a_go_agent_stays_until_its_removal_is_requested() {
    each_mode(|bench, what| {
        let all = bench.history();
        let id = Digest::of(b"of the Go agent").to_string();
        fs::create_dir(bench.path("unpacked").join(&id)).unwrap();
        fs::write(bench.path("unpacked").join(&id).join("file"), "file").unwrap();
        fs::write(bench.path("unpacked").join(format!("{id}.ok")), "").unwrap();
        let keep = Keep { roots: None, ..Bench::keep(&all[2], &[]) };
        bench.store().sweep(&bench.store().plan_sweep(&keep).unwrap()).unwrap();
        assert!(bench.path("unpacked").join(&id).join("file").exists(), "{what}");
        let before = Census::of(&bench.path(""));
        let keep = Bench::keep(&all[2], &[&all[2], &all[1], &all[0]]);
        let planned = bench.store().plan_sweep(&keep).unwrap();
        bench.store().sweep(&planned).unwrap();
        sweep_matches_plan(&planned, &before, &Census::of(&bench.path("")), false, what);
        assert_eq!(planned.files(), 0, "{what}: the Go agent's root must stay: {planned:#?}");
        assert!(bench.path("unpacked").join(&id).join("file").exists(), "{what}");
        let why = planned.kept.iter().find(|kept| kept.path.ends_with(&id)).unwrap().why.as_str();
        assert!(why.contains("before this agent"), "{what}: {why}");
        assert_eq!(deploy_store::taken_over(&bench.path("")).unwrap().len(), 1, "{what}");
        let keep = Keep { taken_over: true, ..keep };
        let planned = bench.store().plan_sweep(&keep).unwrap();
        bench.store().sweep(&planned).unwrap();
        sweep_matches_plan(&planned, &before, &Census::of(&bench.path("")), false, what);
        assert_eq!((planned.files(), planned.bytes()), (2, 4), "{what}: {planned:#?}");
        assert!(deploy_store::taken_over(&bench.path("")).unwrap().is_empty(), "{what}");
    });
}
