//! Contains the parts that several programs share. Some parts are for command lines: help,
//! completions, man pages, the version, and the flags with limits for archives. The others are for
//! running work: logs, progress, and messages to a service manager.

mod documents;
pub mod limit_flags;
#[cfg(feature = "log")]
pub mod log;
mod names;
mod output;
pub mod progress;
pub mod service;
mod spelling;
mod subcommand;

pub use documents::{early, exit, full};
pub use names::{COMPLETE_NAMES, Names};
pub use output::print;
pub use spelling::one_dash;
pub use subcommand::focused;

#[doc(hidden)]
pub use git_version;

/// The version with its commit, such as `0.9.0 (ff8aa91b4)`; `-modified` marks uncommitted changes.
/// If the build was not made in a checkout, the version is `0.9.0 (no commit)`. The version is a
/// macro, so that after a new commit, cargo rebuilds only the programs and no library.
#[macro_export]
macro_rules! version {
    () => {
        $crate::git_version::git_version!(
            args = ["--always", "--abbrev=9", "--exclude=*", "--dirty=-modified"],
            prefix = concat!(env!("CARGO_PKG_VERSION"), " ("),
            suffix = ")",
            fallback = concat!(env!("CARGO_PKG_VERSION"), " (no commit)")
        )
    };
}
