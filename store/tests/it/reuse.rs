//! Tests an existing root that is deployed again. The store finds every entry of the root that was
//! changed or removed. Added files and the contents of writable files are ignored. No root is
//! removed before its replacement exists. A root without a record is compared before the store
//! adopts the root.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::rig::{configuration, dump, layer, options, run, same};
use deploy_store::{Configuration, LinkMode, Store};
use deploy_testing::directories;

const LINKS: [LinkMode; 3] = [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy];

struct Bench {
    work: tempfile::TempDir,
    store: Store,
    wanted: Configuration,
}

impl Bench {
    fn new(dir: &Path, link: LinkMode) -> Self {
        let work = tempfile::tempdir_in(dir).unwrap();
        let mut store = Store::open(&work.path().join("agent"), options(link)).unwrap();
        store.set_writable(&["log*".to_owned()]).unwrap();
        let tree = work.path().join("tree");
        fs::create_dir_all(tree.join("dir/sub")).unwrap();
        for name in ["dir/sub/f", "dir/g", "conf", "log", "tagged"] {
            fs::write(tree.join(name), format!("of {name}")).unwrap();
        }
        symlink("conf", tree.join("link")).unwrap();
        // Next come a file with three names, an equal file, and a file with two names that a
        // service writes to.
        for name in ["bin", "equal"] {
            fs::write(tree.join(name), "program").unwrap();
            File::open(tree.join(name)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        }
        fs::hard_link(tree.join("bin"), tree.join("dir/bin2")).unwrap();
        fs::hard_link(tree.join("bin"), tree.join("name3")).unwrap();
        fs::hard_link(tree.join("log"), tree.join("of_log")).unwrap();
        run("setfattr", &["-n", "user.tag", "-v", "one", "tagged"], &tree);
        run("tar", &["--xattrs", "-cf", "../tree.tar", "."], &tree);
        let wanted = configuration(&[layer(&store, "code", &work.path().join("tree.tar"))]);
        store.root(&wanted).unwrap();
        Self { work, store, wanted }
    }

    fn root(&self) -> PathBuf {
        self.store.root_path(self.wanted.id())
    }

    fn drift(&self) -> Vec<String> {
        self.store.drifted_root(&self.wanted).map_or(Vec::new(), |drifted| drifted.names)
    }

    fn forget_record(&self) {
        let name = self.wanted.id().to_string();
        fs::remove_file(self.work.path().join("agent/roots").join(name)).unwrap();
    }
}

/// Writes to a file without changing its mtime.
fn rewrite(path: &Path, bytes: &[u8]) {
    let mut file = File::options().write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    file.write_all(bytes).unwrap();
    file.set_modified(time).unwrap();
}

type Damage = fn(&Path);

/// The kinds of damage to a root: the path that must be reported, a description, and a function
/// that causes the damage.
const DAMAGES: [(&str, &str, Damage); 17] = [
    ("dir", "a directory is missing", |root| fs::remove_dir_all(root.join("dir")).unwrap()),
    ("dir", "a directory became a symlink", |root| {
        fs::rename(root.join("dir"), root.join("moved")).unwrap();
        symlink("moved", root.join("dir")).unwrap();
    }),
    ("dir/sub", "a directory became a file", |root| {
        fs::remove_dir_all(root.join("dir/sub")).unwrap();
        fs::write(root.join("dir/sub"), "").unwrap();
    }),
    ("dir", "other users lost access to a directory", |root| {
        fs::set_permissions(root.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
    }),
    ("dir", "a directory has attributes", |root| {
        run("setfattr", &["-n", "user.x", "-v", "y", "dir"], root);
    }),
    ("link", "a symlink leads elsewhere", |root| {
        fs::remove_file(root.join("link")).unwrap();
        symlink("/etc/hostname", root.join("link")).unwrap();
    }),
    ("link", "a symlink became a file", |root| {
        fs::remove_file(root.join("link")).unwrap();
        fs::write(root.join("link"), "").unwrap();
    }),
    ("conf", "a file is missing", |root| fs::remove_file(root.join("conf")).unwrap()),
    ("conf", "a file was written to", |root| fs::write(root.join("conf"), "other").unwrap()),
    ("conf", "a file has another mode", |root| {
        fs::set_permissions(root.join("conf"), fs::Permissions::from_mode(0o666)).unwrap();
    }),
    ("conf", "a file has attributes", |root| {
        run("setfattr", &["-n", "user.x", "-v", "y", "conf"], root);
    }),
    ("tagged", "a file has no attributes", |root| {
        run("setfattr", &["-x", "user.tag", "tagged"], root);
    }),
    ("tagged", "a file has other attributes", |root| {
        run("setfattr", &["-n", "user.tag", "-v", "two", "tagged"], root);
    }),
    ("log", "a file that a service writes to is missing", |root| {
        fs::remove_file(root.join("log")).unwrap();
    }),
    (".", "other users lost access to the root", |root| {
        fs::set_permissions(root, fs::Permissions::from_mode(0o700)).unwrap();
    }),
    (".", "the root became a symlink", |root| {
        fs::rename(root, root.with_file_name("elsewhere")).unwrap();
        symlink("elsewhere", root).unwrap();
    }),
    (".", "the root became a file", |root| {
        fs::rename(root, root.with_file_name("elsewhere")).unwrap();
        fs::write(root, "").unwrap();
    }),
];

#[test]
fn modified_root_is_exchanged_for_a_sound_one() {
    for (dir, link) in directories().iter().flat_map(|dir| LINKS.map(|link| (dir, link))) {
        for (name, kind, damage) in DAMAGES {
            let what = format!("{kind}, {link:?}, {}", dir.display());
            let bench = Bench::new(dir, link);
            let want = dump(&bench.root());
            assert_eq!(bench.drift(), [""; 0], "{what}");
            damage(&bench.root());
            assert_eq!(bench.drift(), [name], "{what}");
            let changed = fs::symlink_metadata(bench.root()).unwrap().ino();
            let root = bench.store.rebuild_root(&bench.wanted).unwrap();
            assert!(!root.reused && !bench.root().is_symlink(), "{what}");
            same(&dump(&bench.root()), &want, &what);
            assert_eq!(bench.drift(), [""; 0], "{what}");
            // The replaced root is not removed, because a service may run in this root.
            let aside = root.replaced.expect(&what);
            assert_eq!(fs::symlink_metadata(&aside).unwrap().ino(), changed, "{what}");
        }
    }
}

#[test]
fn owners_and_capabilities_are_compared_if_restored() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run as root");
        return;
    }
    let damages: [(&str, Damage); 4] = [
        ("dir", |root| run("chown", &["1", "dir"], root)),
        ("link", |root| run("chown", &["-h", "1", "link"], root)),
        ("conf", |root| run("setcap", &["cap_net_bind_service=ep", "conf"], root)),
        (".", |root| run("chown", &["1", "."], root)),
    ];
    for dir in directories() {
        for (name, damage) in damages {
            let bench = Bench::new(&dir, LinkMode::Copy);
            damage(&bench.root());
            assert_eq!(bench.drift(), [name], "{}", dir.display());
        }
    }
}

#[test]
fn added_and_writable_files_are_not_drift() {
    for dir in directories() {
        let bench = Bench::new(&dir, LinkMode::Auto);
        // This write is also visible under the other name of the log.
        fs::write(bench.root().join("log"), "more").unwrap();
        fs::write(bench.root().join("dir/extra"), "").unwrap();
        fs::create_dir(bench.root().join("run")).unwrap();
        assert_eq!(bench.drift(), [""; 0]);
    }
}

/// An access list as the value of an extended attribute (acl(5)), in hex. The list has the
/// permissions of the mode 644, and an entry for the user with the number 1.
const LIST: &str =
    "0x0200000001000600ffffffff020004000100000004000400ffffffff10000400ffffffff20000400ffffffff";

#[test]
fn access_list_is_drift_unless_inherited() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run as root");
        return;
    }
    for dir in directories() {
        let bench = Bench::new(&dir, LinkMode::Copy);
        run("setfattr", &["-n", "system.posix_acl_access", "-v", LIST, "conf"], &bench.root());
        assert_eq!(bench.drift(), ["conf"]);
        let unpacked = bench.work.path().join("agent/unpacked");
        run("setfattr", &["-n", "system.posix_acl_default", "-v", LIST, "."], &unpacked);
        let Bench { work, store, wanted } = bench;
        drop(store);
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Copy)).unwrap();
        store.rebuild_root(&wanted).unwrap();
        assert_eq!(store.drifted_root(&wanted), None);
    }
}

/// A root is changed and rebuilt several times, as after several failed deploys. The store keeps
/// only two of the replaced roots: the first, which was in use, and the last.
#[test]
fn replaced_root_in_use_is_kept() {
    for dir in directories() {
        let bench = Bench::new(&dir, LinkMode::Auto);
        let in_use = fs::metadata(bench.root()).unwrap().ino();
        for _ in 0..5 {
            fs::write(bench.root().join("conf"), "changed").unwrap();
            let root = bench.store.rebuild_root(&bench.wanted).unwrap();
            assert_eq!(fs::metadata(root.replaced.unwrap()).unwrap().ino(), in_use);
        }
        let unpacked = fs::read_dir(bench.work.path().join("agent/unpacked")).unwrap();
        let names = unpacked.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.starts_with(".replaced")).count(), 2);
        // The next start still distinguishes these two roots.
        let Bench { work, store, wanted } = bench;
        drop(store);
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Auto)).unwrap();
        let root = store.root(&wanted).unwrap();
        assert!(root.reused);
        assert_eq!(fs::metadata(root.replaced.unwrap()).unwrap().ino(), in_use);
    }
}

/// Replaces the file `name` by an equal file with another inode.
fn split(root: &Path, name: &str) {
    run("cp", &["-p", name, "copy"], root);
    fs::rename(root.join("copy"), root.join(name)).unwrap();
}

/// Without the right links, a write to one name of a file would not be visible under the other
/// names. With wrong links, the write would be visible in an unrelated file.
#[test]
fn names_that_are_not_linked_as_in_the_layers_are_drift() {
    let damages: [(&str, &[&str], Damage); 6] = [
        ("the first name was replaced", &["bin", "dir/bin2", "name3"], |root| split(root, "bin")),
        ("the second name was replaced", &["bin", "dir/bin2"], |root| split(root, "dir/bin2")),
        ("the last name was replaced", &["bin", "name3"], |root| split(root, "name3")),
        ("all names were replaced", &["bin", "dir/bin2", "name3"], |root| {
            for name in ["bin", "dir/bin2", "name3"] {
                split(root, name);
            }
        }),
        ("an equal file was linked to the first name", &["equal"], |root| {
            run("ln", &["-f", "bin", "equal"], root);
        }),
        ("a file that a service writes to was replaced", &[], |root| split(root, "log")),
    ];
    for (dir, link) in directories().iter().flat_map(|dir| LINKS.map(|link| (dir, link))) {
        for (kind, names, damage) in &damages {
            let what = format!("{kind}, {link:?}, {}", dir.display());
            let bench = Bench::new(dir, link);
            let want = dump(&bench.root());
            damage(&bench.root());
            let mut drift = bench.drift();
            drift.sort();
            assert_eq!(drift, *names, "{what}");
            if !names.is_empty() {
                assert_eq!(bench.store.mend_root(&bench.wanted).unwrap(), [""; 0], "{what}");
                same(&dump(&bench.root()), &want, &what);
                let root = bench.store.rebuild_root(&bench.wanted).unwrap();
                assert!(!root.reused, "{what}");
                same(&dump(&bench.root()), &want, &what);
            }
        }
    }
}

#[test]
fn root_without_a_record_is_compared() {
    for (dir, link) in directories().iter().flat_map(|dir| LINKS.map(|link| (dir, link))) {
        let adopted = |damage: Damage, in_use| {
            let bench = Bench::new(dir, link);
            bench.forget_record();
            damage(&bench.root());
            let found = fs::metadata(bench.root()).unwrap().ino();
            let adopted = bench.store.adopt_root(&bench.wanted, in_use).unwrap();
            let root = bench.store.root(&bench.wanted).unwrap();
            assert_eq!(root.reused, adopted.is_some());
            assert_eq!(fs::metadata(&root.path).unwrap().ino() == found, adopted.is_some());
            assert_eq!(root.replaced.is_none(), adopted.is_some());
            adopted
        };
        for in_use in [false, true] {
            assert_eq!(adopted(|_| {}, in_use), Some(Vec::new()));
            assert_eq!(adopted(|root| fs::remove_file(root.join("conf")).unwrap(), in_use), None);
            assert_eq!(adopted(|root| fs::remove_dir_all(root.join("dir")).unwrap(), in_use), None);
        }
        // A root in use is adopted in spite of changed files, because a service may have written to
        // the files. A root that is not in use is adopted only if every byte is right.
        let written: Damage = |root| fs::write(root.join("conf"), "other").unwrap();
        let rewritten: Damage = |root| rewrite(&root.join("conf"), b"by conf");
        for damage in [written, rewritten] {
            assert_eq!(adopted(damage, true), Some(vec!["conf".to_owned()]));
            assert_eq!(adopted(damage, false), None);
        }
    }
}

/// The first repair uses only objects. Before the second repair, one object is removed, so one file
/// cannot be repaired.
#[test]
fn root_is_repaired_from_the_cache() {
    for (dir, link) in directories().iter().flat_map(|dir| LINKS.map(|link| (dir, link))) {
        let what = format!("{link:?}, {}", dir.display());
        let bench = Bench::new(dir, link);
        let want = dump(&bench.root());
        let root = bench.root();
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::remove_file(root.join("link")).unwrap();
        symlink("/etc/hostname", root.join("link")).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
        let found = fs::metadata(&root).unwrap().ino();
        assert_eq!(bench.store.mend_root(&bench.wanted).unwrap(), [""; 0], "{what}");
        assert_eq!(fs::metadata(&root).unwrap().ino(), found, "{what}: the root was replaced");
        same(&dump(&root), &want, &what);

        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::write(root.join("conf"), "changed").unwrap();
        let gone = "of conf";
        let agent = bench.work.path().join("agent");
        run("sh", &["-c", &format!("grep -rlxF '{gone}' objects | xargs -r rm")], &agent);
        assert_eq!(bench.store.mend_root(&bench.wanted).unwrap(), ["conf"], "{what}");
        assert_eq!(fs::read_to_string(root.join("conf")).unwrap(), "changed", "{what}");
        assert_eq!(fs::read_to_string(root.join("dir/sub/f")).unwrap(), "of dir/sub/f", "{what}");
        assert!(fs::read_dir(agent.join("unpacked")).unwrap().count() == 2, "leftovers exist");
    }
}
