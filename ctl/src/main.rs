//! `deployctl`: the operator's command. The program has every verb of the registry's console except
//! `import`. It also has `get`, which downloads an archive. The program first checks a command, and
//! the registry then runs the command. `addver` can also upload an archive.

mod addver;
mod described;
mod flags;
mod get;
mod names;
mod pack;
mod remote_stderr;
mod verbs;
mod web;

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use deploy_cli::progress::{Form, Stderr};
use deploy_cli::{COMPLETE_NAMES, Names};
use deploy_store::{ComponentName, MAX_JSON, Size, VersionName};
use deploy_wire::client::{Client, ClientError, Exec};
use deploy_wire::command::{self, Command, Refusal};
use deploy_wire::exit;
use flags::Flags;
use remote_stderr::Told;

/// The hint for users who want to import an image with this program.
const ELSEWHERE: &str = "deployctl imports no images; run: \
    docker save IMAGE | deploy-from-docker, or: docker save IMAGE | ssh registry import";

fn main() -> ExitCode {
    if let Some(code) = deploy_cli::early(std::env::args_os(), described::described, Names::Asked) {
        return code;
    }
    let flags = match Flags::read(std::env::args_os().skip(1)) {
        Ok(flags) => flags,
        Err(err) => return deploy_cli::exit(&err),
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
    // Without this call, a thread that waits for standard input would keep the program alive.
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
            addver::Parsed::Upload(upload) => show(&addver::run(flags, &upload).await?.0),
        },
        "get" => match get::parse(&flags.words[1..])? {
            None => help(Some(verb)),
            Some(get) => get::run(flags, &get).await,
        },
        "web" => match web::parse(&flags.words[1..])? {
            None => help(Some(verb)),
            Some(web) => web::run(flags, &web).await,
        },
        COMPLETE_NAMES => Ok(names::complete(&flags.words[1..]).await),
        "import" => Err(Refusal::usage(ELSEWHERE.to_owned()).into()),
        verb if !verbs::is_verb(verb) => Err(unknown(verb).into()),
        _ => match command::parse(&flags.words)? {
            Command::Help { verb } => help(verb.as_deref()),
            Command::Put { component, version, json } => put(flags, component, version, json).await,
            command if command.has_input() => pass_on_with_input(flags, &command).await,
            command => pass_on(flags, &command).await,
        },
    }
}

/// Prints help, without a registry.
fn help(about: Option<&str>) -> Result<u8> {
    let text = match about {
        Some("exit-codes") => exit::HELP.to_owned(),
        Some(verb) => verbs::find(verb).map_or_else(verbs::listing, verbs::help),
        None => verbs::listing(),
    };
    show(&Exec { stdout: text.into_bytes(), ..Exec::default() })
}

/// `put`: checks the archive while uploading it, and prints the same text as the registry's `put`.
async fn put(
    flags: &Flags,
    component: ComponentName,
    version: VersionName,
    json: bool,
) -> Result<u8> {
    let upload = addver::put(component.clone(), version.clone());
    let (mut answer, digest, bytes) = addver::run(flags, &upload).await?;
    if answer.code == exit::OK {
        let text = if json {
            let (component, version) = (component.as_str(), version.as_str());
            let hash = digest.to_string();
            let put = serde_json::json!({
                "component": component, "version": version, "hash": hash, "bytes": bytes,
            });
            format!("{put:#}\n")
        } else {
            format!("{digest}  {component}:{version}\n")
        };
        answer.stdout = text.into_bytes();
    }
    show(&answer)
}

/// The refusal of an unknown verb, with a suggestion if a verb has a similar name.
fn unknown(verb: &str) -> Refusal {
    let names: Vec<&str> = verbs::names().collect();
    let close = command::closest(verb, names.iter().copied());
    let close = close.map_or_else(String::new, |close| format!("\ndid you mean {close}?"));
    let list = names.join(", ");
    Refusal::usage(format!("Unknown command, supported commands are:\n{list}{close}"))
}

/// Runs a command on the registry.
async fn pass_on(flags: &Flags, command: &Command) -> Result<u8> {
    let client = Client::connect(&flags.connect()?).await?;
    let form = Form::here(flags.q);
    let mut told = Told::new(form);
    let columns = match form {
        Form::Nothing => Some(0),
        Form::Bar(columns) => Some(columns),
        Form::Lines => None,
    };
    let answer = client.exec_told(&command.to_string(), columns, &mut |part| told.take(part)).await;
    told.end();
    client.disconnect().await;
    show(&answer?)
}

/// Runs a command on the registry, and passes standard input on to the command.
async fn pass_on_with_input(flags: &Flags, command: &Command) -> Result<u8> {
    let connect = flags.connect()?;
    let read = tokio::task::spawn_blocking(|| {
        let mut input = Vec::new();
        io::stdin().take(MAX_JSON as u64 + 1).read_to_end(&mut input).map(|_| input)
    });
    let input = read.await.context("read standard input")?.context("read standard input")?;
    if input.len() > MAX_JSON {
        bail!("standard input is larger than {}", Size(MAX_JSON as u64));
    }
    let client = Client::connect(&connect).await?;
    let answer = client.exec_with_input(&command.to_string(), &input).await?;
    client.disconnect().await;
    show(&answer)
}

/// Prints an answer. The answer's exit code becomes this program's exit code.
fn show(answer: &Exec) -> Result<u8> {
    complain(&String::from_utf8_lossy(&answer.stderr));
    deploy_cli::print(&answer.stdout).context("print the answer")?;
    Ok(answer.code)
}

/// Prints to standard error. Control characters are escaped, so that text from a user or the
/// registry cannot control the terminal.
fn complain(text: &str) {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => plain.push(c),
            c if c.is_control() => plain.extend(c.escape_debug()),
            c => plain.push(c),
        }
    }
    // There is no better place to report a failure of this write.
    let _ = Stderr.write_all(plain.as_bytes());
}

fn code_of(err: &anyhow::Error) -> u8 {
    let refusal = err.downcast_ref::<Refusal>().map(|refusal| refusal.code);
    let client = err.downcast_ref::<ClientError>().map(ClientError::code);
    refusal.or(client).unwrap_or(exit::FAILED)
}
