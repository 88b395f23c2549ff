//! Flags for the limits on archives that become versions, see [`deploy_store::Limits`].

use clap::Args;
use deploy_store::Limits;
use deploy_wire::flags::size;

/// The limits on archives.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_field_names, reason = "they are the flags' names")]
pub struct LimitFlags {
    /// Most entries of an archive
    #[arg(long, env = "DEPLOY_REGISTRY_MAX_ENTRIES", default_value_t = Limits::STANDARD.entries, value_name = "N")]
    pub max_entries: u64,
    /// Most unpacked bytes of an archive, including holes of sparse files, for example 10G
    #[arg(long, env = "DEPLOY_REGISTRY_MAX_UNPACKED", default_value = "1T", value_name = "SIZE", value_parser = size)]
    pub max_unpacked: u64,
    /// Most unpacked bytes per compressed byte, beyond 64M in total
    #[arg(long, env = "DEPLOY_REGISTRY_MAX_RATIO", default_value_t = Limits::STANDARD.ratio, value_name = "N")]
    pub max_ratio: u64,
    /// Largest window of zstd data, for example 128M; it takes as much memory
    #[arg(long, env = "DEPLOY_REGISTRY_MAX_WINDOW", default_value = "128M", value_name = "SIZE", value_parser = size)]
    pub max_window: u64,
    /// Longest path in an archive, in bytes; each part may have 255
    #[arg(long, env = "DEPLOY_REGISTRY_MAX_PATH", default_value_t = Limits::STANDARD.path_len, value_name = "N")]
    pub max_path: usize,
    /// Most directories in one path
    #[arg(long, env = "DEPLOY_REGISTRY_MAX_DEPTH", default_value_t = Limits::STANDARD.depth, value_name = "N")]
    pub max_depth: usize,
    /// Most bytes of one entry's headers: long names, attributes, maps of sparse files
    #[arg(long, env = "DEPLOY_REGISTRY_MAX_HEADER", default_value = "1M", value_name = "SIZE", value_parser = size)]
    pub max_header: u64,
}

impl LimitFlags {
    /// The limits in the form of the store.
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
