//! Tests that damage by services, disks and crashes never leads to a wrong root.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::rig::{configuration, layer, options, run};
use deploy_store::{Error, Layer, LinkMode, Store, verify};
use deploy_testing::directories;

/// A store with one layer of code and two alternative layers of configuration files.
struct Bench {
    work: tempfile::TempDir,
    store: Store,
    code: Layer,
    configs: [Layer; 2],
}

/// A symlink in the code layer, and its target.
const LINK: (&str, &str) = ("bin/link", "run");
const FILES: [(&str, &str); 3] =
    [("bin/run", "#!/bin/sh\n"), ("lib/big", "a rather big library"), ("lib/other", "other")];

impl Bench {
    fn new(dir: &Path, link: LinkMode) -> Self {
        let work = tempfile::tempdir_in(dir).unwrap();
        let store = Store::open(&work.path().join("agent"), options(link)).unwrap();
        let archive = |name: &str, files: &[(&str, &str)]| {
            let tree = work.path().join(name);
            for (path, contents) in files {
                let path = tree.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, contents).unwrap();
            }
            if name == "code" {
                std::os::unix::fs::symlink(LINK.1, tree.join(LINK.0)).unwrap();
            }
            let archive = work.path().join(format!("{name}.tar.gz"));
            run("tar", &["-czf", archive.to_str().unwrap(), "."], &tree);
            archive
        };
        let code = layer(&store, "code", &archive("code", &FILES));
        let configs = ["one", "two"]
            .map(|text| layer(&store, "config", &archive(text, &[("etc/conf", text)])));
        Self { work, store, code, configs }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.work.path().join("agent").join(name)
    }

    fn blob(&self) -> PathBuf {
        self.path("cache").join(self.code.digest.to_string())
    }

    /// Builds the root of the code layer and the configuration layer number `n`.
    fn root(&self, n: usize) -> Result<PathBuf, Error> {
        let layers = [self.code.clone(), self.configs[n].clone()];
        self.store.root(&configuration(&layers)).map(|root| root.path)
    }

    /// Builds the root with the configuration layer number `n`. Then checks the contents and the
    /// mode of each file from the code layer.
    fn is_right(&self, n: usize, what: &str) {
        let root = self.root(n).unwrap();
        for (path, contents) in FILES {
            assert_eq!(fs::read_to_string(root.join(path)).unwrap(), contents, "{what}: {path}");
            let mode = fs::metadata(root.join(path)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644, "{what}: {path}");
        }
    }

    /// Closes the store, and opens the agent's directory again.
    fn reopen(self) -> Self {
        let Self { work, store, code, configs } = self;
        let link = store.link_mode();
        drop(store);
        let store = Store::open(&work.path().join("agent"), options(link)).unwrap();
        Self { work, store, code, configs }
    }
}

/// Calls `test` with a new store and a description, for each filesystem and link mode.
fn each(mut test: impl FnMut(Bench, String)) {
    for dir in directories() {
        for link in [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy] {
            test(Bench::new(&dir, link), format!("{link:?} in {}", dir.display()));
        }
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn objects(bench: &Bench) -> Vec<PathBuf> {
    let dirs = names(&bench.path("objects"));
    dirs.iter().filter(|path| path.is_dir()).flat_map(|dir| names(dir)).collect()
}

#[test]
fn writes_to_one_root_do_not_change_other_roots() {
    each(|bench, what| {
        let root = bench.root(0).unwrap();
        let append = OpenOptions::new().append(true).open(root.join("lib/big"));
        append.unwrap().write_all(b" altered").unwrap();
        let cut = OpenOptions::new().write(true).open(root.join("lib/other"));
        cut.unwrap().set_len(1).unwrap();
        fs::set_permissions(root.join("bin/run"), fs::Permissions::from_mode(0o777)).unwrap();
        bench.is_right(1, &what);
        let set_aside = names(&bench.path("quarantine")).len();
        let linked = bench.store.link_mode() == LinkMode::Hardlink;
        // Only the mode of `bin/run` was changed. Its object still has the right contents, and is
        // not quarantined.
        assert_eq!(set_aside, if linked { 2 } else { 0 }, "{what}");
    });
}

#[test]
fn damaged_objects_are_recreated_from_the_cached_blob() {
    each(|bench, what| {
        for damage in [
            (|path: &Path| fs::write(path, "damaged").unwrap()) as fn(&Path),
            |path| fs::remove_file(path).unwrap(),
            |path| drop(File::create(path).unwrap()),
            |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            },
        ] {
            let objects = objects(&bench);
            assert!(objects.len() >= FILES.len());
            for path in &objects {
                damage(path);
            }
            bench.is_right(1, &what);
            bench.store.sweep_roots(&[]).unwrap();
        }
    });
}

#[test]
fn missing_blob_is_requested_again() {
    each(|bench, what| {
        let bytes = fs::read(bench.blob()).unwrap();
        for object in objects(&bench) {
            fs::write(object, "damaged").unwrap();
        }
        fs::remove_file(bench.blob()).unwrap();
        let missing = bench.root(1).unwrap_err();
        assert!(
            matches!(missing, Error::NoSuchBlob(digest) if digest == bench.code.digest),
            "{what}: {missing}"
        );
        assert!(!bench.path("unpacked").join("x").exists());
        bench.store.blobs().ingest(bench.code.digest, &*bytes).unwrap();
        bench.is_right(1, &what);
    });
}

#[test]
fn damaged_blob_is_removed_and_requested_again() {
    each(|bench, what| {
        let index = bench.path("layers").join(bench.code.digest.to_string());
        let bytes = fs::read(bench.blob()).unwrap();
        for at in [3, bytes.len() / 2, bytes.len() - 1] {
            fs::remove_file(&index).unwrap();
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            fs::write(bench.blob(), damaged).unwrap();
            let missing = bench.store.extract(bench.code.digest).unwrap_err();
            assert!(matches!(missing, Error::NoSuchBlob(_)), "{what}: {at}: {missing}");
            assert!(!bench.blob().exists() && !index.exists());
            bench.store.blobs().ingest(bench.code.digest, &*bytes).unwrap();
            bench.store.extract(bench.code.digest).unwrap();
        }
        bench.is_right(0, &what);
    });
}

#[test]
fn damaged_index_is_recreated() {
    each(|mut bench, what| {
        let index = bench.path("layers").join(bench.code.digest.to_string());
        let sound = fs::read(&index).unwrap();
        for damaged in [&b""[..], b"nonsense", &sound[..sound.len() / 2]] {
            fs::write(&index, damaged).unwrap();
            // An open store keeps the merged layers in memory, so the test opens the store again.
            bench = bench.reopen();
            bench.is_right(0, &what);
            assert_eq!(fs::read(&index).unwrap(), sound, "{what}");
            bench.store.sweep_roots(&[]).unwrap();
        }
    });
}

#[test]
fn leftovers_of_a_crash_are_removed_at_the_next_start() {
    each(|bench, what| {
        let left = ["unpacked/.new-1-1", "unpacked/.old-1-1", "objects/.new-1-1"];
        for name in left {
            fs::create_dir_all(bench.path(name).join("a/b")).unwrap();
            fs::write(bench.path(name).join("a/b/file"), "half").unwrap();
        }
        fs::write(bench.path("layers/index-1-1"), "half").unwrap();
        // This root already has its final name, but it has no record.
        let root = bench.root(0).unwrap();
        let id = root.file_name().unwrap().to_str().unwrap().to_owned();
        fs::remove_file(bench.path("roots").join(id)).unwrap();
        fs::write(root.join("lib/big"), "torn").unwrap();
        let bench = bench.reopen();
        for name in left.iter().chain(&["layers/index-1-1"]) {
            assert!(!bench.path(name).exists(), "{what}: {name}");
        }
        bench.is_right(0, &what);
    });
}

#[test]
fn root_removed_by_hand_is_rebuilt() {
    each(|bench, what| {
        let root = bench.root(0).unwrap();
        fs::remove_dir_all(root).unwrap();
        bench.is_right(0, &what);
    });
}

/// The removal of a root moves the root away, and then removes the record. A crash may happen
/// between these two steps.
#[test]
fn interrupted_removal_of_a_root_is_completed_and_is_not_damage() {
    each(|bench, what| {
        let name = |root: &Path| root.file_name().unwrap().to_str().unwrap().to_owned();
        let [gone, again, lost] = [0, 1, 0].map(|n| bench.root(n).unwrap());
        let moved = |root: &Path| bench.path(&format!("unpacked/.old-{}-1-1", name(root)));
        fs::rename(&gone, moved(&gone)).unwrap();
        // This root was built again after the crash.
        fs::create_dir(moved(&again)).unwrap();
        let found = || {
            let mut found = Vec::new();
            verify(&bench.path(""), |finding| found.push(finding)).unwrap();
            found
        };
        assert_eq!(found(), [], "{what}");
        let records = bench.path("roots");
        let bench = bench.reopen();
        assert!(!records.join(name(&gone)).exists() && records.join(name(&again)).exists());
        assert_eq!(fs::read_dir(bench.path("unpacked")).unwrap().count(), 2, "{what}");
        bench.is_right(0, &what);
        // A root that is missing for any other reason counts as damage.
        fs::remove_dir_all(&lost).unwrap();
        let bench = bench.reopen();
        let mut found = Vec::new();
        verify(&bench.path(""), |finding| found.push(finding)).unwrap();
        assert_eq!(found.len(), 1, "{what}: {found:?}");
        assert_eq!((&found[0].path, &*found[0].what), (&lost, "is missing"), "{what}");
    });
}

#[test]
fn verify_reports_damage_and_changes_nothing() {
    each(|bench, what| {
        let root = bench.root(0).unwrap();
        let look = || {
            let mut found = Vec::new();
            let verified = verify(&bench.path(""), |finding| {
                let path = finding.path.strip_prefix(bench.path("")).unwrap().to_owned();
                found.push(format!("{}: {}", path.display(), finding.what));
            });
            (verified.unwrap(), found)
        };
        let (verified, found) = look();
        assert_eq!((verified.layers, verified.roots, found), (3, 1, Vec::new()), "{what}");
        assert!(verified.objects >= 5 && verified.bytes > 0, "{what}");

        fs::write(root.join("bin/run"), "altered").unwrap();
        fs::write(root.join("extra"), "extra").unwrap();
        fs::remove_file(root.join(LINK.0)).unwrap();
        std::os::unix::fs::symlink("nur", root.join(LINK.0)).unwrap();
        fs::remove_file(root.join("etc/conf")).unwrap();
        let index = bench.path("layers").join(bench.configs[1].digest.to_string());
        fs::write(index, "nonsense").unwrap();
        for _ in 0..2 {
            let (_, mut found) = look();
            found.retain(|line| !line.starts_with("objects/"));
            let id = root.file_name().unwrap().to_str().unwrap();
            let layer = bench.configs[1].digest;
            assert_eq!(
                found,
                [
                    format!("layers/{layer}: it is not a layer index"),
                    format!("unpacked/{id}: extra does not belong to the configuration"),
                    format!("unpacked/{id}: bin/link was altered"),
                    format!("unpacked/{id}: bin/run was altered"),
                    format!("unpacked/{id}: etc/conf is missing"),
                ],
                "{what}"
            );
        }
        let object = objects(&bench).pop().unwrap();
        fs::write(&object, "changed").unwrap();
        let (_, found) = look();
        let name = object.strip_prefix(bench.path("")).unwrap().display().to_string();
        let line = format!("{name}: its contents do not match its name");
        assert!(found.contains(&line), "{what}: {found:?}");
    });
}
