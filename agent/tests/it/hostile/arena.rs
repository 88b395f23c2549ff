//! Reads the corpus of hostile archives, and unpacks the archives in a directory with surroundings
//! that must not change.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use deploy_store::Digest;

use super::{AGENT, LONGEST, MOST_MEMORY_KIB};

/// The expected result of an archive, from `EXPECT`.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) verdict: String,
    pub(super) tree: Vec<(String, String)>,
}

pub(super) fn corpus() -> PathBuf {
    deploy_testing::package().join("tests/hostile")
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let text = fs::read_to_string(corpus().join("EXPECT")).unwrap();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(below) = line.strip_prefix('\t') {
            let (path, what) = below.split_once(' ').unwrap();
            cases.last_mut().unwrap().tree.push((path.to_owned(), what.to_owned()));
            continue;
        }
        let mut words = line.split(' ').map(str::to_owned);
        let (name, verdict) = (words.next().unwrap(), words.next().unwrap());
        cases.push(Case { name, verdict, tree: Vec::new() });
    }
    let files = fs::read_dir(corpus()).unwrap().count();
    assert_eq!(cases.len() + 1, files, "an archive has no verdict, or a verdict has no archive");
    cases
}

/// A directory for unpacking, with surroundings that must not change.
pub(super) struct Arena {
    pub(super) dir: tempfile::TempDir,
    /// If `uid` is set, this directory holds a copy of the agent that the user with this id can
    /// run.
    pub(super) _bin: tempfile::TempDir,
    pub(super) uid: Option<u32>,
    pub(super) agent: PathBuf,
}

/// The result of one run of `deploy-agent unpack`.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) stderr: String,
    pub(super) memory_kib: u64,
}

impl Arena {
    pub(super) fn new(uid: Option<u32>) -> Self {
        // The directory is in memory if possible, because the tests need no durable files.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let dir = dir.unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        for below in ["side", "arena", "arena/side"] {
            fs::create_dir(dir.path().join(below)).unwrap();
        }
        for canary in ["canary", "side/canary", "arena/canary", "arena/side/canary"] {
            fs::write(dir.path().join(canary), canary).unwrap();
        }
        let bin = tempfile::tempdir().unwrap();
        let agent = match uid {
            Some(uid) => {
                let agent = bin.path().join("deploy-agent");
                fs::set_permissions(bin.path(), Permissions::from_mode(0o755)).unwrap();
                fs::copy(AGENT, &agent).unwrap();
                std::os::unix::fs::chown(dir.path().join("arena"), Some(uid), Some(uid)).unwrap();
                agent
            }
            None => AGENT.into(),
        };
        Self { dir, _bin: bin, uid, agent }
    }

    /// Copies an archive of the corpus to a file that the user who unpacks may read. Returns the
    /// path of the copy.
    pub(super) fn archive(&self, case: &Case) -> PathBuf {
        let path = self.dir.path().join("case");
        fs::copy(corpus().join(&case.name), &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("arena/dest")
    }

    /// Unpacks the archives into one root. Also returns a line for each problem that no archive may
    /// cause, such as a change outside the root.
    pub(super) fn unpack(&self, archives: &[PathBuf]) -> (Ended, Vec<String>) {
        let before = around(self.dir.path(), &self.root());
        let ended = self.run(archives);
        let mut wrong = Vec::new();
        let after = around(self.dir.path(), &self.root());
        for path in before.keys().chain(after.keys()) {
            if before.get(path) != after.get(path) {
                wrong.push(format!("changed outside the root: {}", path.display()));
            }
        }
        let Ended { status, stderr, memory_kib } = &ended;
        match status.code() {
            None => wrong.push(format!("ended by {status}")),
            Some(0 | 1) => {}
            Some(code) => wrong.push(format!("exit code {code}")),
        }
        if stderr.contains("panicked") || stderr.chars().any(|c| c.is_control() && c != '\n') {
            wrong.push(format!("printed {stderr:?}"));
        }
        if *memory_kib > MOST_MEMORY_KIB {
            wrong.push(format!("{memory_kib} KiB of memory"));
        }
        if status.success() != fs::symlink_metadata(self.root()).is_ok() {
            wrong.push(format!("{status}, but the root exists: {}", !status.success()));
        }
        (ended, wrong)
    }

    pub(super) fn run(&self, archives: &[PathBuf]) -> Ended {
        let errors = tempfile::tempfile().unwrap();
        let mut command = match self.uid {
            Some(uid) => {
                let mut command = Command::new("setpriv");
                let id = uid.to_string();
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&self.agent);
                command
            }
            None => Command::new(&self.agent),
        };
        command.arg("unpack").args(archives).arg("-into").arg(self.root());
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.stderr(errors.try_clone().unwrap()).spawn().unwrap();
        let (begun, mut memory_kib) = (Instant::now(), 0);
        let status = loop {
            memory_kib = peak(child.id()).unwrap_or(memory_kib);
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > LONGEST {
                child.kill().unwrap();
                break child.wait().unwrap();
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        let mut bytes = vec![0; 64 << 10];
        let n = std::os::unix::fs::FileExt::read_at(&errors, &mut bytes, 0).unwrap();
        let stderr = String::from_utf8_lossy(&bytes[..n]).into_owned();
        Ended { status, stderr, memory_kib }
    }

    pub(super) fn clear(&self) {
        clear(&self.root());
    }
}

/// Peak memory of a process, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The state of all files and directories below `dir`, except for `without`.
fn around(dir: &Path, without: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path == without {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        let owner = (meta.uid(), meta.gid(), meta.mode());
        let fixed = (meta.mtime(), meta.mtime_nsec(), meta.nlink(), meta.ino());
        // The modification time and the link count of a directory change when entries are created
        // or removed.
        let fixed = if meta.is_dir() { (0, 0, 0, meta.ino()) } else { fixed };
        let contents = meta.is_file().then(|| Digest::of(&fs::read(&path).unwrap()));
        all.insert(path.clone(), format!("{owner:?} {fixed:?} {contents:?}"));
        if meta.is_dir() {
            all.extend(around(&path, without));
        }
    }
    all
}

pub(super) fn clear(dir: &Path) {
    let Ok(meta) = fs::symlink_metadata(dir) else { return };
    assert!(meta.is_dir(), "{}", dir.display());
    let removed =
        Command::new("chmod").args(["-R", "u+rwX"]).arg(dir).stderr(Stdio::null()).status();
    removed.unwrap();
    assert!(Command::new("rm").arg("-rf").arg(dir).status().unwrap().success());
}

fn escaped(bytes: &[u8]) -> String {
    let one = |&byte: &u8| match byte {
        b'\t' | b'\n' | b'\r' | b' ' | b'\\' | b'"' | b'\'' | 0..32 | 127.. => {
            format!("\\x{byte:02x}")
        }
        _ => char::from(byte).to_string(),
    };
    bytes.iter().map(one).collect()
}

/// The contents of a root in the format of `EXPECT`. The words for a path are its kind and then its
/// other properties.
pub(super) fn tree(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut nodes = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(dir) = queue.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            // The function skips entries whose paths are too long for the system, because such
            // entries can be reached only through descriptors.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                queue.push(path.clone());
            }
            nodes.push((path, meta));
        }
    }
    let name = |path: &Path| escaped(path.strip_prefix(root).unwrap().as_os_str().as_bytes());
    let mut groups: BTreeMap<u64, String> = BTreeMap::new();
    for (path, meta) in nodes.iter().filter(|(_, meta)| !meta.is_dir() && meta.nlink() > 1) {
        let name = name(path);
        let first = groups.entry(meta.ino()).or_insert_with(|| name.clone());
        if name < *first {
            *first = name;
        }
    }
    let words = |(path, meta): &(PathBuf, fs::Metadata)| {
        let kind = meta.file_type();
        let letter = match () {
            () if kind.is_file() => "f",
            () if kind.is_dir() => "d",
            () if kind.is_symlink() => "l",
            () if kind.is_fifo() => "p",
            () if kind.is_char_device() => "c",
            () => "b",
        };
        let mut words = vec![letter.to_owned(), format!("mode={:o}", meta.mode() & 0o7777)];
        words.push(format!("time={}", meta.mtime() * 1_000_000_000 + meta.mtime_nsec()));
        if kind.is_file() && meta.len() < 1 << 26 {
            words.extend(fs::read(path).ok().map(|bytes| format!("hash={}", hash(&bytes))));
        }
        if kind.is_symlink() {
            let target = fs::read_link(path).unwrap();
            words.push(format!("target={}", escaped(target.as_os_str().as_bytes())));
        }
        if !kind.is_dir() && meta.nlink() > 1 {
            words.push(format!("group={}", groups[&meta.ino()]));
        }
        (name(path), words)
    };
    nodes.iter().map(words).collect()
}

/// The hash of a file's contents, in the form that `EXPECT` uses. The hash covers the length, and
/// the offset and the bytes of each block that contains more than zeros.
fn hash(bytes: &[u8]) -> String {
    let mut hashed = format!("{};", bytes.len()).into_bytes();
    for (n, block) in bytes.chunks(4096).enumerate() {
        if block.iter().any(|&byte| byte != 0) {
            hashed.extend(format!("{}:", n * 4096).bytes());
            hashed.extend(block);
        }
    }
    Digest::of(&hashed).to_string()[..32].to_owned()
}

/// The differences between `tree` and the expected tree of the case.
pub(super) fn differences(case: &Case, tree: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, what) in &case.tree {
        let is = tree.get(path);
        if what == "absent" {
            wrong.extend(is.map(|_| format!("{path} exists")));
            continue;
        }
        for word in what.split(' ') {
            if is.is_none_or(|is| !is.iter().any(|one| one == word)) {
                wrong.push(format!("{path}: wanted {word}, found {is:?}"));
            }
        }
    }
    wrong
}
