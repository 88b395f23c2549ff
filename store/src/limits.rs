//! Defines the limits on the contents of an archive.

/// The limits of an archive. The store refuses an archive that exceeds a limit, and the error names
/// the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of entries in one archive.
    pub entries: u64,
    /// The maximum number of bytes that one archive unpacks to, including the holes of sparse
    /// files.
    pub bytes: u64,
    /// The maximum number of unpacked bytes for each compressed byte. In addition, 64 MiB of
    /// unpacked bytes are always allowed.
    pub ratio: u64,
    /// The maximum size in bytes of the window that zstd data may require. The decoder holds the
    /// window in memory.
    pub window: u64,
    /// The maximum number of bytes in one path.
    pub path_len: usize,
    /// The maximum number of parts in one path.
    pub depth: usize,
    /// The maximum number of bytes in one entry's headers: long names, PAX records and sparse maps.
    pub header_bytes: u64,
}

impl Limits {
    /// The default limits. Ordinary archives stay below these limits.
    pub const STANDARD: Self = Self {
        entries: 10_000_000,
        bytes: 1 << 40,
        // The ratio of zstd is at most 32,768, because zstd packs at most a block of 128 KiB into 4
        // bytes. The ratio of gzip is at most 1,032.
        ratio: 33_000,
        // The largest window that zstd accepts by default (`--long=27`, `--ultra -22`).
        window: 128 << 20,
        path_len: 4_096,
        depth: 1_000,
        header_bytes: 1 << 20,
    };
}
