//! The command line.

mod fingerprint;
pub mod limit_flags;
pub mod owner_flag;
pub mod sub_help;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, OsStringValueParser, TypedValueParser as _};
use clap::parser::ValueSource;
use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
};
use deploy_store::LinkMode;
use deploy_wire::flags::normalize;

use crate::flags::limit_flags::LimitFlags;
use crate::log::Format;
use crate::sandbox::Confine;

/// Largest blob that is downloaded or unpacked, in bytes.
pub const MAX_BLOB: u64 = 1 << 40;

/// Tracks one configuration of a registry and deploys it: downloads its layers, builds
/// their root, runs a script.
#[derive(Debug, Parser)]
#[command(name = "deploy-agent", args_override_self = true)]
pub struct Cli {
    /// What to do instead of tracking a configuration.
    #[command(subcommand)]
    pub command: Option<Sub>,
    /// Flags of tracking a configuration.
    #[command(flatten)]
    pub flags: Flags,
}

impl Cli {
    /// The command line as clap knows it.
    pub fn described(version: &'static str) -> clap::Command {
        let command = Self::command().version(version).mut_args(go_boolean);
        command.mut_subcommands(|sub| sub.mut_args(go_boolean))
    }

    /// Reads the command line; flags may be spelt as Go programs' or as GNU ones.
    pub fn read(
        command: clap::Command,
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        let mut booleans = Vec::new();
        names_of_booleans(&command, &mut booleans);
        let mut done = false;
        let arguments = normalize(joined(arguments), &booleans).into_iter().map(|argument| {
            done |= argument == "--";
            if done { argument } else { long(argument) }
        });
        let matches = command.try_get_matches_from(arguments)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        let given = |id: &&str| matches.value_source(id) != Some(ValueSource::DefaultValue);
        let ids: Vec<&str> = matches.ids().map(clap::Id::as_str).collect();
        cli.flags.given = ids.into_iter().filter(given).map(str::to_owned).collect();
        Ok(cli)
    }
}

/// Lets a flag that takes no value be written with one too, as `-v=true`, and hides what
/// the environment holds from the help.
fn go_boolean(arg: clap::Arg) -> clap::Arg {
    let arg = arg.hide_env_values(true);
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .hide_default_value(true)
        .default_missing_value("true")
        .value_parser(BoolishValueParser::new())
        .hide_possible_values(true)
        .value_name("BOOL")
}

/// What follows `-script-arg` belongs to it, whatever it looks like.
fn joined(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let (mut done, mut arguments) = (false, arguments.into_iter());
    let mut all = Vec::new();
    while let Some(mut argument) = arguments.next() {
        done |= argument == "--";
        if !done
            && (argument == "-script-arg" || argument == "--script-arg")
            && let Some(value) = arguments.next()
        {
            argument.push("=");
            argument.push(value);
        }
        all.push(argument);
    }
    all
}

/// `-name` as `--name`: clap would take it for `-n` and more.
fn long(argument: OsString) -> OsString {
    match argument.as_bytes() {
        [b'-', first, second, ..] if first.is_ascii_alphabetic() && *second != b'=' => {
            let mut long = OsString::from("-");
            long.push(argument);
            long
        }
        _ => argument,
    }
}

/// The names of the flags of `command` and its subcommands that are true or false: only
/// their values are Go's words for that.
fn names_of_booleans(command: &clap::Command, into: &mut Vec<String>) {
    for arg in command.get_arguments().filter(|arg| arg.is_require_equals_set()) {
        into.extend(arg.get_long().map(str::to_owned));
        into.extend(arg.get_short().map(String::from));
    }
    command.get_subcommands().for_each(|sub| names_of_booleans(sub, into));
}

/// Done on the host, safe beside a running agent.
#[derive(Debug, Subcommand)]
pub enum Sub {
    /// Show what is deployed, kept and cached in the agent's directory.
    Status {
        /// As one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Read everything in the agent's directory and tell what is damaged; exit code 8 then.
    Verify {
        /// Set aside what is damaged, and make again or fetch what can be had.
        #[arg(long, env = "DEPLOY_AGENT_REPAIR")]
        repair: bool,
        /// As one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Remove at once what nothing needs, and tell what stays and why.
    Gc {
        /// Only tell what would go.
        #[arg(short = 'n', long, env = "DEPLOY_AGENT_DRY_RUN")]
        dry_run: bool,
        /// Remove also the roots that were there before this agent, as those that the Go agent kept.
        #[arg(long, env = "DEPLOY_AGENT_TAKEN_OVER")]
        taken_over: bool,
        /// As one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Have the running agent look at the registry now, and tell how that went.
    Sync {
        /// As one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Deploy what was deployed before, and hold until the registry has something new.
    Rollback {
        /// Hold no longer: what the registry has is deployed again.
        #[arg(long, env = "DEPLOY_AGENT_RELEASE")]
        release: bool,
        /// As one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Make the directory, key and settings of a new agent, for the unit deploy-agent@NAME.
    Init {
        /// File for its settings; /etc/deploy-agent/NAME.env if none is named.
        #[arg(long, env = "DEPLOY_AGENT_SETTINGS", value_name = "FILE")]
        settings: Option<PathBuf>,
    },
    /// Merge local archives, lowest layer first, into a new directory; no registry needed.
    Unpack {
        /// Archives: tar, plain or packed with gzip or zstd.
        #[arg(required = true, value_name = "BLOB")]
        blobs: Vec<PathBuf>,
        /// Directory to make.
        #[arg(long, env = "DEPLOY_AGENT_INTO", value_name = "DIR")]
        into: PathBuf,
    },
}

impl Sub {
    /// Whether it is about an agent's directory that is there.
    pub fn looks_at_directory(&self) -> bool {
        !matches!(self, Self::Init { .. } | Self::Unpack { .. })
    }
}

/// The agent's flags.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Flags {
    /// Registry to connect to.
    #[arg(
        long,
        env = "DEPLOY_AGENT_ADDR",
        global = true,
        default_value = "localhost:2022",
        value_name = "HOST:PORT"
    )]
    pub addr: String,
    /// Keep no root but the current one; the same as -keep-roots 1.
    #[arg(long, env = "DEPLOY_AGENT_CLEANOLD", global = true)]
    pub cleanold: bool,
    /// How the threads that read archives and build roots are kept from the rest of the
    /// machine.
    #[arg(long, env = "DEPLOY_AGENT_CONFINE", default_value = "auto", global = true)]
    pub confine: Confine,
    /// Symlink to switch to the new root before the script, and back if the script fails.
    #[arg(long, env = "DEPLOY_AGENT_CURRENT", global = true, value_name = "PATH")]
    pub current: Option<PathBuf>,
    /// Directory for roots and cache; one agent at a time.
    #[arg(long, env = "DEPLOY_AGENT_DIR", default_value = ".", global = true)]
    pub dir: PathBuf,
    /// Fingerprint of the registry's host key, as SHA256:….
    #[arg(
        long,
        env = "DEPLOY_AGENT_FP",
        global = true,
        default_value = "",
        hide_default_value = true,
        value_name = "FINGERPRINT"
    )]
    pub fp: String,
    /// Keep downloaded blobs, too, so that damage can be mended without the registry.
    #[arg(long, env = "DEPLOY_AGENT_KEEP_BLOBS", global = true)]
    pub keep_blobs: bool,
    /// Roots to keep: the current one, the one before, and so on.
    #[arg(
        long,
        env = "DEPLOY_AGENT_KEEP_ROOTS",
        global = true,
        default_value = "2",
        value_name = "N"
    )]
    pub keep_roots: std::num::NonZeroUsize,
    /// Private ssh key of the agent.
    #[arg(
        long,
        env = "DEPLOY_AGENT_KEY",
        global = true,
        default_value = "id_ecdsa",
        value_name = "FILE"
    )]
    pub key: PathBuf,
    /// Most bytes to download in a second, as 10M; 0 for no limit.
    #[arg(long, env = "DEPLOY_AGENT_LIMIT_DOWNLOAD", global = true, default_value = "0", value_name = "SIZE", value_parser = deploy_wire::flags::size)]
    pub limit_download: u64,
    /// How files get into a root.
    #[arg(long, env = "DEPLOY_AGENT_LINK", default_value = "auto", global = true)]
    pub link: Link,
    /// How the log on stderr looks.
    #[arg(long, env = "DEPLOY_AGENT_LOG_FORMAT", default_value = "human", global = true)]
    pub log_format: Format,
    /// What an archive may not exceed.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// Bytes to keep free, as 10G: old roots, the spare and what is cached in vain go for
    /// them; 0 for none.
    #[arg(long, env = "DEPLOY_AGENT_MIN_FREE", global = true, default_value = "0", value_name = "SIZE", value_parser = deploy_wire::flags::size)]
    pub min_free: u64,
    /// Configuration to track.
    #[arg(
        long,
        env = "DEPLOY_AGENT_NAME",
        global = true,
        default_value = "",
        hide_default_value = true
    )]
    pub name: String,
    /// Make no spare root; each change then costs the time of placing the whole root.
    #[arg(long, env = "DEPLOY_AGENT_NO_SPARE")]
    pub no_spare: bool,
    /// Deploy what is new, once, and end; the exit code tells how it went.
    #[arg(long, env = "DEPLOY_AGENT_ONCE")]
    pub once: bool,
    /// Owner of the files of roots, whatever their archives say: as USER, USER:GROUP, or
    /// GLOB=USER:GROUP for some paths. May be given several times; the last that matches
    /// counts.
    #[arg(
        long,
        env = "DEPLOY_AGENT_OWNER",
        global = true,
        value_name = "OWNER",
        value_delimiter = ','
    )]
    pub owner: Vec<String>,
    /// Time between two looks at the registry.
    #[arg(long, env = "DEPLOY_AGENT_POLL", default_value = "30s", value_name = "TIME", value_parser = deploy_wire::flags::duration)]
    pub poll: Duration,
    /// Show no progress.
    #[arg(short, env = "DEPLOY_AGENT_Q", global = true)]
    pub q: bool,
    /// Script to run when a root is ready; '' for none.
    #[arg(long, env = "DEPLOY_AGENT_SCRIPT", global = true, default_value = "./deploy.sh")]
    pub script: String,
    /// Argument for the script; may be given several times.
    #[arg(
        long,
        env = "DEPLOY_AGENT_SCRIPT_ARG",
        global = true,
        value_name = "ARG",
        allow_hyphen_values = true,
        value_parser = OsStringValueParser::new()
    )]
    pub script_arg: Vec<OsString>,
    /// File with variables for the script, NAME=VALUE on each line, read whenever it runs.
    #[arg(long, env = "DEPLOY_AGENT_SCRIPT_ENV_FILE", global = true, value_name = "FILE")]
    pub script_env_file: Option<PathBuf>,
    /// Longest time the script may run; 0s for no limit.
    #[arg(long, env = "DEPLOY_AGENT_SCRIPT_TIMEOUT", global = true, default_value = "0s", value_name = "TIME", value_parser = deploy_wire::flags::duration)]
    pub script_timeout: Duration,
    /// File that remembers what is deployed; state.json in -dir if none is named.
    #[arg(long, env = "DEPLOY_AGENT_STATE", value_name = "FILE", global = true, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub state: Option<PathBuf>,
    /// Log more.
    #[arg(short, env = "DEPLOY_AGENT_V", global = true)]
    pub v: bool,
    /// Paths in roots that the service writes to, as var/** or etc/*.db: files of their own
    /// in each root, whose changes are no damage. May be given several times.
    #[arg(
        long,
        env = "DEPLOY_AGENT_WRITABLE",
        global = true,
        value_name = "GLOB",
        value_delimiter = ','
    )]
    pub writable: Vec<String>,
    /// Those that were given, not left as they are.
    #[arg(skip)]
    pub given: BTreeSet<String>,
}

/// A flag that lacks or has a wrong value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub &'static str);

impl Flags {
    /// Checks what clap cannot, in the Go tool's words.
    pub fn check(&self) -> Result<(), Refused> {
        if self.name.is_empty() {
            return Err(Refused("empty configuration name; give one with -name"));
        }
        if self.state.as_ref().is_some_and(|state| state.as_os_str().is_empty()) {
            return Err(Refused("no state file set; give one with -state"));
        }
        if !self.fp.starts_with("SHA256:") {
            return Err(Refused(fingerprint::flaw(&self.fp)));
        }
        if self.poll.is_zero() {
            return Err(Refused("-poll must be more than nothing; 30s is usual"));
        }
        Ok(())
    }

    /// Whether it was said how many roots to keep: then those of another program count, too.
    pub fn says_how_many_roots(&self) -> bool {
        self.given.contains("keep_roots") || self.cleanold
    }

    /// Roots to keep.
    pub fn roots_to_keep(&self) -> usize {
        if self.cleanold { 1 } else { self.keep_roots.get() }
    }
}

/// Values of `-link`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Link {
    /// Reflink where the filesystem can, else hardlink, else copy.
    Auto,
    /// Share extents; fail where that cannot be done.
    Reflink,
    /// Names of the cached files; fail where that cannot be done.
    Hardlink,
    /// Copies.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        Cli::read(Cli::described("1"), line.split(' ').map(OsString::from))
    }

    #[test]
    fn gos_spellings_and_defaults() {
        let flags =
            read("deploy-agent -v -name p --cleanold=t -poll=1m -once=false").unwrap().flags;
        assert!(flags.v && flags.cleanold && !flags.once);
        assert_eq!((&*flags.name, flags.poll.as_secs()), ("p", 60));
        assert_eq!((&*flags.addr, &*flags.script), ("localhost:2022", "./deploy.sh"));
        assert_eq!(flags.roots_to_keep(), 1);
        assert_eq!(flags.state, None);
        assert_eq!(read("deploy-agent --keep-roots 3").unwrap().flags.roots_to_keep(), 3);
        assert_eq!(read("deploy-agent -keep-roots=1").unwrap().flags.roots_to_keep(), 1);
        assert_eq!(read("deploy-agent -name=t").unwrap().flags.name, "t");
        assert!(read("deploy-agent -keep-roots 0").is_err());
        assert!(read("deploy-agent -name p junk").is_err());
    }

    #[test]
    fn a_fingerprint_that_is_none_is_told_why() {
        let digits = "x".repeat(43);
        for (print, want) in [
            ("", "none is given"),
            (&digits, "lacks its prefix"),
            (&format!("sha256:{digits}"), "in capitals"),
            ("MD5:00:11", "this is none"),
        ] {
            let line = format!("deploy-agent -name p -fp={print}");
            let refused = read(&line).unwrap().flags.check().unwrap_err().to_string();
            let go = "invalid server key fingerprint, expecting SHA256 fingerprint";
            assert!(refused.starts_with(go) && refused.contains(want), "{print}: {refused}");
        }
    }

    #[test]
    fn arguments_of_the_script_are_as_they_are() {
        let line =
            "deploy-agent -script-arg -a --script-arg -- -script-arg=--b=c -script-arg x,y -v";
        let flags = read(line).unwrap().flags;
        assert_eq!(flags.script_arg, ["-a", "--", "--b=c", "x,y"]);
        assert!(flags.v);
        assert!(read("deploy-agent -script-arg").is_err());
    }

    #[test]
    fn subcommands_take_flags_on_either_side() {
        let cli = read("deploy-agent -dir a unpack x -link copy -into d y -- -z").unwrap();
        assert_eq!((cli.flags.link, cli.flags.dir), (Link::Copy, "a".into()));
        let Some(Sub::Unpack { blobs, into }) = cli.command else { panic!("another command") };
        assert_eq!((blobs, into), (vec!["x".into(), "y".into(), "-z".into()], "d".into()));
        let gc = read("deploy-agent gc -n -keep-roots 3 -dir a").unwrap();
        assert!(matches!(
            gc.command,
            Some(Sub::Gc { dry_run: true, taken_over: false, json: false })
        ));
        assert!(["keep_roots", "dir"].iter().all(|flag| gc.flags.given.contains(*flag)));
        assert!(!gc.flags.given.contains("state") && gc.flags.roots_to_keep() == 3);
        let status = read("deploy-agent status -json -state s").unwrap();
        assert!(matches!(status.command, Some(Sub::Status { json: true })));
        assert_eq!(status.flags.state, Some(PathBuf::from("s")));
    }
}
