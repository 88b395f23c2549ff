//! Flags for the limits of archives; see [`deploy_store::Limits`].

use clap::Args;
use deploy_store::Limits;
use deploy_wire::flags::size;

/// Limits for archives.
#[derive(Debug, Clone, Args)]
pub struct LimitFlags {
    /// Maximum number of entries in an archive.
    #[arg(long, env = "DEPLOY_AGENT_MAX_ENTRIES", global = true, default_value_t = Limits::STANDARD.entries, value_name = "N")]
    pub max_entries: u64,
    /// Maximum unpacked size of an archive, holes of sparse files included, for example 10G.
    #[arg(long, env = "DEPLOY_AGENT_MAX_UNPACKED", global = true, default_value = "1T", value_name = "SIZE", value_parser = size)]
    pub max_unpacked: u64,
    /// Maximum ratio of unpacked to compressed bytes, once more than 64M are unpacked.
    #[arg(long, env = "DEPLOY_AGENT_MAX_RATIO", global = true, default_value_t = Limits::STANDARD.ratio, value_name = "N")]
    pub max_ratio: u64,
    /// Maximum window of zstd data, for example 128M; decompression takes that much memory.
    #[arg(long, env = "DEPLOY_AGENT_MAX_WINDOW", global = true, default_value = "128M", value_name = "SIZE", value_parser = size)]
    pub max_window: u64,
    /// Maximum length of a path in an archive, in bytes; each name in it may have 255.
    #[arg(long, env = "DEPLOY_AGENT_MAX_PATH", global = true, default_value_t = Limits::STANDARD.path_len, value_name = "N")]
    pub max_path: usize,
    /// Maximum number of directories in one path.
    #[arg(long, env = "DEPLOY_AGENT_MAX_DEPTH", global = true, default_value_t = Limits::STANDARD.depth, value_name = "N")]
    pub max_depth: usize,
    /// Maximum size of one entry's headers: long names, attributes, maps of sparse files.
    #[arg(long, env = "DEPLOY_AGENT_MAX_HEADER", global = true, default_value = "1M", value_name = "SIZE", value_parser = size)]
    pub max_header: u64,
}

impl LimitFlags {
    /// The store's form of these limits.
    pub fn limits(&self) -> Limits {
        Limits {
            entries: self.max_entries,
            bytes: self.max_unpacked,
            ratio: self.max_ratio,
            window: self.max_window,
            path_len: self.max_path,
            depth: self.max_depth,
            header_bytes: self.max_header,
        }
    }
}
