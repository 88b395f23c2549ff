//! Defines the flags of the agent and the registry that set the limits for archives; see
//! [`deploy_store::Limits`].

use clap::{Arg, Args, Command};
use deploy_store::Limits;
use deploy_wire::flags::size;

/// Limits for archives.
#[derive(Debug, Clone, Args)]
#[allow(clippy::struct_field_names, reason = "the fields are named like the flags")]
pub struct LimitFlags {
    /// Maximum number of entries in an archive
    #[arg(long, default_value_t = Limits::STANDARD.entries, value_name = "N")]
    pub max_entries: u64,
    /// Maximum unpacked size of an archive, holes of sparse files included, for example 10G
    #[arg(long, default_value = "1T", value_name = "SIZE", value_parser = size)]
    pub max_unpacked: u64,
    /// Maximum ratio of unpacked to compressed bytes, once more than 64M are unpacked
    #[arg(long, default_value_t = Limits::STANDARD.ratio, value_name = "N")]
    pub max_ratio: u64,
    /// Maximum window of zstd data, for example 128M; decompression takes that much memory
    #[arg(long, default_value = "128M", value_name = "SIZE", value_parser = size)]
    pub max_window: u64,
    /// Maximum length of a path in an archive, in bytes; each name in a path may have 255
    #[arg(long, default_value_t = Limits::STANDARD.path_len, value_name = "N")]
    pub max_path: usize,
    /// Maximum number of directories in one path
    #[arg(long, default_value_t = Limits::STANDARD.depth, value_name = "N")]
    pub max_depth: usize,
    /// Maximum size of one entry's headers: long names, attributes, maps of sparse files
    #[arg(long, default_value = "1M", value_name = "SIZE", value_parser = size)]
    pub max_header: u64,
}

impl LimitFlags {
    /// Adds an environment variable, such as `PREFIX_MAX_ENTRIES`, to each of these flags in
    /// `command`, and applies `change` to the flag.
    pub fn with_variables(command: Command, prefix: &str, change: fn(Arg) -> Arg) -> Command {
        let own = Self::augment_args(Command::new("limits"));
        let own: Vec<&str> = own.get_arguments().map(|flag| flag.get_id().as_str()).collect();
        command.mut_args(|flag| {
            let id = flag.get_id().as_str();
            if !own.contains(&id) {
                return flag;
            }
            let variable = format!("{prefix}_{}", id.to_uppercase());
            change(flag.env(variable))
        })
    }

    /// Converts the flags to the store's limits.
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
