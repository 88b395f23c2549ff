//! Tests which files of a root stay hardlinks to the store, and which files become private copies.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use crate::rig::{configuration, layer, options, run};
use deploy_store::{Error, LinkMode, Meter, OwnerRule, Store};
use deploy_testing::directories;

use super::Bench;

#[test]
fn chown_in_a_script_costs_no_download_and_uses_the_spare() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run as root");
        return;
    }
    for dir in directories() {
        for script in ["chown -R 33:33 .", "setcap cap_net_bind_service+ep bin/server"] {
            let bench = Bench::new(&dir, false);
            for n in [0, 1, 2, 0, 1, 2] {
                // The store keeps no blobs, so the test fails if the store needs a blob again.
                let root = bench.store.root(&bench.wanted[n]).unwrap();
                assert!(root.reused || n == 0 || root.from_spare, "{script}");
                bench.is_right(n, script);
                run("sh", &["-c", script], &root.path);
                bench.store.prepare_spare(&bench.wanted[n]).unwrap();
                bench.store.sweep_roots(&[bench.wanted[n].id()]).unwrap();
            }
            let private = bench.private();
            assert!(private.contains(&"bin/server".to_owned()), "{script}: {private:?}");
            assert_eq!(private.len() == 1, script.starts_with("setcap"), "{private:?}");
        }
    }
}

#[test]
fn repeatedly_written_file_is_downloaded_once() {
    for dir in directories() {
        let bench = Bench::new(&dir, false);
        let digest = bench.wanted[0].layers()[0].digest;
        let mut fetched = 0;
        for n in [0, 1, 2, 0, 1] {
            let root = loop {
                match bench.store.root(&bench.wanted[n]) {
                    Ok(root) => break root,
                    Err(Error::NoSuchBlob(lost)) if lost == digest => {
                        fetched += 1;
                        let bytes = fs::read(&bench.code).unwrap();
                        bench.store.blobs().ingest(digest, &*bytes).unwrap();
                    }
                    Err(err) => panic!("{err}"),
                }
            };
            bench.is_right(n, "a log");
            let mut log = OpenOptions::new().append(true).open(root.path.join("a/data")).unwrap();
            log.write_all(b"a line\n").unwrap();
            // The call may fail, because the spare may need the missing blob.
            let _ = bench.store.prepare_spare(&bench.wanted[n]);
            bench.store.sweep_roots(&[bench.wanted[n].id()]).unwrap();
        }
        assert_eq!((fetched, bench.private()), (1, vec!["a/data".to_owned()]));
    }
}

#[test]
fn owner_rules_apply_to_roots_and_files_stay_shared() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run as root");
        return;
    }
    for dir in directories() {
        for link in [LinkMode::Hardlink, LinkMode::Auto, LinkMode::Copy] {
            let bench = Bench::new(&dir, true);
            let Bench { work, store, wanted, .. } = bench;
            drop(store);
            let open = || Store::open(&work.path().join("agent"), options(link)).unwrap();
            let mut store = open();
            let rule = |pattern: Option<&str>, uid| OwnerRule {
                pattern: pattern.map(str::to_owned),
                uid: Some(uid),
                gid: Some(uid),
            };
            store.set_owners(&[rule(None, 33), rule(Some("a/*"), 34)]).unwrap();
            for n in [0, 1] {
                let root = store.root(&wanted[n]).unwrap().path;
                let owner = |path: &str| fs::metadata(root.join(path)).unwrap().uid();
                let owners = ["", "bin", "bin/server", "version", "a", "a/data"].map(owner);
                assert_eq!(owners, [33, 33, 33, 33, 33, 34], "{link:?}");
                store.prepare_spare(&wanted[n]).unwrap();
                let shared = fs::metadata(root.join("bin/server")).unwrap().nlink() > 2;
                assert_eq!(shared, store.link_mode() == LinkMode::Hardlink, "{link:?}");
            }
            // The verification uses the rules that the agent saved.
            drop(store);
            let mut found = Vec::new();
            deploy_store::verify_roots(&work.path().join("agent"), &Meter::default(), |it| {
                found.push(it);
            })
            .unwrap();
            assert_eq!(found, [], "{link:?}");
        }
    }
}

#[test]
fn writable_name_makes_all_hardlinks_private() {
    for dir in directories() {
        let mut bench = Bench::new(&dir, true);
        bench.store.set_writable(&["var/**".to_owned()]).unwrap();
        let root = bench.deploy(0);
        fs::write(root.join("var/other"), "of the service").unwrap();
        bench.is_right(1, "-writable");
        // A file that other users may write to is also private.
        let tree = bench.work.path().join("open");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join("queue"), "q").unwrap();
        fs::set_permissions(tree.join("queue"), fs::Permissions::from_mode(0o664)).unwrap();
        let archive = bench.work.path().join("open.tgz");
        run("tar", &["-czf", archive.to_str().unwrap(), "."], &tree);
        let open = configuration(&[layer(&bench.store, "open", &archive)]);
        let root = bench.store.root(&open).unwrap().path;
        assert_eq!(fs::metadata(root.join("queue")).unwrap().nlink(), 1);
    }
}
