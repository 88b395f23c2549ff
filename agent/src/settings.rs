//! Determines the settings of a subcommand. The settings come from the flags of the subcommand. For
//! a flag that is not given, the value that the last agent recorded applies.

use std::path::PathBuf;

use deploy_store::LinkMode;

use crate::flags::{Flags, Link};
use crate::records::agent_report::Report;
use crate::records::state_owner;

/// The settings that an agent shares with its subcommands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The path of the state file.
    pub state: PathBuf,
    /// How to place files in roots.
    pub link: LinkMode,
    /// How the last agent placed files in roots, or `link` if that is unknown or if `-link` is
    /// given. The subcommand does not probe the filesystem, because a probe would take room on the
    /// disk.
    pub placing: LinkMode,
    /// Number of roots to keep.
    pub keep_roots: usize,
    /// Whether the cache keeps the blob of a layer after the layer is extracted.
    pub keep_blobs: bool,
    /// Whether roots of another program count towards `keep_roots`.
    pub count_taken_over: bool,
}

impl Settings {
    /// The settings for the directory that `flags` name.
    pub fn of(flags: &Flags) -> Self {
        let Report { state, link, link_flag, keep_roots, keep_blobs, count_taken_over, .. } =
            Report::read(&flags.dir);
        let state = flags.state.clone().or(state);
        let given = |flag: &str| flags.given.contains(flag);
        let last = |word: Option<String>| link_mode(&word?).filter(|_| !given("link"));
        let (placing, link) = (last(link), last(link_flag));
        let link = link.unwrap_or_else(|| flags.link.into());
        let count = keep_roots.filter(|_| !given("keep_roots") && !given("cleanold"));
        Self {
            state: state.unwrap_or_else(|| state_owner::find(&flags.dir)),
            link,
            placing: placing.unwrap_or(link),
            keep_roots: count.unwrap_or_else(|| flags.roots_to_keep()).max(1),
            keep_blobs: if given("keep_blobs") { flags.keep_blobs } else { keep_blobs },
            count_taken_over: count_taken_over || flags.says_how_many_roots(),
        }
    }
}

fn link_mode(word: &str) -> Option<LinkMode> {
    let link = <Link as clap::ValueEnum>::from_str(word, false).ok()?;
    Some(link.into())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::flags::Cli;
    use crate::records::agent_report::Reporter;

    #[test]
    fn flags_that_are_not_given_have_the_values_that_the_last_agent_recorded() {
        let temp = tempfile::tempdir().unwrap();
        let settings = |more: &str| {
            let line = format!("deploy-agent gc -dir {} {more}", temp.path().display());
            let words = line.split_whitespace().map(OsString::from);
            Settings::of(&Cli::read(Cli::described("1"), words).unwrap().flags)
        };
        let unknown = settings("");
        assert_eq!((unknown.keep_roots, unknown.link), (2, LinkMode::Auto));
        assert_eq!(unknown.state, temp.path().join("state.json"));
        Reporter::new(temp.path()).update(|report| {
            report.state = Some("/srv/state.json".into());
            report.link_flag = Some("auto".to_owned());
            report.link = Some("hardlink".to_owned());
            report.keep_roots = Some(5);
            report.keep_blobs = true;
        });
        let known = settings("");
        assert_eq!((known.keep_roots, known.link), (5, LinkMode::Auto));
        assert_eq!(known.placing, LinkMode::Hardlink);
        assert!(known.keep_blobs && known.state.as_os_str() == "/srv/state.json");
        let given = settings("-keep-roots 3 -link copy -state s -keep-blobs=false");
        assert_eq!((given.keep_roots, given.link), (3, LinkMode::Copy));
        assert_eq!(given.placing, LinkMode::Copy);
        assert!(!given.keep_blobs && given.state.as_os_str() == "s");
        assert_eq!(settings("-cleanold").keep_roots, 1);
        assert!(!known.count_taken_over && given.count_taken_over);
        assert!(settings("-cleanold").count_taken_over);
    }
}
