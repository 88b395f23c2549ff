//! What the programs' command lines have in common: how help is printed, completions, man
//! pages, the version, progress of long work, and what they tell a service manager.

mod documents;
mod names;
pub mod progress;
pub mod service;
mod spelling;
mod subcommand;

pub use documents::{early, exit, full};
pub use names::{COMPLETE_NAMES, Names};
pub use spelling::one_dash;
pub use subcommand::focused;

#[doc(hidden)]
pub use git_version;

/// The version with the commit it was built from, as `0.9.0 (ff8aa91b4)`; `-modified` says
/// that there was more than the commit. Outside a checkout `0.9.0 (no commit)`. Written where
/// it is used, so that a commit has programs built anew and no library.
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
