//! Writes a layer's objects with several threads, the writers. A writer gets either many complete
//! small files at a time, or one large file in pieces. The number of bytes that wait to be written
//! is limited.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::batch::{Batch, Writing};
use super::object_name::ObjectName;
use crate::error::{Error, Result};
use crate::inode_meta::Meta;
use crate::layer::archive::Body;
use crate::layer::entry::Content;
use crate::layer::pipeline::joined;
use crate::layer::tar::tarball::Piece;

/// The maximum size of a small file in bytes. A writer gets a small file as a whole.
const SMALL: u64 = 128 << 10;
/// Collected small files are passed to a writer as soon as their contents and attributes have this
/// many bytes.
const TOGETHER: usize = 128 << 10;
/// The maximum number of small files that a writer gets together.
const TOGETHER_FILES: usize = 64;
/// The number of bytes in a piece of a large file.
const PIECE: usize = 256 << 10;
/// The maximum number of jobs that wait for a writer. This is also the maximum number of pieces of
/// one large file that wait to be written.
const WAITING: usize = 4;
/// A sync of the written data is requested each time after this many bytes (see
/// [`Batch::sync_ahead`]), so that the barrier (a sync of the filesystem) at the end has little
/// left to sync.
const AHEAD: u64 = 64 << 20;
/// The maximum number of writers. More writers would only wait for the filesystem's locks.
const MOST: usize = 4;

/// Hands files over to the writers of a batch.
pub struct Writers<'a> {
    batch: &'a Batch,
    jobs: SyncSender<Job>,
    together: Together,
    pool: &'a Pool,
    failed: &'a AtomicBool,
    /// The channel that requests a sync of the written data.
    sync: SyncSender<()>,
    /// The number of bytes since the last requested sync.
    ahead: u64,
}

/// The unused buffers. Each of them has the length 0.
#[derive(Default)]
struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Records the first error of any thread.
#[derive(Clone, Copy)]
struct Trouble<'a> {
    failed: &'a AtomicBool,
    error: &'a Mutex<Option<Error>>,
}

impl Trouble<'_> {
    fn tell(self, err: Error) {
        self.failed.store(true, Ordering::Relaxed);
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
    }
}

enum Job {
    Together(Together),
    Large(Receiver<LargePart>),
}

/// Small files, with their contents one after another in `bytes`.
#[derive(Default)]
struct Together {
    bytes: Vec<u8>,
    files: Vec<SmallFile>,
    attributes: usize,
}

struct SmallFile {
    name: ObjectName,
    meta: Meta,
    length: usize,
}

enum LargePart {
    Data(Vec<u8>),
    Hole(u64),
    End { name: ObjectName, size: u64, meta: Meta },
}

/// Runs `work` with writers for `batch`, and then ends the writers. If a writer or a sync fails,
/// the result is the first such error, regardless of the result of `work`.
pub fn with_writers<T>(
    batch: &Batch,
    work: impl FnOnce(&mut Writers<'_>) -> Result<T>,
) -> Result<T> {
    let failed = AtomicBool::new(false);
    let error: Mutex<Option<Error>> = Mutex::new(None);
    let pool = Pool::default();
    let trouble = Trouble { failed: &failed, error: &error };
    let done = thread::scope(|scope| {
        let (jobs, waiting) = sync_channel(WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        let count = thread::available_parallelism().map_or(1, usize::from).min(MOST);
        let writers: Vec<_> = (0..count)
            .map(|_| {
                let waiting = Arc::clone(&waiting);
                let pool = &pool;
                scope.spawn(move || write_all(batch, &waiting, pool, trouble))
            })
            .collect();
        // Only the writers may hold the receiving end. After the writers have ended, a send fails
        // instead of waiting forever.
        drop(waiting);
        let (sync, asked) = sync_channel(1);
        let syncing = scope.spawn(move || sync_ahead(batch, &asked, trouble));
        let together = Together::default();
        let mut handing =
            Writers { batch, jobs, together, pool: &pool, failed: &failed, sync, ahead: 0 };
        let done = work(&mut handing).and_then(|done| handing.flush().map(|()| done));
        drop(handing);
        for writer in writers {
            joined(writer.join());
        }
        joined(syncing.join());
        done
    });
    match error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(err) => Err(err),
        None => done,
    }
}

impl Writers<'_> {
    /// Passes the contents of one file to the writers, and returns the digest of the contents. An
    /// empty file needs no object.
    pub fn write<R: Read>(&mut self, size: u64, meta: &Meta, body: Body<'_, R>) -> Result<Content> {
        self.ahead += size;
        if self.ahead >= AHEAD {
            self.ahead = 0;
            // If an earlier request is still waiting, that request also covers these bytes.
            let _ = self.sync.try_send(());
        }
        if size <= SMALL {
            self.write_small(size, meta, body)
        } else {
            self.write_large(size, meta, body)
        }
    }

    fn write_small<R: Read>(
        &mut self,
        size: u64,
        meta: &Meta,
        mut body: Body<'_, R>,
    ) -> Result<Content> {
        let bytes = &mut self.together.bytes;
        let start = bytes.len();
        bytes.resize(start + usize::try_from(size).expect("small files are small"), 0);
        let mut at = start;
        loop {
            match body.next_piece(&mut bytes[at..])? {
                Piece::End => break,
                Piece::Data(n) => at += n,
                Piece::Hole(n) => at += usize::try_from(n).expect("small files have small holes"),
            }
        }
        let content = body.content();
        let length = at - start;
        if length > 0 {
            let name = self.batch.name(content, meta);
            let sizes = meta.xattrs.iter().map(|xattr| xattr.name.len() + xattr.value.len());
            self.together.attributes += sizes.sum::<usize>();
            self.together.files.push(SmallFile { name, meta: meta.clone(), length });
            let Together { bytes, files, attributes } = &self.together;
            if bytes.len() + attributes >= TOGETHER || files.len() >= TOGETHER_FILES {
                self.flush()?;
            }
        }
        Ok(content)
    }

    fn write_large<R: Read>(
        &mut self,
        size: u64,
        meta: &Meta,
        mut body: Body<'_, R>,
    ) -> Result<Content> {
        let (parts, waiting) = sync_channel(WAITING);
        self.hand_over(Job::Large(waiting))?;
        let send = |part| parts.send(part).map_err(|_| stopped());
        let mut piece = Piece::Hole(0);
        while piece != Piece::End {
            let mut bytes = self.pool.take();
            bytes.resize(PIECE, 0);
            let mut filled = 0;
            while filled < PIECE {
                piece = body.next_piece(&mut bytes[filled..])?;
                match piece {
                    Piece::Data(n) => filled += n,
                    Piece::Hole(_) | Piece::End => break,
                }
            }
            bytes.truncate(filled);
            if filled > 0 {
                send(LargePart::Data(bytes))?;
            }
            if let Piece::Hole(length) = piece {
                send(LargePart::Hole(length))?;
            }
        }
        let content = body.content();
        let name = self.batch.name(content, meta);
        send(LargePart::End { name, size, meta: meta.clone() })?;
        Ok(content)
    }

    fn flush(&mut self) -> Result<()> {
        if self.together.files.is_empty() {
            return Ok(());
        }
        let bytes = self.pool.take();
        let next = Together { bytes, ..Together::default() };
        let together = std::mem::replace(&mut self.together, next);
        self.hand_over(Job::Together(together))
    }

    fn hand_over(&self, job: Job) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) || self.jobs.send(job).is_err() {
            return Err(stopped());
        }
        Ok(())
    }
}

/// Runs a writer thread: takes jobs until no more jobs come. After an error in any thread, the
/// remaining jobs are discarded.
fn write_all(batch: &Batch, waiting: &Mutex<Receiver<Job>>, pool: &Pool, trouble: Trouble<'_>) {
    loop {
        let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        if trouble.failed.load(Ordering::Relaxed) {
            continue;
        }
        let written = match job {
            Job::Together(together) => write_together(batch, together, pool),
            Job::Large(parts) => write_parts(batch, &parts, pool),
        };
        if let Err(err) = written {
            trouble.tell(err);
        }
    }
}

/// Syncs written data while more data arrives. An error of such a sync must not be ignored. The
/// system reports each error only once, so the barrier at the end would not see the error.
fn sync_ahead(batch: &Batch, asked: &Receiver<()>, trouble: Trouble<'_>) {
    while asked.recv().is_ok() {
        if let Err(err) = batch.sync_ahead() {
            trouble.tell(err);
        }
    }
}

fn write_together(batch: &Batch, together: Together, pool: &Pool) -> Result<()> {
    let mut rest = &together.bytes[..];
    for SmallFile { name, meta, length } in &together.files {
        let (bytes, after) = rest.split_at(*length);
        rest = after;
        batch.write_small(name, bytes, meta)?;
    }
    pool.give(together.bytes);
    Ok(())
}

fn write_parts(batch: &Batch, parts: &Receiver<LargePart>, pool: &Pool) -> Result<()> {
    let mut file: Writing<'_> = batch.begin_file()?;
    // If the channel ends before the file is complete, another thread failed. The written data is
    // removed together with the batch.
    while let Ok(part) = parts.recv() {
        match part {
            LargePart::Data(bytes) => {
                file.write(&bytes)?;
                pool.give(bytes);
            }
            LargePart::Hole(length) => file.skip(length),
            LargePart::End { name, size, meta } => return file.finish(&name, size, &meta),
        }
    }
    Ok(())
}

/// A placeholder error. [`with_writers`] returns the error of the failed writer or sync instead.
fn stopped() -> Error {
    Error::bad_archive("was given up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reused_buffers_are_empty() {
        let pool = Pool::default();
        pool.give(vec![1; 300]);
        assert!(pool.take().is_empty());
    }
}
