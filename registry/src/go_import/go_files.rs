//! Reads and hashes every file of a Go registry.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use deploy_store::disk::{Dir, FileType};
use deploy_store::{Configuration, Digest, Error, Hasher, Meter, Result, Unit};
use rustix::io::Errno;

/// Number of threads. Each thread reads one file at a time.
const THREADS: usize = 4;
/// Size of one read, in bytes.
const BUFFER: usize = 256 << 10;

/// The contents of `files/`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Files whose contents match the digest in their names, with their lengths.
    pub sound: BTreeMap<Digest, u64>,
    /// Damaged files, with their lengths and descriptions of the damage.
    pub damaged: BTreeMap<Digest, (u64, String)>,
    /// The names of all other items: their names are not digests, or they are not regular files.
    pub foreign: Vec<String>,
}

impl Files {
    /// Reads all files in `dir`. `meter` counts the bytes.
    pub fn read(dir: &Dir, meter: &Meter) -> Result<Self> {
        let mut files = Self::default();
        let (mut digests, mut bytes) = (Vec::new(), 0);
        for item in dir.list()? {
            let name = item.name.to_string_lossy().into_owned();
            match name.parse::<Digest>() {
                Ok(digest) if item.kind == FileType::RegularFile => {
                    // If `stat` fails here, reading the file fails later and reports the cause.
                    let length = dir.stat(&item.name).map_or(0, |stat| stat.st_size);
                    bytes += u64::try_from(length).unwrap_or(0);
                    digests.push((digest, item.name));
                }
                _ => files.foreign.push(name),
            }
        }
        meter.begin("read", Unit::Bytes, bytes);
        let next = AtomicUsize::new(0);
        let (found, failed) = (Mutex::new(&mut files), Mutex::new(None));
        std::thread::scope(|scope| {
            for _ in 0..THREADS.min(digests.len()) {
                scope.spawn(|| {
                    while let Some((digest, name)) =
                        digests.get(next.fetch_add(1, Ordering::Relaxed))
                    {
                        let path = || dir.path_of(name);
                        let read = match dir.open_file(name) {
                            Ok(file) => check(*digest, file, meter)
                                .map_err(|err| Error::io("read", path(), err)),
                            Err(Error::Io { cause, .. }) if is_lost(&cause) => {
                                Ok(Found::Damaged(0, format!("cannot be opened: {cause}")))
                            }
                            Err(err) => Err(err),
                        };
                        let mut found =
                            found.lock().expect("no thread panics while it holds this lock");
                        match read {
                            Ok(Found::Sound(bytes)) => drop(found.sound.insert(*digest, bytes)),
                            Ok(Found::Damaged(bytes, why)) => {
                                drop(found.damaged.insert(*digest, (bytes, why)));
                            }
                            // Such an error does not show that the bytes of the file are damaged.
                            // For example, another user may own the file. So the whole check fails.
                            Err(err) => {
                                next.store(digests.len(), Ordering::Relaxed);
                                *failed
                                    .lock()
                                    .expect("no thread panics while it holds this lock") =
                                    Some(err);
                                return;
                            }
                        }
                    }
                });
            }
        });
        meter.end();
        match failed.into_inner().expect("no thread panics while it holds this lock") {
            Some(err) => Err(err),
            None => Ok(files),
        }
    }

    /// All files with their lengths.
    pub fn sizes(&self) -> impl Iterator<Item = (Digest, u64)> {
        let damaged = self.damaged.iter().map(|(digest, (bytes, _))| (*digest, *bytes));
        self.sound.iter().map(|(digest, bytes)| (*digest, *bytes)).chain(damaged)
    }

    /// Whether a file exists, sound or damaged.
    pub fn have(&self, digest: Digest) -> bool {
        self.sound.contains_key(&digest) || self.damaged.contains_key(&digest)
    }

    /// Whether all files of a configuration exist.
    pub fn have_all_of(&self, configuration: &Configuration) -> bool {
        configuration.layers().iter().all(|layer| self.have(layer.digest))
    }
}

/// Whether the error means that the disk has lost a part of a file. Other parts may be readable.
fn is_lost(err: &io::Error) -> bool {
    let lost = [Errno::IO, Errno::UCLEAN, Errno::BADMSG];
    lost.iter().any(|errno| err.raw_os_error() == Some(errno.raw_os_error()))
}

/// The result of a check, with the length of the file.
enum Found {
    Sound(u64),
    Damaged(u64, String),
}

/// Checks that the contents of a file match the digest in its name. A file also counts as
/// damaged if the disk has lost a part of the file.
fn check(digest: Digest, mut file: std::fs::File, meter: &Meter) -> io::Result<Found> {
    let (mut hasher, mut bytes, mut buffer) = (Hasher::default(), 0, vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
                meter.add(n as u64);
            }
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) if is_lost(&err) => {
                return Ok(Found::Damaged(bytes, format!("cannot be read: {err}")));
            }
            Err(err) => return Err(err),
        }
    }
    Ok(if hasher.finish() == digest {
        Found::Sound(bytes)
    } else {
        Found::Damaged(bytes, "its contents do not match the digest in its name".to_owned())
    })
}
