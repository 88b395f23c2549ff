//! `deployctl`: the operator's command. Every verb of the registry's console, checked
//! here first and run there; `addver` uploads as well.

mod addver;
mod flags;
mod progress;

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use deploy_wire::client::{Client, ClientError, Exec};
use deploy_wire::command::{self, Command, Refusal};
use deploy_wire::exit;
use flags::Flags;

fn main() -> ExitCode {
    let flags = match Flags::read(std::env::args_os().skip(1)) {
        Ok(flags) => flags,
        Err(err) => err.exit(),
    };
    match start(&flags) {
        Ok(code) => code.into(),
        Err(err) => {
            complain(&format!("{err:#}\n"));
            code_of(&err).into()
        }
    }
}

fn start(flags: &Flags) -> Result<u8> {
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    let threads = threads.worker_threads(2).enable_all().build().context("start threads")?;
    let done = threads.block_on(run(flags));
    // A thread that waits for standard input would keep the program waiting too.
    threads.shutdown_background();
    done
}

async fn run(flags: &Flags) -> Result<u8> {
    let Some(verb) = flags.words.first() else {
        complain(&flags::usage());
        return Ok(exit::USAGE);
    };
    match verb.as_str() {
        "help" => help(flags.words.get(1).map(String::as_str)),
        "addver" => match addver::parse(&flags.words[1..])? {
            addver::Parsed::Help => help(Some(verb)),
            addver::Parsed::Hash(command) => pass_on(flags, &command).await,
            addver::Parsed::File(upload) => addver::run(flags, &upload).await,
        },
        _ => match command::parse(&flags.words)? {
            Command::Help { verb } => help(verb.as_deref()),
            command => pass_on(flags, &command).await,
        },
    }
}

/// Help is given here, without a registry.
fn help(about: Option<&str>) -> Result<u8> {
    let text = match about {
        Some("exit-codes") => exit::HELP.to_owned(),
        Some("addver") => addver::USAGE.to_owned(),
        Some(verb) => command::find(verb).map_or_else(command::listing, command::Verb::usage),
        None => command::listing(),
    };
    show(&Exec { stdout: text.into_bytes(), ..Exec::default() })
}

/// Runs a command on the registry.
async fn pass_on(flags: &Flags, command: &Command) -> Result<u8> {
    let client = Client::connect(&flags.connect()?).await?;
    let answer = client.exec(&command.to_string()).await?;
    client.disconnect().await;
    show(&answer)
}

/// Prints an answer as it is; its exit code becomes ours.
fn show(answer: &Exec) -> Result<u8> {
    complain(&String::from_utf8_lossy(&answer.stderr));
    let mut out = io::stdout().lock();
    match out.write_all(&answer.stdout).and_then(|()| out.flush()) {
        // A reader that has gone has had enough.
        Err(err) if err.kind() != ErrorKind::BrokenPipe => Err(err).context("print the answer"),
        _ => Ok(answer.code),
    }
}

fn complain(text: &str) {
    // There is no better place to say that this failed.
    let _ = io::stderr().write_all(text.as_bytes());
}

fn code_of(err: &anyhow::Error) -> u8 {
    let refusal = err.downcast_ref::<Refusal>().map(|refusal| refusal.code);
    let client = err.downcast_ref::<ClientError>().map(ClientError::code);
    refusal.or(client).unwrap_or(exit::FAILED)
}
