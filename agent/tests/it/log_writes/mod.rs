//! Reads logs of dm-log-writes, and rebuilds the states of the logged disk. The kernel describes
//! the format in Documentation/admin-guide/device-mapper/log-writes.rst and
//! drivers/md/dm-log-writes.c.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;
/// The smallest unit of addresses on the disk, in bytes.
const SECTOR: u64 = 512;

/// A log of writes to a disk.
pub struct Log {
    file: File,
    entries: u64,
    sector: u64,
}

/// One write in the log.
struct Entry {
    flags: u64,
    at: u64,
    data: Vec<u8>,
}

/// A state of the disk at one moment.
#[derive(Debug)]
#[expect(dead_code, reason = "a failure prints all fields")]
pub struct State {
    /// Index of a log entry. The disk has this state after the entry, or before the entry if writes
    /// were lost.
    pub entry: u64,
    /// The marks of acknowledged steps before this state.
    pub marks: Vec<String>,
    /// Whether the state lacks some of the writes since the last flush.
    pub lossy: bool,
}

impl Log {
    pub fn open(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let word = |at| u64::from_le_bytes(read::<8>(&file, at));
        assert_eq!(word(0), MAGIC, "the file is not a log of dm-log-writes");
        let (entries, sector) = (word(16), u64::from(u32::from_le_bytes(read::<4>(&file, 24))));
        Self { file, entries, sector }
    }

    /// For each log entry after the mark `begin`, calls `each` with the state of the disk after
    /// that entry. Before each flush, also calls `each` with `lossy` further states. In each of
    /// these states, about half of the writes since the last flush are lost.
    pub fn replay(&self, base: &Path, lossy: u64, seed: u64, mut each: impl FnMut(&Path, State)) {
        let [whole, flushed, torn] =
            ["whole", "flushed", "torn"].map(|name| base.with_file_name(name));
        copy(base, &whole);
        copy(base, &flushed);
        let [disk, durable] = [&whole, &flushed].map(|path| write_to(path));
        let (mut marks, mut cached, mut dice, mut at) =
            (Vec::<String>::new(), Vec::<Entry>::new(), seed | 1, self.sector);
        for number in 0..self.entries {
            let entry = self.entry(&mut at);
            let begun = marks.iter().any(|mark| mark == "begin");
            if entry.flags & FLUSH != 0 {
                let tries = if begun && !cached.is_empty() { lossy } else { 0 };
                for _ in 0..tries {
                    copy(&flushed, &torn);
                    let disk = write_to(&torn);
                    for entry in &cached {
                        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        if dice >> 63 == 0 {
                            entry.write(&disk);
                        }
                    }
                    each(&torn, State { entry: number, marks: marks.clone(), lossy: true });
                }
                cached.drain(..).for_each(|entry| entry.write(&durable));
            }
            if entry.flags & MARK != 0 {
                let mark = String::from_utf8(entry.data).unwrap();
                marks.push(mark.trim_end_matches('\0').to_owned());
            } else {
                entry.write(&disk);
                if entry.flags & FUA != 0 {
                    entry.write(&durable);
                } else {
                    cached.push(entry);
                }
            }
            if begun {
                each(&whole, State { entry: number, marks: marks.clone(), lossy: false });
            }
        }
    }

    fn entry(&self, at: &mut u64) -> Entry {
        let word = |n: u64| u64::from_le_bytes(read::<8>(&self.file, *at + 8 * n));
        let (sector, count, flags, length) = (word(0), word(1), word(2), word(3));
        let (from, size) = if flags & MARK != 0 {
            (*at + 32, length)
        } else if flags & DISCARD != 0 {
            (0, 0)
        } else {
            (*at + self.sector, count * SECTOR.max(self.sector))
        };
        let mut data = vec![0; usize::try_from(size).unwrap()];
        self.file.read_exact_at(&mut data, from).unwrap();
        *at += self.sector + if flags & MARK != 0 { 0 } else { size };
        Entry { flags, at: sector * SECTOR.max(self.sector), data }
    }
}

impl Entry {
    fn write(&self, disk: &File) {
        disk.write_all_at(&self.data, self.at).unwrap();
    }
}

fn read<const N: usize>(file: &File, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, at).unwrap();
    bytes
}

fn write_to(path: &Path) -> File {
    File::options().write(true).open(path).unwrap()
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--sparse=always").args([from, to]).status();
    assert!(copied.unwrap().success());
}
