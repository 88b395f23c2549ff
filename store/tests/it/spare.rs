//! Tests that, for any layers and in every link mode, a root made from the spare equals a root
//! built from nothing. A damaged spare is never used.

use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::rig::members::{Member, archive, members};
use crate::rig::{configuration, dump, options, same};
use deploy_store::{Configuration, Digest, Layer, LinkMode, SpareOutcome, Store};
use deploy_testing::directories;
use proptest::collection::vec;
use proptest::test_runner::{Config, TestRunner};

/// Makes the same layer in both stores. If the archive cannot be extracted, the function omits the
/// last member and tries again.
fn layer(stores: [&Store; 2], name: &str, members: &[Member]) -> Layer {
    let bytes = archive(members);
    let digest = Digest::of(&bytes);
    for store in stores {
        store.blobs().ingest(digest, &*bytes).unwrap();
        if store.extract(digest).is_err() {
            return layer(stores, name, &members[..members.len() - 1]);
        }
    }
    let created = "2026-01-01T00:00:00Z".parse().unwrap();
    let (component, version) = (name.parse().unwrap(), "v1".parse().unwrap());
    Layer { component, version, digest, created }
}

fn each_mode(mut test: impl FnMut(&Path, LinkMode)) {
    for dir in directories() {
        for link in [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy] {
            test(&dir, link);
        }
    }
}

#[test]
fn changed_spare_matches_a_new_build() {
    each_mode(|dir, link| {
        let work = tempfile::tempdir_in(dir).unwrap();
        let open = |name: &str| Store::open(&work.path().join(name), options(link)).unwrap();
        let (ours, plain) = (open("ours"), open("plain"));
        let (used, refused) = (Cell::new(0), Cell::new(0));
        let check = |layers: Vec<Vec<Member>>| {
            let layers: Vec<Layer> = layers
                .iter()
                .enumerate()
                .map(|(n, members)| layer([&ours, &plain], &format!("c{n}"), members))
                .collect();
            // The steps change the upper layer, the lower layer, the order of the layers, and the
            // number of layers.
            let pick = |picked: &[usize]| {
                configuration(&picked.iter().map(|&n| layers[n].clone()).collect::<Vec<_>>())
            };
            for picked in [&[0, 1][..], &[0, 2], &[3, 2], &[2, 3], &[3]] {
                let wanted = pick(picked);
                let (Ok(root), Ok(expected)) = (ours.root(&wanted), plain.root(&wanted)) else {
                    refused.set(refused.get() + 1);
                    assert!(ours.root(&wanted).is_err() && plain.root(&wanted).is_err());
                    continue;
                };
                used.set(used.get() + u32::from(root.from_spare));
                let what = format!("{link:?} in {}: {picked:?} {layers:?}", dir.display());
                same(&dump(&root.path), &dump(&expected.path), &what);
                ours.prepare_spare(&wanted).unwrap();
            }
            for store in [&ours, &plain] {
                store.sweep_roots(&[]).unwrap();
            }
            Ok(())
        };
        let cases = std::env::var("PROPTEST_CASES").map_or(12, |cases| cases.parse().unwrap());
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new(config);
        runner.run(&vec(members(), 4..=4), check).unwrap();
        assert!(used.get() > 4, "{link:?}: only {} spares were used", used.get());
    });
}

/// A store with two configurations. The first configuration is deployed and has a spare.
struct Bench {
    work: tempfile::TempDir,
    store: Store,
    configurations: [Configuration; 2],
}

impl Bench {
    fn new(dir: &Path, link: LinkMode) -> Self {
        let work = tempfile::tempdir_in(dir).unwrap();
        let store = Store::open(&work.path().join("agent"), options(link)).unwrap();
        let file = |name: &str, text| Member::File(name.to_owned(), text, 0o755, 1);
        let code = layer([&store; 2], "code", &[file("a/one", 1), file("a/two", 2)]);
        let configurations = [1, 3].map(|text| {
            let config = layer([&store; 2], "config", &[file("conf", text)]);
            configuration(&[code.clone(), config])
        });
        store.root(&configurations[0]).unwrap();
        assert_eq!(store.prepare_spare(&configurations[0]).unwrap(), SpareOutcome::Ready);
        Self { work, store, configurations }
    }

    fn unpacked(&self) -> Vec<String> {
        let entries = fs::read_dir(self.work.path().join("agent/unpacked")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn spare(&self) -> PathBuf {
        let name = self.unpacked().into_iter().find(|name| name.starts_with(".spare")).unwrap();
        self.work.path().join("agent/unpacked").join(name)
    }

    /// Checks that the root of the second configuration has the right mode and file contents, and
    /// whether it was made from the spare.
    fn is_right(&self, from_spare: bool, what: &str) {
        let root = self.store.root(&self.configurations[1]).unwrap();
        assert_eq!(root.from_spare, from_spare, "{what}");
        let mode = fs::metadata(&root.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{what}");
        for (name, text) in [("a/one", 1_u8), ("a/two", 2), ("conf", 3)] {
            let bytes = fs::read(root.path.join(name)).unwrap();
            assert!(bytes.iter().all(|&byte| byte == text) && !bytes.is_empty(), "{what}: {name}");
            let mode = fs::metadata(root.path.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755, "{what}: {name}");
        }
    }
}

#[test]
fn spare_is_private_and_made_once() {
    each_mode(|dir, link| {
        let bench = Bench::new(dir, link);
        let spare = bench.spare();
        assert_eq!(fs::metadata(&spare).unwrap().permissions().mode() & 0o777, 0o700);
        let again = bench.store.prepare_spare(&bench.configurations[0]).unwrap();
        assert_eq!(again, SpareOutcome::Unchanged);
        bench.is_right(true, &format!("{link:?} in {}", dir.display()));
        assert!(!spare.exists());
        // The next spare can be made for any configuration.
        bench.store.prepare_spare(&bench.configurations[1]).unwrap();
        bench.store.sweep_roots(&[bench.configurations[1].id()]).unwrap();
        assert!(bench.store.root(&bench.configurations[0]).unwrap().from_spare);
    });
}

#[test]
fn writes_to_a_root_do_not_reach_roots_made_from_the_spare() {
    each_mode(|dir, link| {
        for damage in [
            (|path: &Path| {
                fs::OpenOptions::new().append(true).open(path).unwrap().write_all(b"x").unwrap();
            }) as fn(&Path),
            |path| drop(fs::File::create(path).unwrap()),
            |path| fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap(),
            |path| {
                // The file gets a name that is not in the tree.
                fs::rename(path, path.with_file_name("moved")).unwrap();
                fs::write(path.with_file_name("moved"), "x").unwrap();
            },
            |path| {
                let dir = path.parent().unwrap();
                fs::rename(dir, dir.with_file_name("elsewhere")).unwrap();
                fs::write(dir.with_file_name("elsewhere").join("two"), "x").unwrap();
            },
            |path| fs::remove_file(path).unwrap(),
        ] {
            let bench = Bench::new(dir, link);
            let root = bench.store.root_path(bench.configurations[0].id());
            let before = fs::read(root.join("a/two")).unwrap();
            damage(&root.join("a/two"));
            // If the file still has the right contents, the spare gets its own copy of the file and
            // can be used.
            let held = fs::read(root.join("a/two")).is_ok_and(|now| now == before);
            let harmless = held
                || !root.join("a/two").exists()
                    && !["a/moved", "elsewhere"].iter().any(|name| root.join(name).exists());
            let linked = bench.store.link_mode() == LinkMode::Hardlink;
            bench.is_right(!linked || harmless, &format!("{link:?} in {}", dir.display()));
        }
    });
}

#[test]
fn modified_spare_is_rejected() {
    each_mode(|dir, link| {
        for damage in [
            (|spare: &Path| fs::write(spare.join("a/two"), "x").unwrap()) as fn(&Path),
            |spare| {
                // Editors replace files in this way.
                fs::write(spare.join("a/.two"), "x").unwrap();
                fs::rename(spare.join("a/.two"), spare.join("a/two")).unwrap();
            },
            |spare| drop(fs::File::create(spare.join("conf")).unwrap()),
            |spare| fs::write(spare.join("a/extra"), "x").unwrap(),
            |spare| fs::create_dir(spare.join("extra")).unwrap(),
            |spare| std::os::unix::fs::symlink("two", spare.join("a/link")).unwrap(),
            |spare| fs::remove_file(spare.join("a/one")).unwrap(),
            |spare| fs::rename(spare.join("a/one"), spare.join("one")).unwrap(),
            |spare| {
                fs::set_permissions(spare.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
            },
            |spare| {
                fs::set_permissions(spare.join("a/one"), fs::Permissions::from_mode(0o4755))
                    .unwrap();
            },
            |spare| {
                // Another directory, whose files look right, gets the name of the spare.
                let aside = spare.with_file_name("aside");
                fs::rename(spare, &aside).unwrap();
                fs::create_dir_all(spare.join("a")).unwrap();
                for name in ["a/one", "a/two", "conf"] {
                    fs::copy(aside.join(name), spare.join(name)).unwrap();
                }
            },
        ] {
            for prepare in [false, true] {
                let bench = Bench::new(dir, link);
                damage(&bench.spare());
                let what = format!("{link:?} in {}", dir.display());
                if prepare {
                    // The damaged spare must not count as a finished spare.
                    let made = bench.store.prepare_spare(&bench.configurations[0]).unwrap();
                    assert_eq!(made, SpareOutcome::Ready, "{what}");
                }
                bench.is_right(prepare, &what);
            }
        }
    });
}

#[test]
fn spare_removed_by_hand_is_not_used() {
    each_mode(|dir, link| {
        let bench = Bench::new(dir, link);
        fs::remove_dir_all(bench.spare()).unwrap();
        bench.is_right(false, &format!("{link:?} in {}", dir.display()));
        bench.store.prepare_spare(&bench.configurations[1]).unwrap();
        let leftovers = || bench.unpacked().iter().filter(|name| name.starts_with(".gone")).count();
        assert_eq!(leftovers(), 0);
    });
}

#[test]
fn next_start_removes_the_spare() {
    each_mode(|dir, link| {
        let Bench { work, store, configurations } = Bench::new(dir, link);
        drop(store);
        let store = Store::open(&work.path().join("agent"), options(link)).unwrap();
        let bench = Bench { work, store, configurations };
        assert!(!bench.unpacked().iter().any(|name| name.starts_with(".spare")));
        bench.is_right(false, &format!("{link:?} in {}", dir.display()));
    });
}

#[test]
fn pending_layer_is_invisible_until_its_root_is_published() {
    each_mode(|dir, link| {
        let Bench { work, store, configurations } = Bench::new(dir, link);
        let agent = work.path().join("agent");
        let names = |what: &str| {
            let mut names: Vec<_> = fs::read_dir(agent.join(what))
                .unwrap()
                .map(|item| item.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        let code = configurations[0].layers()[0].clone();
        let file = |name: &str, text| Member::File(name.to_owned(), text, 0o755, 1);
        let bytes = archive(&[file("conf", 9), file("new", 8), file("again", 9)]);
        let digest = Digest::of(&bytes);
        let config = configurations[0].layers()[1].clone();
        let wanted = configuration(&[code, Layer { digest, ..config }]);
        let (layers, objects) = (names("layers"), names("objects"));
        store.blobs().ingest(digest, &*bytes).unwrap();
        assert_eq!(store.extract_for_root(digest).unwrap().unwrap().files, 3, "{link:?}");
        assert!(store.has_layer(digest).unwrap());
        assert_eq!(store.extract_for_root(digest).unwrap(), None);
        // The layer is not visible yet. If the store is dropped now, no file of the layer is left.
        let waiting = names("layers");
        assert!(waiting.iter().all(|name| layers.contains(name) || name.len() < 64));
        drop(store);
        assert_eq!((names("layers"), names("objects")), (layers, objects), "{link:?}");
        let store = Store::open(&agent, options(link)).unwrap();
        assert!(!store.has_layer(digest).unwrap() && store.blobs().contains(digest).unwrap());
        store.prepare_spare(&configurations[0]).unwrap();
        store.extract_for_root(digest).unwrap();
        let root = store.root(&wanted).unwrap();
        assert!(root.from_spare && store.has_layer(digest).unwrap(), "{link:?}");
        for (name, text) in [("a/one", 1_u8), ("conf", 9), ("new", 8), ("again", 9)] {
            let bytes = fs::read(root.path.join(name)).unwrap();
            assert!(!bytes.is_empty() && bytes.iter().all(|&byte| byte == text), "{name}");
        }
        drop(store);
        // The extracted layer is complete, so a root can be built without the layer's blob.
        let store = Store::open(&agent, options(link)).unwrap();
        store.sweep_roots(&[]).unwrap();
        let again = store.root(&wanted).unwrap();
        assert_eq!(fs::read(again.path.join("new")).unwrap()[0], 8, "{link:?}");
        let mut findings = Vec::new();
        deploy_store::verify(&agent, |finding| findings.push(finding)).unwrap();
        assert!(findings.is_empty(), "{link:?}: {findings:?}");
    });
}
