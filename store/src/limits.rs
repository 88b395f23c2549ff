//! Limits on the contents of an archive.

/// The limits of an archive. An archive beyond a limit is refused with an error that names the
/// limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one archive.
    pub entries: u64,
    /// Bytes that one archive unpacks to, holes of sparse files included.
    pub bytes: u64,
    /// Unpacked bytes for each compressed byte, after the first 64 MiB.
    pub ratio: u64,
    /// Bytes of the window that zstd data may ask for. The window is held in memory.
    pub window: u64,
    /// Bytes of one path.
    pub path_len: usize,
    /// Directories in one path.
    pub depth: usize,
    /// Bytes of one entry's headers: long names, PAX records, sparse maps.
    pub header_bytes: u64,
}

impl Limits {
    /// Limits that no legitimate archive reaches.
    pub const STANDARD: Self = Self {
        entries: 10_000_000,
        bytes: 1 << 40,
        // The maximum of zstd: a block of 128 KiB in 4 bytes. gzip reaches 1,032.
        ratio: 33_000,
        // The window that zstd accepts by default: --long=27, --ultra -22.
        window: 128 << 20,
        path_len: 4_096,
        depth: 1_000,
        header_bytes: 1 << 20,
    };
}
