//! Simulates a power cut at every moment of a "day", which is a fixed list of deploys and other
//! work. Registry and agent run on ext4 in a guest with user-mode Linux, and dm-log-writes logs
//! every write. The test mounts each state of the disk, and also states that have lost unflushed
//! writes. In each state, every acknowledged change is present, every visible name is complete, and
//! the programs continue the work after their next start.
//!
//! `scripts/test-crash` runs this test. Without `DEPLOY_TEST_CRASH`, the test only prints that it
//! does not run.

#![allow(clippy::print_stdout, reason = "the test prints skipped parts and figures")]

#[path = "it/log_writes/mod.rs"]
mod log_writes;
#[path = "it/trees/mod.rs"]
mod trees;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use deploy_registry::registry::{Registry, Settings};
use deploy_registry::verbs::verify_blobs::Scope;
use deploy_store::disk::Dir;
use deploy_store::{Configuration, Digest, Layer, Limits, LinkMode, Options, Store};
use log_writes::{Log, State};
use trees::{Files, archive, files, read};

/// Size of the guest's disk, in bytes. The disk must have room for a spare root, and some more free
/// space.
const DISK: u64 = 256 << 20;
const LOG: u64 = 2 << 30;
/// Number of states with lost writes that the test makes before each flush.
const LOSSY: u64 = 2;
/// Number of disks that the test checks at the same time.
const WORKERS: usize = 2;

/// The work of the guest, and the states that must result from the work.
struct Day {
    todo: String,
    blobs: BTreeMap<String, (Digest, Vec<u8>)>,
    /// The states of the configuration, in order, with the files of each state.
    states: Vec<(Configuration, Files)>,
    files: BTreeMap<(String, String), Files>,
}

impl Day {
    fn new() -> Self {
        let mut day = Self {
            todo: String::new(),
            blobs: BTreeMap::new(),
            states: Vec::new(),
            files: BTreeMap::new(),
        };
        day.add("code", "v1");
        day.add("config", "v1");
        day.state("addconf -name p -layer code:v1 -layer config:v1", ["v1", "v1"]);
        day.todo += "agent\n";
        day.deployed();
        for version in ["v2", "v3"] {
            day.add("config", version);
            day.state(
                &format!("changeconf -name p -component config -version {version}"),
                ["v1", version],
            );
            day.deployed();
        }
        // Adds versions that gc removes, and versions that gc must keep.
        day.add("config", "v4");
        day.add("junk", "v1");
        day.todo += "op delcomp -name junk\nop gc\nmark gc\n";
        day.add("code", "v2");
        day.state("changeconf -name p -component code -version v2", ["v2", "v3"]);
        day.deployed();
        day.todo += "op gc\nmark gc\n";
        day.state("rollback -name p", ["v1", "v3"]);
        day.deployed();
        day.todo += "op verify\nmark verified\n";
        day
    }

    fn add(&mut self, component: &str, version: &str) {
        let text = format!("{component} {version}");
        let list: Vec<(String, String)> = match component {
            "code" => {
                (0..40).map(|n| (format!("lib/{}/{n}", n % 5), format!("{text} {n}"))).collect()
            }
            _ => (0..3).map(|n| (format!("etc/{n}"), text.clone())).collect(),
        };
        let files = files(list);
        let bytes = archive(&files);
        let (name, digest) = (format!("{component}-{version}"), Digest::of(&bytes));
        self.blobs.insert(name.clone(), (digest, bytes));
        self.files.insert((component.to_owned(), version.to_owned()), files);
        let _ = writeln!(self.todo, "put {name}");
        let _ =
            writeln!(self.todo, "op addver -name {component} -version {version} -hash {digest}");
        let _ = writeln!(self.todo, "mark version:{component}:{version}");
    }

    fn state(&mut self, line: &str, versions: [&str; 2]) {
        let (mut layers, mut all) = (Vec::new(), Files::new());
        for (component, version) in ["code", "config"].into_iter().zip(versions) {
            let (digest, _) = self.blobs[&format!("{component}-{version}")];
            let created = "2026-01-01T00:00:00Z".parse().unwrap();
            let (name, label) = (component.parse().unwrap(), version.parse().unwrap());
            layers.push(Layer { component: name, version: label, digest, created });
            all.extend(self.files[&(component.to_owned(), version.to_owned())].clone());
        }
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let configuration = Configuration::new("p".parse().unwrap(), layers, now).unwrap();
        let _ = writeln!(self.todo, "op {line}\nmark configured:{}", self.states.len());
        self.states.push((configuration, all));
    }

    fn deployed(&mut self) {
        let _ = writeln!(self.todo, "deployed deployed:{}", self.states.len() - 1);
    }

    /// Does the work in the guest. Returns the paths of a copy of the disk from before the work,
    /// and of the log of all writes.
    fn live(&self, work: &Path) -> (PathBuf, PathBuf) {
        let (disk, base, log) = (work.join("disk"), work.join("base"), work.join("log"));
        for (path, size) in [(&disk, DISK), (&log, LOG)] {
            File::create(path).unwrap().set_len(size).unwrap();
        }
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-J", "size=8"]).arg(&disk));
        run(Command::new("cp").arg("--sparse=always").args([&disk, &base]));
        let out = work.join("out");
        fs::create_dir(&out).unwrap();
        for key in ["op", "srv"] {
            let keygen = ["-q", "-t", "ed25519", "-N", "", "-f"];
            run(Command::new("ssh-keygen").args(keygen).arg(out.join(key)));
        }
        for (name, (_, bytes)) in &self.blobs {
            fs::write(out.join(name), bytes).unwrap();
        }
        fs::write(out.join("todo"), &self.todo).unwrap();
        // The script runs so long that the filesystem's journal commits before the script ends.
        // That commit contains the visible root, but no later change.
        fs::write(out.join("script"), "#!/bin/sh\nsleep 2\n").unwrap();
        fs::set_permissions(out.join("script"), fs::Permissions::from_mode(0o755)).unwrap();
        let guest = deploy_testing::package().join("tests/power_cut/guest");
        let bin = Path::new(env!("CARGO_BIN_EXE_deploy-agent")).parent().unwrap();
        let set = |name: &str, value: &Path| format!("{name}={}", value.display());
        let ended = Command::new("timeout")
            .args(["-s", "KILL", "300", "linux.uml", "mem=768M", "root=/dev/root"])
            .args(["rootfstype=hostfs", "rootflags=/", "ro", "con=null", "quiet", "panic=-1"])
            .args([set("init", &guest), set("ubd0", &disk), set("ubd1", &log)])
            .args([set("WORK", &out), set("BIN", bin)])
            .env("TMPDIR", roomy())
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let finished = fs::read_to_string(out.join("finished")).unwrap_or_default();
        let told = fs::read_to_string(out.join("guest.log")).unwrap_or_default();
        assert_eq!(finished.trim(), "done", "{told}\n{}", String::from_utf8_lossy(&ended.stdout));
        (base, log)
    }

    /// Checks a copy of a disk. If a check fails, keeps the disk.
    fn look(&self, image: &Path, at: &Path, state: &State, threads: &tokio::runtime::Runtime) {
        let mounted = image.with_extension("mounted");
        run(Command::new("cp").arg("--sparse=always").args([image, &mounted]));
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mounted = Mounted::new(&mounted, at);
            self.check(mounted.0, state, threads);
        }));
        fs::remove_file(&mounted).unwrap();
        if let Err(panic) = checked {
            let kept = std::env::temp_dir().join("deploy-power-cut.img");
            run(Command::new("cp").arg("--sparse=always").args([image, &kept]));
            println!("{state:?}: the disk image was kept as {}", kept.display());
            std::panic::resume_unwind(panic);
        }
    }

    /// Checks that every change that was acknowledged before this state is present and complete,
    /// and that the programs continue the work.
    fn check(&self, disk: &Path, state: &State, threads: &tokio::runtime::Runtime) {
        let told = |kind: &str| {
            let numbers =
                state.marks.iter().filter_map(|mark| mark.strip_prefix(kind)?.parse().ok());
            numbers.max()
        };
        let (configured, deployed): (Option<usize>, Option<usize>) =
            (told("configured:"), told("deployed:"));
        threads.block_on(self.check_registry(&disk.join("reg"), state, configured));
        self.check_agent(disk, deployed, configured);
    }

    async fn check_registry(&self, dir: &Path, state: &State, configured: Option<usize>) {
        // These are the settings of the guest's registry.
        let (max_versions, keep_states, grace) = (2, 2, Duration::ZERO);
        let settings = Settings { max_versions, keep_states, grace, ..Settings::default() };
        let registry = Registry::open(dir, settings).await.unwrap();
        let verified = registry.verify(Scope::default()).await.unwrap();
        assert!(verified.findings.is_empty(), "{verified:?}");
        for mark in &state.marks {
            let mut parts = mark.split(':');
            let (Some("version"), Some(component), Some(version)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            // The registry deletes these versions during the day, so they may be missing.
            if matches!((component, version), ("junk", _) | ("config", "v1" | "v2")) {
                continue;
            }
            let versions = registry.catalog.versions(&component.parse().unwrap()).await;
            let there = versions.unwrap().iter().any(|layer| layer.version.as_str() == version);
            assert!(there, "{mark} is gone");
        }
        if let Some(at_least) = configured {
            let now = registry.catalog.configuration(&"p".parse().unwrap()).await.unwrap();
            let right = self.states[at_least..].iter().any(|(state, _)| state.id() == now.id());
            assert!(right, "the configuration is older than {at_least}: {now:?}");
        }
        let gone = registry.collect(true).await.unwrap();
        let verified = registry.verify(Scope::default()).await.unwrap();
        assert!(verified.findings.is_empty(), "after gc of {gone:?}: {verified:?}");
        registry.catalog.close().await;
    }

    fn check_agent(&self, disk: &Path, deployed: Option<usize>, configured: Option<usize>) {
        let dir = disk.join("agent");
        for (configuration, files) in &self.states {
            let id = configuration.id().to_string();
            let root = dir.join("unpacked").join(&id);
            if dir.join("roots").join(&id).exists() && root.exists() {
                assert_eq!(read(&root), *files, "root {id}");
            }
        }
        if let Some(at_least) = deployed {
            let json = fs::read(disk.join("state.json")).unwrap();
            let id = Configuration::from_json(&json).unwrap().id();
            let right = self.states[at_least..].iter().any(|(state, _)| state.id() == id);
            assert!(right, "the deployed configuration is older than {at_least}");
            assert!(dir.join("unpacked").join(id.to_string()).exists(), "root {id} is gone");
        } else if let Ok(json) = fs::read(disk.join("state.json")) {
            Configuration::from_json(&json).unwrap();
        }
        // The next start finds the root, or makes the root from cached or downloaded layers.
        let limits = Limits::STANDARD;
        let options =
            Options { limits, link: LinkMode::Auto, max_blob: 1 << 20, keep_blobs: false };
        let store = Store::open(&dir, options).unwrap();
        let mut findings = Vec::new();
        deploy_store::verify(&dir, |finding| findings.push(finding)).unwrap();
        // A truncated record is not a fault, because the next deploy writes the record again.
        findings.retain(|finding| !finding.what.contains("cannot be compared"));
        assert!(findings.is_empty(), "{findings:?}");
        let (wanted, files) = &self.states[configured.unwrap_or(0)];
        for layer in wanted.layers() {
            if !store.has_layer(layer.digest).unwrap() {
                let (_, bytes) =
                    self.blobs.values().find(|(digest, _)| *digest == layer.digest).unwrap();
                store.blobs().ingest(layer.digest, bytes.as_slice()).unwrap();
                store.extract(layer.digest).unwrap();
            }
        }
        let root = store.root(wanted).unwrap();
        assert_eq!(read(&root.path), *files);
        store.sweep_cache(&[wanted], SystemTime::now()).unwrap();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}

/// Returns the directory `/dev/shm`, in which syncs take no time, if it has room for the guest's
/// memory and disks. Otherwise returns the directory for temporary files.
fn roomy() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let free = Dir::open(memory).and_then(|dir| dir.free()).map_or(0, |(bytes, _)| bytes);
    if free > 3 << 30 { memory.to_owned() } else { std::env::temp_dir() }
}

/// A mounted disk. Dropping this value unmounts the disk.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn new(image: &Path, at: &'a Path) -> Self {
        run(Command::new("mount").args(["-o", "loop"]).args([image, at]));
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Files on the disk may still be open, so the unmount is lazy.
            return run(Command::new("umount").arg("-l").arg(self.0));
        }
        // A child process of the other worker may have this worker's files open until the child
        // executes its program. Therefore the test tries to unmount several times.
        let umount = || Command::new("umount").arg("-d").arg(self.0).output().unwrap();
        let unmounted = (0..100).any(|_| {
            let done = umount().status.success();
            if !done {
                std::thread::sleep(Duration::from_millis(20));
            }
            done
        });
        assert!(unmounted, "{} stays busy", self.0.display());
    }
}

#[test]
fn power_cut_at_any_moment_loses_nothing() {
    if std::env::var_os("DEPLOY_TEST_CRASH").is_none() {
        println!("NOT TESTED: power cuts; run scripts/test-crash as root");
        return;
    }
    let day = Day::new();
    let work = tempfile::tempdir_in(roomy()).unwrap();
    let began = Instant::now();
    let (base, log) = day.live(work.path());
    let seed = std::env::var("DEPLOY_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("the day took {:?}; DEPLOY_TEST_SEED={seed}", began.elapsed());
    let mut states = [0_u64; 2];
    let (give, take) = sync_channel::<(PathBuf, State)>(1);
    let take = Arc::new(Mutex::new(take));
    std::thread::scope(|scope| {
        for number in 0..WORKERS {
            let (take, at) = (Arc::clone(&take), work.path().join(format!("at{number}")));
            let day = &day;
            scope.spawn(move || {
                let threads = tokio::runtime::Runtime::new().unwrap();
                fs::create_dir(&at).unwrap();
                loop {
                    let next = take.lock().unwrap().recv();
                    let Ok((image, state)) = next else { break };
                    day.look(&image, &at, &state, &threads);
                    fs::remove_file(&image).unwrap();
                }
            });
        }
        // The channel must close when the last worker has ended, so this thread drops its copy of
        // the receiver.
        drop(take);
        Log::open(&log).replay(&base, LOSSY, seed, |disk, state| {
            // Each state has a file of its own, because the loop device of an unmounted file may
            // exist for a while. For a file with the same name, mount would use that device again,
            // with old data.
            let image = work.path().join(format!("state{}", states[0] + states[1]));
            run(Command::new("cp").arg("--sparse=always").args([disk, &image]));
            states[usize::from(state.lossy)] += 1;
            give.send((image, state)).expect("a worker is left");
        });
        drop(give);
    });
    let [whole, lossy] = states;
    println!(
        "{whole} states without lost writes, {lossy} states with lost writes, in {:?}",
        began.elapsed()
    );
    assert!(whole + lossy >= 500, "only {whole} and {lossy} states");
}
