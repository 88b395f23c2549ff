//! Makes data outside of all roots, and checks that the agent does not change this data. Mounts and
//! symlinks in the roots lead to this data.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::fault::{Fault, Outcome, fault};
use crate::tree::{Tree, look};

/// The ctime (seconds and nanoseconds) and the link count of each file and directory, by path.
type Touched = BTreeMap<PathBuf, (i64, i64, u64)>;

/// The directories and files outside of all roots, and their initial state.
pub struct Canaries {
    top: PathBuf,
    tree: Tree,
    touched: Touched,
    /// The top directories of filesystems in memory. Such a filesystem disappears when no process
    /// holds it open.
    held: Vec<OwnedFd>,
}

/// The contents of files on a filesystem in memory.
const PRECIOUS: &str = "precious";

impl Canaries {
    pub fn make(top: PathBuf) -> Self {
        for dir in ["data/deep", "linked/sub"] {
            fs::create_dir_all(top.join(dir)).unwrap();
        }
        for file in ["file", "data/a", "data/deep/b", "linked/x", "linked/sub/y"] {
            fs::write(top.join(file), format!("outside {file}\n")).unwrap();
        }
        let tree = look(&top, &std::collections::BTreeSet::new()).unwrap();
        let touched = touched(&top).unwrap();
        Self { top, tree, touched, held: Vec::new() }
    }

    /// A directory with data, for mounts.
    pub fn data(&self) -> PathBuf {
        self.top.join("data")
    }

    /// A directory to which symlinks lead.
    pub fn linked(&self) -> PathBuf {
        self.top.join("linked")
    }

    /// A file outside of all roots, for mounts and symlinks.
    pub fn file(&self) -> PathBuf {
        self.top.join("file")
    }

    /// Writes a file to the filesystem that was mounted at `top`, and holds the filesystem open.
    pub fn hold(&mut self, top: &Path) -> std::io::Result<()> {
        fs::write(top.join("db"), PRECIOUS)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.held.push(rustix::fs::open(top, flags, Mode::empty())?);
        Ok(())
    }

    /// Stops holding the filesystem at `top` open. The caller unmounts this filesystem.
    pub fn let_go(&mut self, top: &Path) {
        let Ok(stat) = fs::symlink_metadata(top) else { return };
        let is_it = |fd: &OwnedFd| rustix::fs::fstat(fd).is_ok_and(|it| it.st_dev == stat.dev());
        self.held.retain(|fd| !is_it(fd));
    }

    pub fn check(&self) -> Outcome {
        let looked = look(&self.top, &std::collections::BTreeSet::new());
        let tree = looked.map_err(|err| Fault::of("canary", format!("outside: {err}")))?;
        if tree != self.tree {
            let (now, before) = (tree.keys(), self.tree.keys());
            let text = format!("data outside the roots was changed: {now:?}, was {before:?}");
            return fault("canary", text);
        }
        let touched = touched(&self.top).unwrap();
        for (path, before) in &self.touched {
            if touched.get(path) != Some(before) {
                let text = format!("{} was touched", path.display());
                return fault("canary", text);
            }
        }
        for dir in &self.held {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let mut text = String::new();
            let read = rustix::fs::openat(dir, "db", flags, Mode::empty())
                .map_err(std::io::Error::from)
                .and_then(|file| File::from(file).read_to_string(&mut text));
            if read.is_err() || text != PRECIOUS {
                return fault(
                    "canary",
                    format!("a file on a memory filesystem in a root was changed: {read:?}"),
                );
            }
        }
        Ok(())
    }
}

fn touched(top: &Path) -> std::io::Result<Touched> {
    let mut found = Touched::new();
    let mut queue = vec![top.to_owned()];
    while let Some(path) = queue.pop() {
        let stat = fs::symlink_metadata(&path)?;
        if stat.is_dir() {
            for item in fs::read_dir(&path)? {
                queue.push(item?.path());
            }
        }
        found.insert(path, (stat.ctime(), stat.ctime_nsec(), stat.nlink()));
    }
    Ok(found)
}

/// Another process that maps files into its memory for writing. In the test's own process, such
/// mappings would need unsafe code.
pub struct Mapper {
    process: std::process::Child,
    answers: std::io::BufReader<std::process::ChildStdout>,
}

const MAPPER: &str = r#"
import mmap, os, sys
maps = []
for line in sys.stdin:
    verb, _, rest = line.rstrip("\n").partition(" ")
    try:
        if verb == "open":
            f = os.open(rest, os.O_RDWR | os.O_NOFOLLOW)
            m = mmap.mmap(f, 0)
            os.close(f)
            maps.append(m)
            print(len(maps) - 1, flush=True)
        elif verb == "write":
            m = maps[int(rest)]
            m[0] = m[0] ^ 1
            print("ok", flush=True)
        else:
            maps[int(rest)].close()
            print("ok", flush=True)
    except Exception as e:
        print("error", e, flush=True)
"#;

impl Mapper {
    /// Starts the process. Returns `None` if Python is not installed.
    pub fn start() -> Option<Self> {
        let mut command = std::process::Command::new("python3");
        command.args(["-c", MAPPER]).stdin(std::process::Stdio::piped());
        let mut process = command.stdout(std::process::Stdio::piped()).spawn().ok()?;
        let answers = std::io::BufReader::new(process.stdout.take()?);
        Some(Self { process, answers })
    }

    fn ask(&mut self, line: &str) -> std::io::Result<String> {
        use std::io::BufRead as _;
        let input = self.process.stdin.as_mut().unwrap();
        writeln!(input, "{line}")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        if answer.starts_with("error") {
            return Err(std::io::Error::other(answer.trim().to_owned()));
        }
        Ok(answer.trim().to_owned())
    }

    /// Maps a file, and returns the number of the mapping.
    pub fn map(&mut self, path: &Path) -> std::io::Result<usize> {
        let answer = self.ask(&format!("open {}", path.display()))?;
        answer.parse().map_err(std::io::Error::other)
    }

    /// Changes the first byte of mapping `number`.
    pub fn write(&mut self, number: usize) -> std::io::Result<()> {
        self.ask(&format!("write {number}")).map(|_| ())
    }

    pub fn unmap(&mut self, number: usize) -> std::io::Result<()> {
        self.ask(&format!("close {number}")).map(|_| ())
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
