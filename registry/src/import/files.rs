//! Reading every file that a Go registry kept, to see whether it is what its name says.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use deploy_store::disk::{Dir, FileType};
use deploy_store::{Configuration, Digest, Hasher, Result};

/// Files that are read at once.
const THREADS: usize = 4;
/// Bytes that are read at a time.
const BUFFER: usize = 256 << 10;
/// How often is told how far it has come.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What stands in `files/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Those that are what their names say, with their lengths.
    pub sound: BTreeMap<Digest, u64>,
    /// Those that are not, with their lengths and what is wrong.
    pub damaged: BTreeMap<Digest, (u64, String)>,
    /// Names that are no file's.
    pub foreign: Vec<String>,
}

impl Files {
    /// Reads all files in `dir`.
    pub fn read(dir: &Dir) -> Result<Self> {
        let mut files = Self::default();
        let mut digests = Vec::new();
        for item in dir.list()? {
            let name = item.name.to_string_lossy().into_owned();
            match name.parse::<Digest>() {
                Ok(digest) if item.kind == FileType::RegularFile => {
                    digests.push((digest, item.name));
                }
                _ => files.foreign.push(name),
            }
        }
        let (next, told) = (AtomicUsize::new(0), Mutex::new(Instant::now()));
        let found = Mutex::new(&mut files);
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(digests.len()) {
                scope.spawn(|| {
                    while let Some((digest, name)) =
                        digests.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let read = dir.open_file(name).map_err(|err| (0, err.to_string()));
                        let read = read.and_then(|file| check(*digest, file));
                        let mut found = found.lock().expect("nobody panics with it");
                        match read {
                            Ok(bytes) => drop(found.sound.insert(*digest, bytes)),
                            Err(bad) => drop(found.damaged.insert(*digest, bad)),
                        }
                        let done = found.sound.len() + found.damaged.len();
                        tell(&told, done, digests.len());
                    }
                });
            }
        });
        Ok(files)
    }

    /// All files that are there, with their lengths.
    pub fn sizes(&self) -> impl Iterator<Item = (Digest, u64)> {
        let damaged = self.damaged.iter().map(|(digest, (bytes, _))| (*digest, *bytes));
        self.sound.iter().map(|(digest, bytes)| (*digest, *bytes)).chain(damaged)
    }

    /// Whether a file is there, sound or not.
    pub fn have(&self, digest: Digest) -> bool {
        self.sound.contains_key(&digest) || self.damaged.contains_key(&digest)
    }

    /// Whether all files of a configuration are there.
    pub fn have_all_of(&self, configuration: &Configuration) -> bool {
        configuration.layers().iter().all(|layer| self.have(layer.digest))
    }
}

fn tell(told: &Mutex<Instant>, done: usize, of: usize) {
    let mut told = told.lock().expect("nobody panics with it");
    if told.elapsed() >= TELL_EVERY {
        *told = Instant::now();
        tracing::info!(done, of, "reading the files of the Go registry");
    }
}

/// The length of a file, or that and why it is not what its name says.
fn check(digest: Digest, mut file: std::fs::File) -> Result<u64, (u64, String)> {
    let (mut hasher, mut bytes, mut buffer) = (Hasher::default(), 0, vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err((bytes, format!("cannot be read: {err}"))),
        }
    }
    if hasher.finish() == digest {
        Ok(bytes)
    } else {
        Err((bytes, "its bytes are not what its name says".to_owned()))
    }
}
