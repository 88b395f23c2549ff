//! Tests hardlinked files. Services and scripts change files of a root in many ways. No later root
//! shows such a change. If a service repeats the change, no further download is needed.

mod private_files;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::rig::{configuration, layer, options, run};
use deploy_store::{Configuration, LinkMode, SpareOutcome, Store, private_paths};
use deploy_testing::directories;

/// A store with one layer of code and three alternative layers of settings. Each layer of settings
/// has its own configuration.
struct Bench {
    work: tempfile::TempDir,
    store: Store,
    code: PathBuf,
    wanted: Vec<Configuration>,
}

const FILES: [&str; 4] = ["a/data", "a/other", "bin/server", "conf"];

impl Bench {
    fn new(dir: &Path, keep_blobs: bool) -> Self {
        let work = tempfile::tempdir_in(dir).unwrap();
        let options = deploy_store::Options { keep_blobs, ..options(LinkMode::Hardlink) };
        let store = Store::open(&work.path().join("agent"), options).unwrap();
        let pack = |name: &str, files: &[&str]| {
            let tree = work.path().join(name);
            for path in files {
                let path = tree.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, format!("{name} {}", path.display())).unwrap();
                run("touch", &["-d", "@1700000000", path.to_str().unwrap()], &tree);
            }
            if name == "code" {
                fs::create_dir_all(tree.join("var")).unwrap();
                fs::hard_link(tree.join("a/other"), tree.join("var/other")).unwrap();
            }
            let archive = work.path().join(format!("{name}.tgz"));
            run("tar", &["-czf", archive.to_str().unwrap(), "."], &tree);
            archive
        };
        let code = pack("code", &FILES);
        let base = layer(&store, "code", &code);
        let wanted = ["one", "two", "three"].map(|name| {
            let bump = layer(&store, "config", &pack(name, &["version"]));
            configuration(&[base.clone(), bump])
        });
        Self { work, store, code, wanted: wanted.into() }
    }

    /// Deploys the configuration number `n`, and makes the spare.
    fn deploy(&self, n: usize) -> PathBuf {
        let root = self.store.root(&self.wanted[n]).unwrap().path;
        assert_eq!(self.store.prepare_spare(&self.wanted[n]).unwrap(), SpareOutcome::Ready);
        root
    }

    /// Checks that every file of the code layer in the root of the configuration number `n` matches
    /// the archive.
    fn is_right(&self, n: usize, what: &str) {
        let root = self.store.root(&self.wanted[n]).unwrap().path;
        for path in FILES.iter().chain(&["var/other"]) {
            let from = if *path == "var/other" { "a/other" } else { path };
            let wanted = self.work.path().join("code").join(from);
            let (seen, wanted_meta) = (root.join(path), fs::metadata(&wanted).unwrap());
            assert_eq!(fs::read(&seen).unwrap(), fs::read(&wanted).unwrap(), "{what}: {path}");
            let meta = fs::metadata(&seen).unwrap();
            let carried = |meta: &fs::Metadata| (meta.mode(), meta.uid(), meta.gid(), meta.mtime());
            assert_eq!(carried(&meta), carried(&wanted_meta), "{what}: {path}");
            let mut names = Vec::with_capacity(4096);
            let listed = rustix::fs::listxattr(&seen, rustix::buffer::spare_capacity(&mut names));
            assert!(listed.is_err() || names.is_empty(), "{what}: {path} has attributes");
        }
        let inode = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
        assert_eq!(inode("a/other"), inode("var/other"), "{what}");
    }

    fn private(&self) -> Vec<String> {
        let paths = private_paths(&self.work.path().join("agent")).unwrap();
        paths.into_iter().map(|(path, _)| path.to_string()).collect()
    }
}

/// A file that a service still has open or mapped. The service writes to this file later.
enum Held {
    Nothing,
    File(File),
    Mapping(Child),
}

impl Held {
    fn write(self) {
        match self {
            Self::Nothing => {}
            Self::File(mut file) => file.write_all(b"X").unwrap(),
            Self::Mapping(mut child) => {
                writeln!(child.stdin.take().unwrap(), "write").unwrap();
                assert!(child.wait().unwrap().success());
            }
        }
    }
}

type Touch = (&'static str, fn(&Path) -> Held);

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// Starts a process that maps the file. When the process gets a line on its standard input, the
/// process writes to the mapping.
fn mapping(path: &Path) -> Child {
    let script = "import mmap, sys\n\
        f = open(sys.argv[1], 'r+b'); m = mmap.mmap(f.fileno(), 0)\n\
        m[0] = m[0]; print('mapped', flush=True); sys.stdin.readline(); m[0] = 88; m.flush()";
    let mut child = Command::new("python3")
        .args(["-c", script, path.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let out = child.stdout.as_mut().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
    assert_eq!(line, "mapped\n");
    child
}

const TOUCHES: [Touch; 12] = [
    ("written", |root| {
        fs::write(root.join("a/data"), "other").unwrap();
        Held::Nothing
    }),
    ("written, with its time put back", |root| {
        let path = root.join("a/data");
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let length = fs::metadata(&path).unwrap().len();
        let file = open(&path);
        (&file).write_all(&vec![b'X'; usize::try_from(length).unwrap()]).unwrap();
        file.set_modified(time).unwrap();
        Held::Nothing
    }),
    ("another mode", |root| {
        fs::set_permissions(root.join("conf"), fs::Permissions::from_mode(0o600)).unwrap();
        Held::Nothing
    }),
    ("another owner", |root| {
        run("chown", &["-R", "33:33", "."], root);
        Held::Nothing
    }),
    ("an attribute", |root| {
        run("setfattr", &["-n", "user.x", "-v", "y", "bin/server"], root);
        Held::Nothing
    }),
    ("capabilities", |root| {
        run("setcap", &["cap_net_bind_service+ep", "bin/server"], root);
        Held::Nothing
    }),
    ("renamed, and written to", |root| {
        fs::rename(root.join("a/data"), root.join("a/data.1")).unwrap();
        fs::write(root.join("a/data.1"), "more").unwrap();
        Held::Nothing
    }),
    ("linked, and written to through the other name", |root| {
        fs::hard_link(root.join("a/data"), root.join("conf.bak")).unwrap();
        fs::write(root.join("conf.bak"), "more").unwrap();
        Held::Nothing
    }),
    ("renamed into a new directory, and written to", |root| {
        fs::create_dir(root.join("own")).unwrap();
        fs::rename(root.join("conf"), root.join("own/conf")).unwrap();
        fs::write(root.join("own/conf"), "more").unwrap();
        Held::Nothing
    }),
    ("one of two names written to", |root| {
        fs::write(root.join("var/other"), "other").unwrap();
        Held::Nothing
    }),
    ("open for writing", |root| Held::File(open(&root.join("a/data")))),
    ("mapped", |root| Held::Mapping(mapping(&root.join("a/data")))),
];

fn each_touch(mut test: impl FnMut(&Path, &str, fn(&Path) -> Held)) {
    let root = rustix::process::geteuid().is_root();
    for dir in directories() {
        for (what, touch) in TOUCHES {
            if root || !matches!(what, "another owner" | "capabilities") {
                test(&dir, what, touch);
            }
        }
    }
}

#[test]
fn changes_to_a_root_do_not_reach_the_next_root() {
    each_touch(|dir, what, touch| {
        // The file is changed either before or after the spare is made.
        for early in [true, false] {
            let bench = Bench::new(dir, true);
            let root = bench.store.root(&bench.wanted[0]).unwrap().path;
            let held = early.then(|| touch(&root));
            bench.store.prepare_spare(&bench.wanted[0]).unwrap();
            let held = held.unwrap_or_else(|| touch(&root));
            held.write();
            bench.is_right(1, what);
            bench.store.prepare_spare(&bench.wanted[1]).unwrap();
            bench.is_right(2, what);
        }
    });
}

#[test]
fn writes_through_an_open_file_of_a_removed_root_reach_no_root() {
    each_touch(|dir, what, touch| {
        let bench = Bench::new(dir, true);
        let held = touch(&bench.deploy(0));
        bench.is_right(1, what);
        bench.store.prepare_spare(&bench.wanted[1]).unwrap();
        bench.store.sweep_roots(&[bench.wanted[1].id()]).unwrap();
        held.write();
        bench.is_right(2, what);
        // After a restart, there are no watches, and the saved seals may be outdated.
        let Bench { work, store, wanted, code } = bench;
        drop(store);
        let store = Store::open(&work.path().join("agent"), options(LinkMode::Hardlink)).unwrap();
        store.sweep_roots(&[wanted[2].id()]).unwrap();
        Bench { work, store, code, wanted }.is_right(0, what);
    });
}

/// A function that runs before the third root is built, and determines how this root is built.
type Before = fn(&Bench);
const WAYS: [(&str, Before); 3] = [
    ("from the spare", |_| {}),
    ("without a spare", |bench| assert!(bench.store.remove_spare().unwrap())),
    ("from a spare that was made later", |bench| {
        assert!(bench.store.remove_spare().unwrap());
        bench.store.prepare_spare(&bench.wanted[1]).unwrap();
    }),
];

/// Runs `touch` on the second root, builds the third root, and then runs `write_later`. The third
/// root must not change. The function repeats these steps for every way to build the third root.
/// For each way, the second root is once in use and once removed.
fn each_way<H>(touch: impl Fn(&Bench, &Path) -> H, write_later: impl Fn(&Bench, H)) {
    for dir in directories() {
        for (way, before) in WAYS {
            for gone in [false, true] {
                let what = format!(
                    "{way}, {}",
                    if gone { "second root removed" } else { "second root in use" }
                );
                let bench = Bench::new(&dir, true);
                bench.deploy(0);
                // At this point, the store has recorded for every object that no process has the
                // object open.
                let root = bench.deploy(1);
                let left = touch(&bench, &root);
                if gone {
                    bench.store.sweep_roots(&[bench.wanted[0].id()]).unwrap();
                    assert!(!root.exists());
                }
                before(&bench);
                bench.store.root(&bench.wanted[2]).unwrap();
                write_later(&bench, left);
                bench.is_right(2, &what);
            }
        }
    }
}

#[test]
fn opened_file_is_never_shared_with_the_next_root() {
    each_way(|_, root| Held::File(open(&root.join("a/data"))), |_, held| held.write());
}

#[test]
fn moved_file_is_never_shared_with_the_next_root() {
    let away = |bench: &Bench| bench.work.path().join("away");
    each_way(
        |bench, root| fs::rename(root.join("a/data"), away(bench)).unwrap(),
        |bench, ()| fs::write(away(bench), "other").unwrap(),
    );
}

#[test]
#[allow(clippy::print_stderr, reason = "the test prints why it is skipped")]
fn every_file_is_checked_without_inotify_watches() {
    const INSIDE: &str = "DEPLOY_TEST_NO_WATCHES";
    let test = "shared::every_file_is_checked_without_inotify_watches";
    if std::env::var_os(INSIDE).is_some() {
        let work = std::env::temp_dir();
        for (what, touch) in TOUCHES {
            // In a user namespace, no other users exist, so the owner of a file cannot be changed.
            if matches!(what, "another owner" | "capabilities") {
                continue;
            }
            let bench = Bench::new(&work, true);
            let held = touch(&bench.deploy(0));
            held.write();
            bench.is_right(1, what);
            bench.store.prepare_spare(&bench.wanted[1]).unwrap();
            bench.is_right(2, what);
        }
        return;
    }
    // The test runs twice, each time in a new user namespace with another limit: no inotify
    // instance, or fewer watches than directories.
    for (limit, most) in [("instances", 0), ("watches", 3)] {
        let script =
            format!("echo {most} >/proc/sys/user/max_inotify_{limit} || exit 77; exec \"$@\"");
        let before = ["unshare", "-r", "sh", "-c", &script, "sh"];
        let status = deploy_testing::run_test_again(&before, test, INSIDE);
        if status.code() == Some(77) || status.code() == Some(1) {
            assert!(std::env::var_os("CI").is_none(), "CI must run as root");
            eprintln!("{test} IS SKIPPED: no user namespace can be made");
            return;
        }
        assert!(status.success(), "{most} {limit}");
    }
}
