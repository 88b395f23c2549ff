//! Limits on what an archive may claim.

/// What an archive may not exceed; crossing one is an error that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries of one archive.
    pub entries: u64,
    /// Bytes that one archive unpacks to, holes of sparse files included.
    pub bytes: u64,
    /// Unpacked bytes for each compressed byte, once 64 MiB have come out.
    pub ratio: u64,
    /// Bytes of the window that zstd data may ask for, which are held in memory.
    pub window: u64,
    /// Bytes of one path.
    pub path_len: usize,
    /// Directories in one path.
    pub depth: usize,
    /// Bytes of one entry's headers: long names, PAX records, sparse maps.
    pub header_bytes: u64,
}

impl Limits {
    /// Limits that no honest archive meets.
    pub const STANDARD: Self = Self {
        entries: 10_000_000,
        bytes: 1 << 40,
        // What zstd can reach: a block of 128 KiB in 4 bytes. gzip reaches 1,032.
        ratio: 33_000,
        // What zstd itself takes without being told: --long=27, --ultra -22.
        window: 128 << 20,
        path_len: 4_096,
        depth: 1_000,
        header_bytes: 1 << 20,
    };
}
