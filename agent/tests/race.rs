//! Tests a race: the user `root` unpacks archives and builds roots in a directory that another user
//! owns. At the same time, that user replaces the directory's contents as fast as possible with
//! symlinks that lead outside the directory. The test checks that nothing outside the directory
//! changes. `DEPLOY_TEST_ROUNDS` sets the number of rounds; `10000` makes a long race.

#![allow(clippy::print_stderr, reason = "the test prints skipped parts and figures")]

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use deploy_agent::sandbox::{Confine, Confinement};
use deploy_store::{Configuration, Digest, Layer, Limits, LinkMode, Options, Store, unpack};
use rustix::fs::{CWD, RenameFlags, renameat_with};

const NOBODY: u32 = 65534;
const TRAP: &str = "trap";
const ASIDE: &str = "aside";
/// The text before the number of swaps in a swapper's output.
const SWAPS: &str = "swaps:";

fn options() -> Options {
    Options { limits: Limits::STANDARD, link: LinkMode::Auto, max_blob: 1 << 20, keep_blobs: false }
}

/// Replaces the contents of `dir` with symlinks to `outside` and back, until the file `stop`
/// exists. Returns the number of swaps. The function makes the symlinks in `dir`, because moving a
/// directory to another parent needs write permission for the moved directory.
fn swap(dir: &Path, outside: &Path, stop: &Path) -> u64 {
    let (trap, aside) = (dir.join(TRAP), dir.join(ASIDE));
    let mut swaps = 0_u64;
    while !stop.exists() {
        let names = fs::read_dir(dir).into_iter().flatten().flatten();
        // The function reads all names first, because reading a directory while it changes may
        // never end.
        let names: Vec<OsString> = names.map(|entry| entry.file_name()).collect();
        for name in names.iter().filter(|name| *name != TRAP && *name != ASIDE) {
            let path = dir.join(name);
            // The function ignores errors, because the name may have disappeared meanwhile.
            let _ = symlink(outside, &trap);
            for _ in 0..2 {
                if renameat_with(CWD, &path, CWD, &trap, RenameFlags::EXCHANGE).is_ok() {
                    swaps += 1;
                }
            }
            // In some swaps, the name is missing for a moment, and then a symlink takes its place.
            if swaps.is_multiple_of(7) && fs::rename(&path, &aside).is_ok() {
                let _ = symlink(outside, &path);
                let _ = fs::remove_file(&path);
                let _ = fs::rename(&aside, &path);
            }
            let _ = fs::remove_file(&trap);
        }
    }
    swaps
}

/// The other side of the race. The test below starts this test program again as another user. That
/// process runs only this test.
#[test]
fn swap_entries_for_symlinks() {
    let [dir, outside, stop] = ["SWAP", "OUTSIDE", "STOP"].map(std::env::var_os);
    if let (Some(dir), Some(outside), Some(stop)) = (dir, outside, stop) {
        let swaps = swap(Path::new(&dir), Path::new(&outside), Path::new(&stop));
        eprintln!("{SWAPS} {swaps}");
    }
}

struct Swapper(Child);

impl Swapper {
    fn start(program: &Path, dir: &Path, outside: &Path, stop: &Path) -> Self {
        let mut command = Command::new(program);
        command
            .args(["--exact", "swap_entries_for_symlinks", "--nocapture"])
            .uid(NOBODY)
            .gid(NOBODY);
        command.env("SWAP", dir).env("OUTSIDE", outside).env("STOP", stop);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Waits until the swapper ends, and returns the number of swaps that it printed.
    fn swaps(mut self) -> u64 {
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let swaps = said.lines().find_map(|line| line.strip_prefix(SWAPS)?.trim().parse().ok());
        swaps.unwrap_or_else(|| panic!("the swapper printed {said:?}"))
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A layer whose contents depend on `n`, with directories that every user may write to.
fn archive(n: usize) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in
        [("open", true), ("open/deep", true), ("open/deep/canary", false), ("canary", false)]
    {
        let text = if kind { String::new() } else { format!("from the archive {n}") };
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(if kind {
            tar::EntryType::Directory
        } else {
            tar::EntryType::Regular
        });
        header.set_mode(0o777);
        header.set_uid(NOBODY.into());
        header.set_gid(NOBODY.into());
        header.set_mtime(1);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn state_of(dir: &Path) -> Vec<String> {
    let mut all = vec![describe(dir)];
    let mut names: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        all.push(describe(&path));
        if path.is_dir() && !path.is_symlink() {
            all.extend(state_of(&path));
        }
    }
    all
}

fn describe(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).unwrap();
    let contents = meta.is_file().then(|| fs::read(path).unwrap());
    let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
    let inode = (meta.ino(), meta.nlink(), meta.mode(), meta.uid(), meta.gid());
    format!("{} {inode:?} {times:?} {contents:?}", path.display())
}

fn configuration(digest: Digest) -> Configuration {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let layer = Layer {
        component: "c".parse().unwrap(),
        version: "v".parse().unwrap(),
        digest,
        created: now,
    };
    Configuration::new("p".parse().unwrap(), vec![layer], now).unwrap()
}

#[test]
fn directory_owner_cannot_make_root_write_elsewhere() {
    if !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run as root");
        eprintln!("NOT TESTED: the race against root; this test needs root");
        return;
    }
    let rounds = std::env::var("DEPLOY_TEST_ROUNDS").map_or(300, |rounds| rounds.parse().unwrap());
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| temp.path().join(name);
    // Makes directories and files outside the directory. If an attack succeeded, files of the
    // archive would replace them.
    let outside = at("outside");
    for dir in ["outside", "outside/open", "outside/open/deep", "outside/root"] {
        fs::create_dir(at(dir)).unwrap();
    }
    for canary in ["outside/canary", "outside/open/canary", "outside/open/deep/canary"] {
        fs::write(at(canary), "canary").unwrap();
    }
    let program = at("swapper");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let dirs = ["agent", "unpack"].map(at);
    for dir in &dirs {
        fs::create_dir(dir).unwrap();
        chown(dir, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let before = state_of(&outside);
    let stop = at("stop");
    let swappers = [0, 1].map(|n| Swapper::start(&program, &dirs[n], &outside, &stop));
    let source = at("archive");
    let (mut done, mut refused) = (0, 0);
    let mut store: Option<(Store, Confinement)> = None;
    for n in 0..rounds {
        fs::write(&source, archive(n)).unwrap();
        let ok = if n % 2 == 0 {
            unpack(std::slice::from_ref(&source), &dirs[1].join(format!("root{n}")), options())
                .is_ok()
        } else {
            if n % 40 == 1 {
                store = None;
            }
            // Half of these rounds run without the sandbox, because the store must also be safe
            // without the sandbox.
            let how = if n % 80 < 40 { Confine::Off } else { Confine::Auto };
            let open = |_| {
                Some((Store::open(&dirs[0], options()).ok()?, Confinement::to(&dirs[0], how).ok()?))
            };
            store = store.or_else(|| (0..50).find_map(open));
            let Some((store, walls)) = &store else { continue };
            walls
                .run(|| {
                    let bytes = fs::read(&source)
                        .map_err(|err| deploy_store::Error::io("read", &source, err))?;
                    let digest = Digest::of(&bytes);
                    store.blobs().ingest(digest, &*bytes)?;
                    store.extract(digest)?;
                    store.root(&configuration(digest)).map(drop)
                })
                .is_ok()
        };
        if ok {
            done += 1;
        } else {
            refused += 1;
        }
        if n % 20 == 0 {
            assert_eq!(state_of(&outside), before, "round {n}");
        }
    }
    assert_eq!(state_of(&outside), before);
    fs::write(&stop, "").unwrap();
    let swaps: u64 = swappers.map(Swapper::swaps).iter().sum();
    eprintln!("race: {rounds} rounds, {done} done and {refused} refused, {swaps} swaps");
    assert!(swaps > rounds as u64, "only {swaps} swaps");
    assert!(done > 0, "all rounds were refused");
}
