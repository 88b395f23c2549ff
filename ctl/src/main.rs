//! `deployctl`: the operator's command. Every verb of the registry's console, checked
//! here first and run there; `addver` uploads as well.

mod addver;
mod progress;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{CommandFactory, FromArgMatches, Parser};
use deploy_wire::client::{Client, ClientError, Connect, HostKey, Keys};
use deploy_wire::command::{self, Refusal};
use deploy_wire::{exit, flags};

const TIMEOUT: Duration = Duration::from_secs(30);

/// The operator's command: uploads archives and edits configurations in a registry.
#[derive(Debug, Parser)]
#[command(
    name = "deployctl",
    version,
    override_usage = "deployctl [flags] subcommand [subcommand flags]",
    after_help = format!("Subcommands:\n\n{}", command::listing()),
    disable_help_subcommand = true
)]
struct Flags {
    /// Registry host address (host:port)
    #[arg(long, default_value = "", env = "DEPLOYCTL_ADDR", hide_default_value = true)]
    addr: String,
    /// Registry host key fingerprint (SHA256:...); without it `known_hosts` decides
    #[arg(long, default_value = "", env = "DEPLOYCTL_FINGERPRINT", hide_default_value = true)]
    fp: String,
    /// Private key file; without it the ssh agent's keys and the usual files are tried
    #[arg(long, env = "DEPLOYCTL_KEY")]
    key: Option<PathBuf>,
    /// User name
    #[arg(long, env = "USER", hide_env_values = true)]
    user: Option<String>,
    /// Show no progress
    #[arg(short)]
    q: bool,
    /// Subcommand and its flags
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<String>,
}

fn main() -> ExitCode {
    let flags = match parse_flags() {
        Ok(flags) => flags,
        Err(err) => {
            let code = if err.use_stderr() { exit::USAGE } else { exit::OK };
            // A closed stdout or stderr leaves nobody to tell.
            let _ = err.print();
            return code.into();
        }
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let done = match runtime {
        Ok(runtime) => runtime.block_on(run(&flags)),
        Err(err) => Err(err.into()),
    };
    match done {
        Ok(code) => code.into(),
        Err(err) => {
            complain(&format!("{err:#}\n"));
            let refusal = err.downcast_ref::<Refusal>().map(|refusal| refusal.code);
            let client = err.downcast_ref::<ClientError>().map(ClientError::code);
            refusal.or(client).unwrap_or(exit::FAILED).into()
        }
    }
}

fn parse_flags() -> Result<Flags, clap::Error> {
    let command = Flags::command();
    let known: Vec<String> = command
        .get_arguments()
        .filter_map(|arg| arg.get_long().map(str::to_owned).or(arg.get_short().map(String::from)))
        .collect();
    // The subcommand's own flags are left to the console's grammar.
    let mut arguments: Vec<_> = std::env::args_os().collect();
    let mut own = 1;
    while let Some(word) = arguments.get(own).and_then(|word| word.to_str()) {
        let Some(name) = word.strip_prefix('-') else { break };
        let name = name.strip_prefix('-').unwrap_or(name);
        own += if ["addr", "fp", "key", "user"].contains(&name) { 2 } else { 1 };
    }
    let rest = arguments.split_off(own.min(arguments.len()));
    let mut arguments = flags::normalize(arguments, &known);
    arguments.extend(rest);
    Flags::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

async fn run(flags: &Flags) -> Result<u8> {
    let Some(verb) = flags.words.first() else {
        complain(&Flags::command().render_help().to_string());
        return Ok(exit::USAGE);
    };
    if verb == "help" {
        print(help(flags.words.get(1).map(String::as_str)).as_bytes());
        return Ok(exit::OK);
    }
    if verb == "addver" {
        match addver::Arguments::parse(&flags.words[1..])? {
            addver::Parsed::Help => {
                print(addver::USAGE.as_bytes());
                return Ok(exit::OK);
            }
            addver::Parsed::File(arguments) => return addver::run(flags, &arguments).await,
            addver::Parsed::Hash => {}
        }
    }
    let command = command::parse(&flags.words)?;
    if let command::Command::Help { verb } = &command {
        print(help(verb.as_deref()).as_bytes());
        return Ok(exit::OK);
    }
    let client = connect(flags).await?;
    let code = pass_on(&client, &command.to_string()).await?;
    client.disconnect().await;
    Ok(code)
}

fn help(verb: Option<&str>) -> String {
    match verb {
        Some("exit-codes") => exit::HELP.to_owned(),
        Some("addver") => addver::USAGE.to_owned(),
        Some(name) => command::find(name).map_or_else(command::listing, command::Verb::usage),
        None => command::listing(),
    }
}

/// Runs a line on the registry and prints its answer as it is.
async fn pass_on(client: &Client, line: &str) -> Result<u8, ClientError> {
    let answer = client.exec(line).await?;
    print(&answer.stdout);
    complain(&String::from_utf8_lossy(&answer.stderr));
    Ok(answer.code)
}

async fn connect(flags: &Flags) -> Result<Client> {
    let user = flags.user.clone().unwrap_or_default();
    if flags.addr.is_empty() {
        let text = "addr should be set: -addr host:port or DEPLOYCTL_ADDR";
        return Err(Refusal::usage(text.to_owned()).into());
    }
    if user.is_empty() || user == "deploy-agent" {
        let text = format!("user name {user:?} is no operator's; give one with -user");
        return Err(Refusal::usage(text).into());
    }
    let host = if flags.fp.is_empty() {
        let home = std::env::home_dir().unwrap_or_default();
        HostKey::KnownHosts(home.join(".ssh/known_hosts"))
    } else {
        HostKey::Fingerprint(flags.fp.clone())
    };
    let keys = flags.key.clone().map_or(Keys::Auto, Keys::File);
    let addr = flags.addr.clone();
    Ok(Client::connect(&Connect { addr, user, keys, host, timeout: TIMEOUT }).await?)
}

fn print(text: &[u8]) {
    // A reader that has gone has had enough.
    let _ = std::io::stdout().write_all(text);
}

fn complain(text: &str) {
    // As above.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
