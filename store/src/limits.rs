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
        ratio: 1_100,
        path_len: 4_096,
        depth: 1_000,
        header_bytes: 1 << 20,
    };
}
