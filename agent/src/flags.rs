//! Defines and reads the command line of `deploy-agent`.

mod fingerprint;
pub mod health_flags;
mod link_flag;
pub mod owner_flag;
pub mod sub_help;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{BoolishValueParser, OsStringValueParser, TypedValueParser as _};
use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use deploy_cli::limit_flags::LimitFlags;
use deploy_cli::log::Format;
use deploy_wire::flags::normalize;
use deploy_wire::fleet::HostName;

use crate::flags::health_flags::HealthFlags;
pub use crate::flags::link_flag::Link;
use crate::sandbox::Confine;

/// Maximum size of a blob that the agent downloads or unpacks, in bytes.
pub const MAX_BLOB: u64 = 1 << 40;

/// Tracks one configuration of a registry and deploys it: downloads the layers, builds a root from
/// the layers, and runs a script.
#[derive(Debug, Parser)]
#[command(name = "deploy-agent", args_override_self = true)]
pub struct Cli {
    /// The subcommand. Without a subcommand, the program tracks a configuration.
    #[command(subcommand)]
    pub command: Option<Sub>,
    /// The flags of the agent. Subcommands use some of these flags, too.
    #[command(flatten)]
    pub flags: Flags,
}

impl Cli {
    /// Describes the command line for clap.
    pub fn described(version: &'static str) -> clap::Command {
        let command = Self::command().version(version);
        let command = LimitFlags::with_variables(command, "DEPLOY_AGENT", |flag| flag.global(true));
        let command = command.mut_args(go_boolean);
        command.mut_subcommands(|sub| sub.mut_args(go_boolean))
    }

    /// Reads the command line. Flags may have the spelling of Go programs or of GNU programs.
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

/// Makes a boolean flag accept a value, as in `-v=true`. Also hides the values of environment
/// variables from the help.
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

/// Joins `-script-arg` and the next argument, even if the next argument looks like a flag.
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

/// Turns `-name` into `--name`, because clap would read `-name` as the one-letter flags `-n`, `-a`,
/// `-m` and `-e`.
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

/// Adds to `into` the names of the boolean flags of `command` and of its subcommands. Only boolean
/// flags take Go's words for true and false.
fn names_of_booleans(command: &clap::Command, into: &mut Vec<String>) {
    for arg in command.get_arguments().filter(|arg| arg.is_require_equals_set()) {
        into.extend(arg.get_long().map(str::to_owned));
        into.extend(arg.get_short().map(String::from));
    }
    command.get_subcommands().for_each(|sub| names_of_booleans(sub, into));
}

/// A subcommand. Every subcommand works on this host, and can run while an agent runs.
#[derive(Debug, Subcommand)]
pub enum Sub {
    /// Show what is deployed, kept and cached in the agent's directory.
    Status {
        /// Print one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Read the cache and the roots, and report damage; exit code 8 if damage remains.
    Verify {
        /// Quarantine damaged files of the cache, and extract or download their layers again.
        #[arg(long, env = "DEPLOY_AGENT_REPAIR")]
        repair: bool,
        /// Print one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Remove unused data now, and report why other data is kept.
    Gc {
        /// Only report what would be removed.
        #[arg(short = 'n', long, env = "DEPLOY_AGENT_DRY_RUN")]
        dry_run: bool,
        /// Also remove roots that another program made, for example the Go agent.
        #[arg(long, env = "DEPLOY_AGENT_TAKEN_OVER")]
        taken_over: bool,
        /// Print one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Make the running agent poll the registry now, and report the result.
    Sync {
        /// Print one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Deploy the previous configuration, and keep it until the registry's configuration changes.
    Rollback {
        /// End the hold: the agent deploys the registry's configuration again.
        #[arg(long, env = "DEPLOY_AGENT_RELEASE")]
        release: bool,
        /// Print one JSON document.
        #[arg(long, env = "DEPLOY_AGENT_JSON")]
        json: bool,
    },
    /// Create the directory, key and settings of a new agent, for the unit deploy-agent@NAME.
    Init {
        /// File for the settings; the default is /etc/deploy-agent/NAME.env.
        #[arg(long, env = "DEPLOY_AGENT_SETTINGS", value_name = "FILE")]
        settings: Option<PathBuf>,
    },
    /// Merge local archives, lowest layer first, into a new directory; no registry needed.
    Unpack {
        /// Archives: tar, plain or compressed with gzip or zstd.
        #[arg(required = true, value_name = "BLOB")]
        blobs: Vec<PathBuf>,
        /// Directory to create.
        #[arg(long, env = "DEPLOY_AGENT_INTO", value_name = "DIR")]
        into: PathBuf,
    },
}

impl Sub {
    /// Whether the agent's directory must exist before the subcommand runs.
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
    /// Keep only the current root; the same as -keep-roots 1.
    #[arg(long, env = "DEPLOY_AGENT_CLEANOLD", global = true)]
    pub cleanold: bool,
    /// How to confine the threads that read archives and build roots.
    #[arg(long, env = "DEPLOY_AGENT_CONFINE", default_value = "auto", global = true)]
    pub confine: Confine,
    /// Symlink to the current root. The agent switches the symlink before it runs the script, and
    /// switches it back if the script fails.
    #[arg(long, env = "DEPLOY_AGENT_CURRENT", global = true, value_name = "PATH")]
    pub current: Option<PathBuf>,
    /// Directory for roots and cache; for one agent only.
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
    /// The flags of the health gate.
    #[command(flatten)]
    pub health: HealthFlags,
    /// Name of this host in reports to the registry; the machine's name by default.
    #[arg(long, env = "DEPLOY_AGENT_HOST", value_name = "NAME")]
    pub host: Option<HostName>,
    /// Keep downloaded blobs, so that repairs need no registry.
    #[arg(long, env = "DEPLOY_AGENT_KEEP_BLOBS", global = true)]
    pub keep_blobs: bool,
    /// Number of roots to keep, including the current root.
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
    /// Maximum bytes to download per second, for example 10M; 0 for no limit.
    #[arg(long, env = "DEPLOY_AGENT_LIMIT_DOWNLOAD", global = true, default_value = "0", value_name = "SIZE", value_parser = deploy_wire::flags::size)]
    pub limit_download: u64,
    /// How to place the cached files in a root.
    #[arg(long, env = "DEPLOY_AGENT_LINK", default_value = "auto", global = true)]
    pub link: Link,
    /// Format of the log on stderr.
    #[arg(long, env = "DEPLOY_AGENT_LOG_FORMAT", default_value = "human", global = true)]
    pub log_format: Format,
    /// Limits for archives.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// File to which the agent writes metrics in the Prometheus text format. The textfile collector
    /// of the node exporter can read the file.
    #[arg(long, env = "DEPLOY_AGENT_METRICS_FILE", value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
    /// Bytes to keep free, for example 10G; 0 to keep none free. To free space, the agent removes
    /// unused cache, then old roots, then the spare root.
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
    /// Make no spare root. Each deploy then takes longer, because the agent places all files of the
    /// root.
    #[arg(long, env = "DEPLOY_AGENT_NO_SPARE")]
    pub no_spare: bool,
    /// Only poll the registry: changes arrive at the next poll, and the agent reports nothing.
    #[arg(long, env = "DEPLOY_AGENT_NO_WATCH")]
    pub no_watch: bool,
    /// Run one cycle and end; the exit code gives the result.
    #[arg(long, env = "DEPLOY_AGENT_ONCE")]
    pub once: bool,
    /// Owner of the files in roots, instead of the archives' owners: USER, USER:GROUP, or
    /// GLOB=USER:GROUP for some paths. May be given several times; for each path, the last matching
    /// value counts.
    #[arg(
        long,
        env = "DEPLOY_AGENT_OWNER",
        global = true,
        value_name = "OWNER",
        value_delimiter = ','
    )]
    pub owner: Vec<String>,
    /// Time between two polls of the registry; at least 5m while the registry sends changes itself.
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
    /// File with variables for the script, one NAME=VALUE per line, read before each run.
    #[arg(long, env = "DEPLOY_AGENT_SCRIPT_ENV_FILE", global = true, value_name = "FILE")]
    pub script_env_file: Option<PathBuf>,
    /// Maximum time that the script may run; 0s for no limit.
    #[arg(long, env = "DEPLOY_AGENT_SCRIPT_TIMEOUT", global = true, default_value = "0s", value_name = "TIME", value_parser = deploy_wire::flags::duration)]
    pub script_timeout: Duration,
    /// File that records the deployed configuration; state.json in -dir by default.
    #[arg(long, env = "DEPLOY_AGENT_STATE", value_name = "FILE", global = true, value_parser = OsStringValueParser::new().map(PathBuf::from))]
    pub state: Option<PathBuf>,
    /// Log more details.
    #[arg(short, env = "DEPLOY_AGENT_V", global = true)]
    pub v: bool,
    /// Paths in roots that the service writes to, for example var/** or etc/*.db. Each root gets
    /// its own copies of these files, and changes to the copies are not damage. May be given
    /// several times.
    #[arg(
        long,
        env = "DEPLOY_AGENT_WRITABLE",
        global = true,
        value_name = "GLOB",
        value_delimiter = ','
    )]
    pub writable: Vec<String>,
    /// The names of the flags that have a value from the command line or from the environment.
    #[arg(skip)]
    pub given: BTreeSet<String>,
}

/// The error for a flag with a missing or wrong value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub &'static str);

impl Flags {
    /// Makes the checks that clap cannot make. The message for an error that the Go tool also
    /// reports begins with the Go tool's words.
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
            return Err(Refused("-poll must be more than 0s; 30s is usual"));
        }
        self.health.check()
    }

    /// Whether the user gave the number of roots to keep. If so, roots of another program also
    /// count towards this number.
    pub fn says_how_many_roots(&self) -> bool {
        self.given.contains("keep_roots") || self.cleanold
    }

    /// Number of roots to keep.
    pub fn roots_to_keep(&self) -> usize {
        if self.cleanold { 1 } else { self.keep_roots.get() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Cli, clap::Error> {
        Cli::read(Cli::described("1"), line.split(' ').map(OsString::from))
    }

    #[test]
    fn go_spellings_and_defaults_are_read() {
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
    fn bad_fingerprint_is_refused_with_the_reason() {
        let digits = "x".repeat(43);
        for (print, want) in [
            ("", "none is given"),
            (&digits, "lacks its prefix"),
            (&format!("sha256:{digits}"), "in capitals"),
            ("MD5:00:11", "this is not one"),
        ] {
            let line = format!("deploy-agent -name p -fp={print}");
            let refused = read(&line).unwrap().flags.check().unwrap_err().to_string();
            let go_text = "invalid server key fingerprint, expecting SHA256 fingerprint";
            assert!(refused.starts_with(go_text) && refused.contains(want), "{print}: {refused}");
        }
    }

    #[test]
    fn script_arguments_are_passed_unchanged() {
        let line =
            "deploy-agent -script-arg -a --script-arg -- -script-arg=--b=c -script-arg x,y -v";
        let flags = read(line).unwrap().flags;
        assert_eq!(flags.script_arg, ["-a", "--", "--b=c", "x,y"]);
        assert!(flags.v);
        assert!(read("deploy-agent -script-arg").is_err());
    }

    #[test]
    fn health_deadline_must_leave_time_for_the_minimum_and_the_successes() {
        let fp = format!("SHA256:{}", "x".repeat(43));
        let check = |more: &str| {
            let line = format!("deploy-agent -name p -fp {fp} {more}");
            read(line.trim_end()).unwrap().flags.check().map_err(|refused| refused.to_string())
        };
        let fits = ["", "-health registry", "-health-deadline 0s", "-health-min 1h"];
        assert!(fits.into_iter().all(|more| check(more).is_ok()));
        for (more, want) in [
            ("-health-deadline 0s", "-health-deadline must be more than 0s"),
            ("-health-min 5m", "lower -health-min, or raise -health-deadline"),
            ("-health-min 4m58s", "-health-successes"),
            ("-health-min 0s -health-successes 301", "-health-successes"),
        ] {
            let refused = check(&format!("-health registry {more}")).unwrap_err();
            assert!(refused.contains(want), "{more}: {refused}");
        }
        check("-health registry -health-min 4m57s").unwrap();
        check("-health registry -health-min 200ms -health-deadline 1s").unwrap();
    }

    #[test]
    fn flags_are_accepted_before_and_after_the_subcommand() {
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
