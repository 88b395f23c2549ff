//! Every archive of `tests/hostile` through `deploy-agent unpack`: nothing outside the root
//! changes, nothing crashes or hangs, memory stays small, and the verdict is the one that
//! `tests/hostile/EXPECT` gives. Whole, split over two layers, and through a cache whose
//! root was written to; as root and as an ordinary user.

#![allow(clippy::print_stderr, reason = "what is left out is said")]

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use deploy_store::{Configuration, Digest, Layer, Limits, LinkMode, Options, Store};

const AGENT: &str = env!("CARGO_BIN_EXE_deploy-agent");
/// Of an unpacking, whatever the archive claims.
const MOST_MEMORY_KIB: u64 = 64 << 10;
const LONGEST: Duration = Duration::from_secs(20);
const NOBODY: u32 = 65534;

/// What `EXPECT` says of an archive.
#[derive(Debug)]
struct Case {
    name: String,
    verdict: String,
    tree: Vec<(String, String)>,
}

fn corpus() -> PathBuf {
    deploy_testing::package().join("tests/hostile")
}

fn cases() -> Vec<Case> {
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
    assert_eq!(cases.len() + 1, files, "an archive without a verdict, or the other way round");
    cases
}

/// A place with something around it that must not change.
struct Arena {
    dir: tempfile::TempDir,
    /// Where anybody can run the agent.
    _bin: tempfile::TempDir,
    uid: Option<u32>,
    agent: PathBuf,
}

/// How an unpacking ended.
#[derive(Debug)]
struct Ended {
    status: ExitStatus,
    stderr: String,
    memory_kib: u64,
}

impl Arena {
    fn new(uid: Option<u32>) -> Self {
        // In memory where that can be: what is synced is for other tests to see.
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

    /// An archive of the corpus, where whoever unpacks it may read it.
    fn archive(&self, case: &Case) -> PathBuf {
        let path = self.dir.path().join("case");
        fs::copy(corpus().join(&case.name), &path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("arena/dest")
    }

    /// Unpacks; everything that is wrong whatever the archive is a line of what is returned.
    fn unpack(&self, archives: &[PathBuf]) -> (Ended, Vec<String>) {
        let before = around(self.dir.path(), &self.root());
        let ended = self.run(archives);
        let mut wrong = Vec::new();
        let after = around(self.dir.path(), &self.root());
        for path in before.keys().chain(after.keys()) {
            if before.get(path) != after.get(path) {
                wrong.push(format!("outside: {}", path.display()));
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
            wrong.push(format!("{status}, but a root is there: {}", !status.success()));
        }
        (ended, wrong)
    }

    fn run(&self, archives: &[PathBuf]) -> Ended {
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

    fn clear(&self) {
        clear(&self.root());
    }
}

/// Peak memory of a process, in KiB.
fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// Everything below `dir` but for `without`, as an archive could change it.
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
        // What is made and removed in a directory changes its time.
        let fixed = if meta.is_dir() { (0, 0, 0, meta.ino()) } else { fixed };
        let contents = meta.is_file().then(|| Digest::of(&fs::read(&path).unwrap()));
        all.insert(path.clone(), format!("{owner:?} {fixed:?} {contents:?}"));
        if meta.is_dir() {
            all.extend(around(&path, without));
        }
    }
    all
}

fn clear(dir: &Path) {
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

/// What stands in a root, in the words of `EXPECT`: kind, then everything it may ask for.
fn tree(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut nodes = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(dir) = queue.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            // Deeper than a path may be long only descriptors lead.
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

/// The hash that `EXPECT` has of contents: of the length and of blocks that are not empty.
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

/// What of `tree` is not as the case wants it.
fn differences(case: &Case, tree: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, what) in &case.tree {
        let is = tree.get(path);
        if what == "absent" {
            wrong.extend(is.map(|_| format!("{path} is there")));
            continue;
        }
        for word in what.split(' ') {
            if is.is_none_or(|is| !is.iter().any(|one| one == word)) {
                wrong.push(format!("{path}: {word} wanted, is {is:?}"));
            }
        }
    }
    wrong
}

fn check_all(uid: Option<u32>) {
    let arena = Arena::new(uid);
    let mut bad = Vec::new();
    let mut taken = 0;
    for case in cases() {
        let (ended, mut wrong) = arena.unpack(&[arena.archive(&case)]);
        let ok = ended.status.success();
        taken += usize::from(ok);
        match (&*case.verdict, ok) {
            ("reject", true) => wrong.push("was taken".to_owned()),
            ("accept", false) => wrong.push(format!("was refused: {}", ended.stderr)),
            (_, true) => wrong.extend(differences(&case, &tree(&arena.root()))),
            _ => {}
        }
        if !ok && ended.stderr.lines().count() != 1 {
            wrong.push(format!("no error of one line: {:?}", ended.stderr));
        }
        bad.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", case.name)));
        arena.clear();
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(taken > 50, "only {taken} were taken");
}

#[test]
fn every_hostile_archive_gets_its_verdict() {
    check_all(None);
}

fn is_root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI is to run as root");
    eprintln!("NOT TESTED: hostile archives as another user; that takes root");
    false
}

#[test]
fn every_hostile_archive_gets_its_verdict_as_ordinary_user() {
    if is_root() {
        check_all(Some(NOBODY));
    }
}

/// Members of a plain tar, extended headers with what they are for; `None`: it has no such
/// simple form.
fn members(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let (mut members, mut at, mut begun) = (Vec::new(), 0, 0);
    while at + 512 <= bytes.len() && bytes[at..at + 512].iter().any(|&byte| byte != 0) {
        let size = std::str::from_utf8(&bytes[at + 124..at + 135]).ok()?.trim_matches('\0');
        let size = usize::from_str_radix(size.trim(), 8).ok()?;
        let kind = bytes[at + 156];
        // Whose length is told elsewhere has no such form.
        if b"xg".contains(&kind) && bytes[at + 512..].windows(5).any(|text| text == b"size=") {
            return None;
        }
        at = at.checked_add(512 + size.next_multiple_of(512))?;
        if at > bytes.len() {
            return None;
        }
        if !b"xgLK".contains(&kind) {
            members.push(&bytes[begun..at]);
            begun = at;
        }
    }
    (begun == at).then_some(members)
}

#[test]
fn hostile_archives_split_into_layers_get_the_same_verdict() {
    let arena = Arena::new(None);
    let halves = ["lower.tar", "upper.tar"].map(|name| arena.dir.path().join(name));
    let (mut bad, mut split, mut same) = (Vec::new(), 0, 0);
    for case in cases() {
        let bytes = fs::read(corpus().join(&case.name)).unwrap();
        let Some(members) = members(&bytes).filter(|members| members.len() < 20) else { continue };
        let (whole, _) = arena.unpack(&[arena.archive(&case)]);
        let whole = whole.status.success().then(|| tree(&arena.root()));
        arena.clear();
        for n in 1..members.len() {
            for (half, members) in halves.iter().zip([&members[..n], &members[n..]]) {
                let end = [0; 1024];
                fs::write(half, [&members.concat()[..], &end].concat()).unwrap();
            }
            let (ended, mut wrong) = arena.unpack(&halves);
            split += 1;
            match (&whole, ended.status.success()) {
                (Some(_), false) => wrong.push(format!("was refused: {}", ended.stderr)),
                (None, true) if case.verdict == "reject" => wrong.push("was taken".to_owned()),
                (Some(whole), true) if *whole != tree(&arena.root()) => {
                    wrong.push("is another tree than from one archive".to_owned());
                }
                (Some(_), true) => same += 1,
                _ => {}
            }
            bad.extend(wrong.into_iter().map(|wrong| format!("{} at {n}: {wrong}", case.name)));
            arena.clear();
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
    assert!(split > 80 && same > 50, "{split} halves, {same} trees");
}

fn configuration(layers: &[Digest]) -> Configuration {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let layer = |(n, digest): (usize, &Digest)| Layer {
        component: format!("c{n}").parse().unwrap(),
        version: "v1".parse().unwrap(),
        digest: *digest,
        created: now,
    };
    let layers = layers.iter().enumerate().map(layer).collect();
    Configuration::new("p".parse().unwrap(), layers, now).unwrap()
}

/// Appends to every file of a root and opens it to all, as a service may.
fn write_through(root: &Path) {
    for (name, words) in tree(root) {
        if words[0] != "f" {
            continue;
        }
        // Names of the corpus that are escaped are looked up as they are, and not found.
        let path = root.join(name);
        if let Ok(mut file) = fs::File::options().append(true).open(&path) {
            std::io::Write::write_all(&mut file, b"written through").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        }
    }
}

/// The tree without groups of one name.
fn names_of_their_own_left_out(
    tree: &BTreeMap<String, Vec<String>>,
) -> BTreeMap<String, Vec<String>> {
    let grouped = |word: &&String| word.starts_with("group=");
    let mut count: BTreeMap<&String, usize> = BTreeMap::new();
    for word in tree.values().flatten().filter(grouped) {
        *count.entry(word).or_default() += 1;
    }
    let alone = |word: &String| count.get(word) == Some(&1);
    let words = |words: &Vec<String>| words.iter().filter(|word| !alone(word)).cloned().collect();
    tree.iter().map(|(name, all)| (name.clone(), words(all))).collect()
}

#[test]
fn writes_to_a_root_do_not_reach_the_next_one() {
    let extra = {
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(0o644);
        header.set_mtime(1);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, "extra-of-the-next", &b"extra"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let work = tempfile::tempdir().unwrap();
    let mut written = 0;
    for case in cases().iter().filter(|case| case.verdict != "reject") {
        let home = work.path().join(&case.name);
        let options = Options {
            limits: Limits { bytes: 64 << 20, ..Limits::STANDARD },
            link: LinkMode::Auto,
            max_blob: 1 << 30,
            keep_blobs: true,
        };
        let store = Store::open(&home, options).unwrap();
        let add = |bytes: &[u8]| {
            let digest = Digest::of(bytes);
            store.blobs().ingest(digest, bytes)?;
            store.extract(digest)?;
            Ok::<_, deploy_store::Error>(digest)
        };
        let Ok(layer) = add(&fs::read(corpus().join(&case.name)).unwrap()) else { continue };
        let Ok(first) = store.root(&configuration(&[layer])) else { continue };
        let before = tree(&first.path);
        write_through(&first.path);
        written += usize::from(tree(&first.path) != before);
        let extra = add(&extra).unwrap();
        let next = store.root(&configuration(&[layer, extra])).unwrap();
        let mut after = tree(&next.path);
        assert!(after.remove("extra-of-the-next").is_some());
        // A file that nobody else names is shared with the cache, or a copy.
        let names = |tree: &BTreeMap<String, Vec<String>>| names_of_their_own_left_out(tree);
        assert_eq!(names(&after), names(&before), "{}", case.name);
        clear(&home);
    }
    assert!(written > 20, "only {written} roots were written to");
}

/// A gzip of `bytes`, `times` over.
fn bomb(bytes: &[u8], times: usize) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for _ in 0..times {
        std::io::Write::write_all(&mut gzip, bytes).unwrap();
    }
    gzip.finish().unwrap()
}

#[test]
fn every_archive_limit_is_named_and_has_a_flag() {
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name);
    let tar = |entries: &[(&str, u64)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, size) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(*size);
            header.set_mode(0o644);
            header.set_mtime(1);
            builder.append_data(&mut header, name, std::io::repeat(b'x').take(*size)).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let long = "n".repeat(120);
    fs::write(at("many"), tar(&[("a", 1), ("b", 1), ("c", 1)])).unwrap();
    fs::write(at("large"), tar(&[("a", 3000)])).unwrap();
    fs::write(at("long"), tar(&[(&format!("{long}/{long}"), 1)])).unwrap();
    fs::write(at("deep"), tar(&[("a/b/c/d", 1)])).unwrap();
    let zeros = vec![0; 1 << 20];
    let packed = {
        let mut header = tar::Header::new_ustar();
        header.set_path("zeros").unwrap();
        header.set_size(100 << 20);
        header.set_mode(0o644);
        header.set_mtime(1);
        header.set_cksum();
        let mut bytes = bomb(header.as_bytes(), 1);
        bytes.extend(bomb(&zeros, 100));
        bytes.extend(bomb(&[0; 1024], 1));
        bytes
    };
    fs::write(at("packed"), packed).unwrap();
    for (archive, within, beyond, told) in [
        ("many", "-max-entries=3", "-max-entries=2", "number of archive entries"),
        ("large", "-max-unpacked=3000", "-max-unpacked=2999", "unpacked size"),
        ("packed", "-max-ratio=1100", "-max-ratio=2", "more than 2 times"),
        ("long", "-max-path=241", "-max-path=240", "longer than 240 bytes"),
        ("deep", "-max-depth=4", "-max-depth=3", "deeper than 3 directories"),
        ("long", "-max-header=512", "-max-header=511", "size of the headers"),
    ] {
        for (flag, fits) in [(within, true), (beyond, false)] {
            let mut command = Command::new(AGENT);
            command.args(["unpack", flag, archive, "-into", "root"]).current_dir(work.path());
            let output = command.env_clear().output().unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.success(), fits, "{archive} {flag}: {stderr}");
            assert!(fits || stderr.contains(told), "{archive} {flag}: {stderr}");
            assert_eq!(at("root").exists(), fits, "{archive} {flag}");
            clear(&at("root"));
        }
    }
}

/// What is large in some way, made here: nothing of it may be kept in memory.
#[test]
fn unpack_memory_is_bounded_for_every_kind_of_large_archive() {
    let arena = Arena::new(None);
    let archive = arena.dir.path().join("large");
    let header = |name: &str, kind: tar::EntryType, size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_mode(0o755);
        header.set_mtime(1);
        header.set_entry_type(kind);
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    let end = [0; 1024];
    let zeros = vec![0; 1 << 20];
    let files = || -> Vec<u8> {
        let one = |n: usize| header(&format!("d/{n}"), tar::EntryType::Regular, 0);
        (0..100_000).flat_map(one).collect()
    };
    let same = || header("same", tar::EntryType::Regular, 0).repeat(100_000);
    let directories = || -> Vec<u8> {
        let one = |n: usize| header(&format!("d{n}/e"), tar::EntryType::Directory, 0);
        (0..50_000).flat_map(one).collect()
    };
    let records = b"13 path=abcd\n".repeat(70_000);
    let mut pax = header("x", tar::EntryType::XHeader, records.len() as u64);
    pax.extend(&records);
    pax.resize(pax.len().next_multiple_of(512), 0);
    pax.extend(header("x", tar::EntryType::Regular, 0));
    let members = bomb(b"", 1).repeat(20_000);
    for (what, packed, taken) in [
        ("300 MB of zeros after the end", [bomb(&end, 1), bomb(&zeros, 300)].concat(), true),
        ("20,000 empty members", [members, bomb(&end, 1)].concat(), true),
        ("100,000 files", bomb(&[files(), end.to_vec()].concat(), 1), true),
        ("one name 100,000 times", bomb(&[same(), end.to_vec()].concat(), 1), true),
        ("50,000 directories", bomb(&[directories(), end.to_vec()].concat(), 1), true),
        ("70,000 records", bomb(&[pax, end.to_vec()].concat(), 1), true),
    ] {
        fs::write(&archive, packed).unwrap();
        let (ended, wrong) = arena.unpack(std::slice::from_ref(&archive));
        assert!(wrong.is_empty(), "{what}: {wrong:?}");
        assert_eq!(ended.status.success(), taken, "{what}: {}", ended.stderr);
        arena.clear();
    }
}
