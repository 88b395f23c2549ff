//! The program's own flags, which stand before the subcommand.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, CommandFactory as _, FromArgMatches as _, Parser};
use deploy_wire::client::{Connect, OPERATOR_TIMEOUT, operator};
use deploy_wire::command::Refusal;
use deploy_wire::flags;

use crate::verbs;

/// The program's own flags.
#[derive(Debug, Parser)]
#[command(about = "Uploads archives to a registry and edits its configurations")]
#[command(name = "deployctl", version = deploy_cli::version!(), args_override_self = true)]
pub struct Flags {
    /// registry host address (host:port)
    #[arg(long, env = "DEPLOYCTL_ADDR", default_value = "")]
    addr: String,
    /// sha256 host key fingerprint (sha256:...); without it, ssh's known hosts are used
    #[arg(long, env = "DEPLOYCTL_FINGERPRINT", default_value = "")]
    fp: String,
    /// private ssh key file; without it ssh-agent's keys and the usual files are tried
    #[arg(long, env = "DEPLOYCTL_KEY", default_value = "")]
    key: OsString,
    /// user name (default: the name you are logged in with)
    #[arg(long, env = "DEPLOYCTL_USER", default_value = "")]
    user: String,
    /// show no progress
    #[arg(short, env = "DEPLOYCTL_Q", action = ArgAction::Set, value_parser = flags::boolean)]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[arg(default_value = "false")]
    pub q: bool,
    /// The subcommand and its flags.
    #[arg(skip)]
    pub words: Vec<String>,
}

impl Flags {
    /// Reads the command line, without the program's name. The parser of console commands reads the
    /// subcommand's own flags later.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut command = Self::command().override_help(usage());
        let names = command.get_arguments().filter(|arg| !arg.is_require_equals_set());
        let valued: Vec<String> = names.map(name).collect();
        let (own, words) = flags::leading(arguments, &valued);
        let program = std::iter::once(OsString::from("deployctl"));
        let matches = command.try_get_matches_from_mut(program.chain(own))?;
        let mut flags = Self::from_arg_matches(&matches)?;
        flags.words = words
            .into_iter()
            .map(OsString::into_string)
            .collect::<Result<_, _>>()
            .map_err(|word| {
                command.error(ErrorKind::InvalidUtf8, format!("{} is not UTF-8", word.display()))
            })?;
        Ok(flags)
    }

    /// Returns the address, the keys and the other parameters of the connection to the registry.
    pub fn connect(&self) -> Result<Connect, Refusal> {
        self.connect_within(OPERATOR_TIMEOUT)
    }

    /// Like [`Flags::connect`], but the connection must succeed within `timeout`.
    pub fn connect_within(&self, timeout: Duration) -> Result<Connect, Refusal> {
        if self.addr.is_empty() {
            let text = "addr should be set: give -addr host:port or set DEPLOYCTL_ADDR";
            return Err(Refusal::usage(text.to_owned()));
        }
        operator(&self.addr, &self.fp, &self.key, &self.user, timeout)
    }

    /// The parameters of the connection and `line` as one text, the key of a remembered answer.
    pub fn told(&self, line: &str) -> String {
        let key = self.key.to_string_lossy();
        [&self.addr, &self.fp, &*key, &self.user, line].join("\0")
    }
}

/// The usage in the form of the Go tool's usage.
pub fn usage() -> String {
    let mut text = "Usage: deployctl [flags] subcommand [subcommand flags]\n".to_owned();
    for arg in Flags::command().get_arguments() {
        let value = if arg.is_require_equals_set() { "" } else { " string" };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let env = arg.get_env().map(|env| env.to_string_lossy()).unwrap_or_default();
        writeln!(text, "  -{}{value}\n    \t${env}, {help}", name(arg))
            .expect("a string takes any text");
    }
    text + "  -version\n    \tprint the version\n\nSubcommands:\n\n" + &verbs::listing()
}

fn name(arg: &Arg) -> String {
    arg.get_long()
        .map_or_else(|| arg.get_short().map(String::from), |long| Some(long.to_owned()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Flags, clap::Error> {
        Flags::read(line.split(' ').map(OsString::from))
    }

    #[test]
    fn flags_end_where_the_subcommand_begins() {
        let flags = read("-addr a:1 --fp=SHA256:x -q -addr b:2 addver -q -name --version").unwrap();
        assert_eq!((&*flags.addr, &*flags.fp, flags.q), ("b:2", "SHA256:x", true));
        assert_eq!(flags.words, ["addver", "-q", "-name", "--version"]);
        assert!(!read("-q=F x").unwrap().q);
        for bad in ["-q=maybe", "-bogus", "-addr", "-qq"] {
            assert_eq!(read(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        for good in ["-h", "-help", "--help", "-version"] {
            assert_eq!(read(good).unwrap_err().exit_code(), 0, "{good}");
        }
    }

    #[test]
    fn usage_has_the_go_tools_form() {
        let usage = usage();
        let start = "Usage: deployctl [flags] subcommand [subcommand flags]\n  -addr string\n    \t\
                     $DEPLOYCTL_ADDR, registry host address (host:port)\n  -fp string\n";
        assert!(usage.starts_with(start), "{usage}");
        assert!(usage.contains("\nSubcommands:\n\naddver "), "{usage}");
        assert!(!usage.contains("words"), "{usage}");
    }

    #[test]
    fn agent_user_is_refused() {
        let refused = |line| read(line).unwrap().connect().unwrap_err().text;
        assert!(refused("-user deploy-agent -addr a:1 x").contains("give another name with -user"));
        assert!(refused("-addr= x").starts_with("addr should be set"));
        let connect = read("-user me -addr a:1 -fp sha256:x x").unwrap().connect().unwrap();
        assert_eq!((&*connect.addr, &*connect.user), ("a:1", "me"));
    }
}
