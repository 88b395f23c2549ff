//! Defines the values of `-link`.

use clap::ValueEnum;
use deploy_store::LinkMode;

/// Values of `-link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Link {
    /// Reflink where the filesystem supports it, else hardlink, else copy.
    Auto,
    /// Share extents; an error if the filesystem cannot share extents.
    Reflink,
    /// Link the cached files; an error if the filesystem cannot link them.
    Hardlink,
    /// Copy the cached files.
    Copy,
}

impl From<Link> for LinkMode {
    fn from(link: Link) -> Self {
        match link {
            Link::Auto => Self::Auto,
            Link::Reflink => Self::Reflink,
            Link::Hardlink => Self::Hardlink,
            Link::Copy => Self::Copy,
        }
    }
}
