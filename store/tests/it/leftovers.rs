//! Tests files that cannot be removed because they are mount points, immutable or append-only. The
//! store keeps these files with all their contents, and reports the reason. When the files can be
//! removed, the next sweep or start removes them. Until then, all other work of the store succeeds.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::rig::{configuration, layer, options, run};
use deploy_store::disk::{Dir, Mounts};
use deploy_store::{Configuration, Keep, LinkMode, Store, What};
use deploy_testing::{directories, in_own_mounts};

const LINKS: [LinkMode; 3] = [LinkMode::Auto, LinkMode::Hardlink, LinkMode::Copy];

/// A store with two roots. The first root is no longer needed.
struct Bench {
    work: tempfile::TempDir,
    store: Option<Store>,
    link: LinkMode,
    all: [Configuration; 2],
}

impl Bench {
    fn new(dir: &Path, link: LinkMode) -> Self {
        let work = tempfile::tempdir_in(dir).unwrap();
        fs::set_permissions(work.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let store = Store::open(&work.path().join("agent"), options(link)).unwrap();
        let all = ["1", "2"].map(|version| {
            let tree = work.path().join(version);
            fs::create_dir_all(tree.join("data/deep")).unwrap();
            fs::write(tree.join("data/file"), "of the root").unwrap();
            fs::write(tree.join("v"), version).unwrap();
            let archive = work.path().join(format!("{version}.tar"));
            run("tar", &["-cf", archive.to_str().unwrap(), "."], &tree);
            let all = configuration(&[layer(&store, "code", &archive)]);
            store.root(&all).unwrap();
            all
        });
        let precious = work.path().join("precious");
        fs::create_dir_all(precious.join("deep")).unwrap();
        fs::write(precious.join("deep/b"), "keep").unwrap();
        Self { work, store: Some(store), link, all }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn first(&self) -> PathBuf {
        self.store().root_path(self.all[0].id())
    }

    fn unpacked(&self) -> PathBuf {
        self.work.path().join("agent/unpacked")
    }

    /// The path of the root that was moved away. There must be exactly one such root.
    fn moved_root(&self) -> PathBuf {
        let all = fs::read_dir(self.unpacked()).unwrap().map(|entry| entry.unwrap().path());
        let moved: Vec<PathBuf> =
            all.filter(|path| path.to_string_lossy().contains("/.old-")).collect();
        assert_eq!(moved.len(), 1, "{moved:?}");
        moved[0].clone()
    }

    fn precious(&self) -> PathBuf {
        self.work.path().join("precious")
    }

    fn is_precious_whole(&self, what: &str) {
        assert_eq!(fs::read_to_string(self.precious().join("deep/b")).unwrap(), "keep", "{what}");
    }

    /// Sweeps the first root. If the root stays, returns the reason.
    fn sweep(&self) -> Option<String> {
        let keep = Keep {
            roots: Some(vec![(self.all[1].id(), "current")]),
            replaced: true,
            ..Keep::default()
        };
        let planned = self.store().plan_sweep(&keep).unwrap();
        let stuck = self.store().sweep(&planned).unwrap();
        let done = planned.without(stuck);
        done.stuck.first().map(|it| {
            assert!(matches!(it.what, What::Root | What::Leftover));
            it.why.clone()
        })
    }

    fn reopen(&mut self) {
        self.store = None;
        let dir = self.work.path().join("agent");
        self.store = Some(Store::open(&dir, options(self.link)).unwrap());
    }

    /// Checks that the next root and the next spare can be made while leftovers exist.
    fn goes_on(&self) {
        let third = configuration(&[
            self.all[0].layers()[0].clone(),
            deploy_store::Layer {
                component: "more".parse().unwrap(),
                ..self.all[1].layers()[0].clone()
            },
        ]);
        self.store().prepare_spare(&self.all[1]).unwrap();
        assert!(!self.store().rebuild_root(&third).unwrap().reused);
        self.store().prepare_spare(&third).unwrap();
        self.store().remove_spare().unwrap();
    }
}

/// A kind of mount: its name, and a function that mounts something in a root. The arguments of the
/// function are the root and a directory whose contents must not change.
type Mount = (&'static str, fn(&Path, &Path));

fn mounts() -> Vec<Mount> {
    vec![
        ("bind", |root, precious| {
            let at = root.join("data");
            run("mount", &["--bind", text(precious), text(&at)], Path::new("/"));
        }),
        ("bind, deep", |root, precious| {
            let at = root.join("data/deep");
            run("mount", &["--bind", text(precious), text(&at)], Path::new("/"));
        }),
        ("a file", |root, precious| {
            let (file, at) = (precious.join("deep/b"), root.join("data/file"));
            run("mount", &["--bind", text(&file), text(&at)], Path::new("/"));
        }),
        ("tmpfs", |root, _| {
            let at = root.join("data");
            run("mount", &["-t", "tmpfs", "none", text(&at)], Path::new("/"));
            fs::write(at.join("canary"), "keep").unwrap();
        }),
        ("the root itself", |root, precious| {
            run("mount", &["--bind", text(precious), text(root)], Path::new("/"));
        }),
        ("a loop device", |root, precious| {
            let image = precious.with_extension("img");
            fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
            run("mkfs.ext4", &["-q", text(&image)], Path::new("/"));
            let at = root.join("data");
            run("mount", &["-o", "loop", text(&image), text(&at)], Path::new("/"));
            fs::write(at.join("canary"), "keep").unwrap();
        }),
    ]
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Unmounts all mounts below `dir`. Returns the number of mounts that still had their canary file.
fn unmount(dir: &Path) -> usize {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points: Vec<PathBuf> =
        points.map(PathBuf::from).filter(|point| point.starts_with(dir)).collect();
    points.sort();
    let mut canaries = 0;
    for point in points.into_iter().rev() {
        canaries += usize::from(
            ["canary", "deep/b"].iter().any(|name| point.join(name).exists())
                || fs::read_to_string(&point).is_ok_and(|text| text == "keep"),
        );
        run("umount", &[text(&point)], Path::new("/"));
    }
    canaries
}

#[test]
fn root_with_a_mount_stays_until_unmounted() {
    if !in_own_mounts("leftovers::root_with_a_mount_stays_until_unmounted") {
        return;
    }
    for (dir, link) in directories().iter().flat_map(|dir| LINKS.map(|link| (dir, link))) {
        for (name, mount) in mounts() {
            let what = format!("{name}, {link:?}, {}", dir.display());
            let mut bench = Bench::new(dir, link);
            mount(&bench.first(), &bench.precious());
            let why = bench.sweep().expect(&what);
            assert!(why.contains("something is mounted on") && why.contains("unpacked"), "{why}");
            bench.goes_on();
            bench.reopen();
            assert!(bench.sweep().is_some(), "{what}: the next sweep must try again");
            // A rebuilt root cannot replace a root with a mount.
            let err = bench.store().rebuild_root(&bench.all[0]).unwrap_err().to_string();
            assert!(err.contains("something is mounted on"), "{what}: {err}");
            let drifted = bench.store().drifted_root(&bench.all[0]);
            assert!(drifted.is_none_or(|it| it.mounted.is_some()), "{what}");
            bench.is_precious_whole(&what);
            assert_eq!(unmount(&bench.unpacked()), 1, "{what}: the canary file must still exist");
            assert_eq!(bench.sweep(), None, "{what}");
            assert!(!bench.first().exists(), "{what}");
            bench.is_precious_whole(&what);
        }
    }
}

#[test]
fn store_opens_with_a_mounted_leftover() {
    if !in_own_mounts("leftovers::store_opens_with_a_mounted_leftover") {
        return;
    }
    for dir in directories() {
        for leftover in [".old-1-1", ".gone-1-1", ".new-1-1", ".spare-1-1"] {
            let mut bench = Bench::new(&dir, LinkMode::Auto);
            let at = bench.unpacked().join(leftover);
            fs::create_dir_all(at.join("data")).unwrap();
            fs::write(at.join("file"), "").unwrap();
            run(
                "mount",
                &["--bind", text(&bench.precious()), text(&at.join("data"))],
                Path::new("/"),
            );
            bench.reopen();
            bench.goes_on();
            bench.is_precious_whole(leftover);
            assert!(at.join("file").exists(), "{leftover}: a file of the leftover was removed");
            unmount(&bench.unpacked());
            bench.reopen();
            assert!(!at.exists(), "{leftover}");
            bench.is_precious_whole(leftover);
        }
    }
}

/// The removal gets an empty table of mounts. A mount that appears after the removal has read the
/// table has the same effect.
#[test]
fn removal_never_enters_a_mount() {
    if !in_own_mounts("leftovers::removal_never_enters_a_mount") {
        return;
    }
    for dir in directories() {
        let bench = Bench::new(&dir, LinkMode::Auto);
        let (tree, data) = (bench.work.path().join("tree"), bench.work.path().join("tree/a/data"));
        fs::create_dir_all(&data).unwrap();
        fs::write(tree.join("a/file"), "").unwrap();
        run("mount", &["--bind", text(&bench.precious()), text(&data)], Path::new("/"));
        let top = Dir::open(bench.work.path()).unwrap();
        let err = top.remove_unmounted(c"tree", &Mounts::default()).unwrap_err().to_string();
        assert!(err.contains("a/data") && err.contains("something is mounted on it"), "{err}");
        bench.is_precious_whole("bind");
        assert!(!tree.join("a/file").exists(), "the other files must be removed");
        unmount(&tree);
        top.remove_tree(c"tree").unwrap();
    }
}

/// Runs the previous test without `openat2` (Linux 5.6), and without the mount number of `statx`
/// (Linux 5.8). Older kernels lack these features, and system call filters may refuse the calls.
#[test]
#[allow(clippy::print_stderr, reason = "the test prints why it is skipped")]
fn removal_never_enters_a_mount_without_openat2() {
    if Command::new("strace").arg("-V").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "there is no strace");
        eprintln!("THE FALLBACK IS NOT TESTED: there is no strace");
        return;
    }
    let log = tempfile::tempdir().unwrap();
    for (calls, error) in [("openat2", "EPERM"), ("openat2,statx", "ENOSYS")] {
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error={error}"));
        let log = log.path().join("calls").into_os_string().into_string().unwrap();
        let strace = ["strace", "-f", "-qq", "-e", &trace, "-e", &inject, "-o", &log];
        let test = "leftovers::removal_never_enters_a_mount";
        let status = deploy_testing::run_test_again(&strace, test, "DEPLOY_TEST_STRACED");
        assert!(status.success(), "{error} of {calls}");
        let calls = fs::read_to_string(&log).unwrap();
        assert!(calls.contains("INJECTED") || !calls.contains("openat2("), "{calls}");
    }
}

#[test]
fn immutable_and_append_only_files_stay() {
    if !in_own_mounts("leftovers::immutable_and_append_only_files_stay") {
        return;
    }
    for dir in directories() {
        for (attribute, at, reason) in [
            ("i", "data/file", "it is immutable"),
            ("a", "data/file", "it is append-only"),
            ("i", "data", "its directory is immutable"),
            ("a", "data", "its directory is append-only"),
        ] {
            // The test uses copies, because a hardlink and its object would be immutable together.
            let mut bench = Bench::new(&dir, LinkMode::Copy);
            let path = bench.first().join(at);
            run("chattr", &[&format!("+{attribute}"), text(&path)], Path::new("/"));
            let why = bench.sweep().unwrap();
            assert!(why.contains(reason), "{attribute} {at}: {why}");
            assert!(!bench.first().exists(), "the root must be moved away");
            let left = bench.moved_root();
            assert!(left.join("data/file").exists() && !left.join("v").exists());
            assert!(bench.sweep().unwrap().contains(reason), "the next sweep must try again");
            bench.goes_on();
            bench.reopen();
            bench.goes_on();
            let left = bench.moved_root();
            run("chattr", &[&format!("-{attribute}"), text(&left.join(at))], Path::new("/"));
            assert_eq!(bench.sweep(), None);
            assert!(!left.exists());
        }
        // A root with an immutable top directory cannot be moved away, so the root stays published.
        let bench = Bench::new(&dir, LinkMode::Copy);
        run("chattr", &["+i", text(&bench.first())], Path::new("/"));
        assert!(bench.sweep().unwrap().contains("it is immutable"));
        let err = bench.store().rebuild_root(&bench.all[0]).unwrap_err();
        assert!(err.is_root_held() && err.to_string().contains("it is immutable"), "{err}");
        assert!(bench.first().join("data/file").exists());
        assert!(bench.store().marked(bench.all[0].id()).is_ok());
        run("chattr", &["-i", text(&bench.first())], Path::new("/"));
        assert_eq!(bench.sweep(), None);
    }
}

#[test]
fn store_opens_with_immovable_leftovers() {
    if !in_own_mounts("leftovers::store_opens_with_immovable_leftovers") {
        return;
    }
    for dir in directories() {
        let mut bench = Bench::new(&dir, LinkMode::Auto);
        let agent = bench.work.path().join("agent");
        // Some leftovers have the names that this process would use next.
        let pid = std::process::id();
        let mut left = Vec::new();
        for n in 0..200 {
            let name = agent.join(format!("objects/.new-{pid}-{n}"));
            if n % 50 == 0 && !name.exists() {
                fs::create_dir(&name).unwrap();
                fs::write(name.join("x"), "x").unwrap();
                left.push(name.join("x"));
            }
        }
        for name in ["layers/index-1-1", "partial/upload-1-1", "cache/temp-1"] {
            fs::write(agent.join(name), "x").unwrap();
            left.push(agent.join(name));
        }
        // The removal of this root was interrupted.
        let id = bench.all[0].id();
        fs::rename(bench.first(), bench.unpacked().join(format!(".old-{id}-1-1"))).unwrap();
        left.push(agent.join(format!("roots/{id}")));
        for path in &left {
            run("chattr", &["+i", text(path)], Path::new("/"));
        }
        bench.reopen();
        bench.goes_on();
        assert!(left.iter().all(|path| path.exists()));
        for path in &left {
            run("chattr", &["-i", text(path)], Path::new("/"));
        }
        bench.reopen();
        assert!(left.iter().all(|path| !path.exists()), "{left:?}");
    }
}

#[test]
fn object_made_immutable_is_copied() {
    if !in_own_mounts("leftovers::object_made_immutable_is_copied") {
        return;
    }
    for dir in directories() {
        let mut bench = Bench::new(&dir, LinkMode::Hardlink);
        let file = bench.first().join("data/file");
        for attribute in ["i", "a"] {
            run("chattr", &[&format!("+{attribute}"), text(&file)], Path::new("/"));
            bench.goes_on();
            bench.reopen();
            bench.goes_on();
            run("chattr", &[&format!("-{attribute}"), text(&file)], Path::new("/"));
        }
    }
}

#[test]
fn empty_mount_can_be_unpacked_into() {
    if !in_own_mounts("leftovers::empty_mount_can_be_unpacked_into") {
        return;
    }
    for dir in directories() {
        let bench = Bench::new(&dir, LinkMode::Auto);
        let (archive, into) = (bench.work.path().join("1.tar"), bench.work.path().join("into"));
        fs::create_dir(&into).unwrap();
        run("mount", &["-t", "tmpfs", "none", text(&into)], Path::new("/"));
        let archives = std::slice::from_ref(&archive);
        deploy_store::unpack(archives, &into, options(LinkMode::Auto)).unwrap();
        assert!(into.join("data/file").exists());
        run("umount", &[text(&into)], Path::new("/"));
        assert_eq!(fs::read_dir(&into).unwrap().count(), 0, "files were written below the mount");
    }
}
