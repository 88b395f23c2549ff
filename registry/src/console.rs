//! The console runs commands, and returns their answers. Commands come from ssh, from the prompt,
//! from a pipe and over HTTP.

mod configuration_verbs;
mod exit_codes;
mod fleet_text;
mod fleet_verbs;
mod gc_answer;
mod image_import;
mod image_verbs;
mod input_verbs;
mod print;
mod rollout_text;
mod rollout_verbs;
mod stat_answer;
mod table;
mod upkeep;
mod wait_answer;

use std::sync::Arc;

use deploy_store::{ComponentName, ConfigurationName, Meter};
use deploy_wire::command::{self, Command, Refusal};
use deploy_wire::exit;

pub use self::exit_codes::session_code;
use self::exit_codes::{exit_code, only_asks, reword};
use crate::caller::{Caller, Client};
use crate::catalog::fleet::Event;
use crate::catalog::{Change, not_uploaded};
use crate::error::Error;
use crate::registry::Registry;
use crate::stdin::Input;

/// The answer to a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The bytes for standard output: the data of the answer.
    pub stdout: Vec<u8>,
    /// The bytes for standard error: all text that is not data.
    pub stderr: Vec<u8>,
    /// The exit code of the command.
    pub code: u8,
}

impl Answer {
    /// The answer for a command that could not run. Standard error has `text`.
    pub fn failed(text: &str) -> Self {
        Self { stdout: Vec::new(), stderr: text.into(), code: exit::FAILED }
    }

    /// Whether the command succeeded.
    pub fn is_ok(&self) -> bool {
        self.code == exit::OK
    }
}

/// Runs one command line, with `input` as its standard input. `meter` counts the progress of the
/// command.
pub async fn run(
    registry: &Registry,
    caller: &Caller,
    line: &str,
    input: Input,
    meter: &Arc<Meter>,
) -> Answer {
    let parsed = command::split(line).and_then(|words| command::parse(&words));
    let done = match &parsed {
        Ok(command) => run_command(registry, caller, command, input, meter).await,
        Err(refusal) => Err(refusal.clone()),
    };
    log(caller, line, &done);
    match done {
        Ok(Done { stdout, code }) => {
            Answer { stdout: stdout.into_bytes(), stderr: Vec::new(), code }
        }
        Err(Refusal { text, code }) => {
            Answer { stdout: Vec::new(), stderr: format!("{text}\n").into_bytes(), code }
        }
    }
}

/// Runs a command without standard input. Returns the command's text for the user.
pub async fn perform(
    registry: &Registry,
    caller: &Caller,
    command: &Command,
) -> Result<String, Refusal> {
    let meter = Arc::default();
    let done = run_command(registry, caller, command, Input::none(), &meter).await;
    log(caller, &command.to_string(), &done);
    done.map(|done| done.stdout)
}

/// The document that `command` prints. The command has the flag `-json` and only shows data. So the
/// command needs no caller, and the console does not log the command.
pub async fn show_document(registry: &Registry, command: &Command) -> Result<String, Refusal> {
    let (user, key, address) = (String::new(), String::new(), String::new());
    let caller = Caller { user, key, address, client: Client::Web };
    let change = caller.change(command);
    let done = execute(registry, &caller, command, &change, Input::none(), &Arc::default()).await?;
    Ok(done.stdout)
}

/// Runs a command. If the command is a change and fails, the function adds the failure to the audit
/// trail. If the command only asked a question (see [`only_asks`]), the failure gets no entry.
async fn run_command(
    registry: &Registry,
    caller: &Caller,
    command: &Command,
    input: Input,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    let change = caller.change(command);
    // If the command reads no input, the function drops `input` here. The sender of the input then
    // notices that nobody reads the input.
    let input = if command.has_input() { input } else { Input::none() };
    let unseen = Arc::default();
    // The Go tool's client gets no progress, because scripts for the Go tool expect only hints on
    // stderr.
    let is_seen = !command.is_quiet() && caller.client != Client::Go;
    let meter = if is_seen { meter } else { &unseen };
    let done = execute(registry, caller, command, &change, input, meter).await;
    let done = done.map_err(|refusal| reword(caller.client, command, refusal));
    if let Err(refusal) = &done
        && command.is_change()
        && !only_asks(caller.client, command, refusal)
    {
        audit(registry, &change, refusal.code, &refusal.text).await;
    }
    done
}

/// Logs a command that the ssh server answers without [`run`].
pub fn log_answered(caller: &Caller, line: &str, answer: &Answer) {
    let done = if answer.code == exit::OK {
        Ok(Done { stdout: String::new(), code: answer.code })
    } else {
        let text = String::from_utf8_lossy(&answer.stderr).trim_end().to_owned();
        Err(Refusal { text, code: answer.code })
    };
    log(caller, line, &done);
}

fn log(caller: &Caller, line: &str, done: &Result<Done, Refusal>) {
    let Caller { user, key, address, .. } = caller;
    match done {
        Ok(Done { code, .. }) => {
            tracing::info!(user, key, address, line, code, "command ok");
        }
        Err(Refusal { text, code }) => {
            tracing::info!(user, key, address, line, code, why = text, "command fail");
        }
    }
}

/// The text for the user, and the exit code, of a command that failed with `err`.
pub fn refusal(err: Error) -> Refusal {
    err.into()
}

/// Formats events, one on each line. With `json`, each line is a JSON document. Otherwise, each
/// line is text.
pub fn events(events: &[Event], json: bool) -> String {
    let line = if json { fleet_text::event_json } else { fleet_text::event };
    events.iter().map(line).collect()
}

/// Adds an entry to the audit trail for a change that failed with `err`.
pub async fn audit_refusal(registry: &Registry, change: &Change, err: &Error) {
    audit(registry, change, exit_code(err), &err.to_string()).await;
}

async fn audit(registry: &Registry, change: &Change, code: u8, why: &str) {
    if let Err(err) = registry.catalog.audit_change(change, code, why).await {
        tracing::error!("cannot add a refusal to the audit trail: {err}");
    }
}

/// The answer of a command that ran to its end. The exit code may still report a problem.
struct Done {
    stdout: String,
    code: u8,
}

impl From<String> for Done {
    fn from(stdout: String) -> Self {
        Self { stdout, code: exit::OK }
    }
}

async fn execute(
    registry: &Registry,
    caller: &Caller,
    command: &Command,
    change: &Change,
    input: Input,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    if command.has_input() && input.is_none() {
        let verb = command.verb();
        let text = format!(
            "{verb} reads standard input, and the prompt has none; run: ssh registry {verb}"
        );
        return Err(Refusal::new(exit::FAILED, text));
    }
    match command {
        Command::Put { .. }
        | Command::ShowLayers { .. }
        | Command::AddImage { .. }
        | Command::Import { .. } => {
            input_verbs::execute(registry, caller, command, change, input, meter).await
        }
        Command::Diff { .. }
        | Command::References { .. }
        | Command::Collect { .. }
        | Command::Verify { .. }
        | Command::Stat { .. }
        | Command::Audit { .. } => upkeep::execute(registry, command, change, meter).await,
        Command::AddConfiguration { .. }
        | Command::ChangeConfiguration { .. }
        | Command::BumpConfiguration { .. }
        | Command::DeleteConfiguration { .. }
        | Command::Rollback { .. }
        | Command::Promote { .. } => {
            configuration_verbs::execute(registry, caller, command, change, meter).await
        }
        Command::Fleet { .. }
        | Command::Why { .. }
        | Command::Wait { .. }
        | Command::Events { .. }
        | Command::Host { .. }
        | Command::Retry { .. }
        | Command::Freeze { .. }
        | Command::Window { .. }
        | Command::Metrics { .. } => fleet_verbs::execute(registry, command, change, meter).await,
        Command::Web { .. } => {
            let text = "web needs an ssh connection; run: ssh -L 8080:web:80 registry web";
            Err(Refusal::new(exit::FAILED, text))
        }
        Command::Rollout(action) => {
            rollout_verbs::execute(registry, caller, action, change, meter).await
        }
        Command::AddVersion { .. }
        | Command::DeleteVersion { .. }
        | Command::DeleteComponent { .. }
        | Command::Pin { .. }
        | Command::Unpin { .. } => change_versions(registry, command, change).await.map(Done::from),
        Command::Help { .. }
        | Command::ShowConfiguration { .. }
        | Command::ShowComponent { .. }
        | Command::Components { .. }
        | Command::Configurations { .. }
        | Command::History { .. } => show(registry, command).await.map(Done::from),
    }
}

/// Runs one of the verbs that only show data.
async fn show(registry: &Registry, command: &Command) -> Result<String, Refusal> {
    let catalog = &registry.catalog;
    match command {
        Command::Help { verb } => Ok(help(verb.as_deref())),
        Command::ShowConfiguration { name, verbose, json } => {
            let configuration = catalog.configuration(name).await?;
            if *json {
                return Ok(String::from_utf8_lossy(&configuration.to_json()).into_owned());
            }
            Ok(print::configuration(&configuration, *verbose))
        }
        Command::ShowComponent { name, before, limit, json } => {
            let limit = limit.unwrap_or(u64::MAX);
            let versions = catalog.newest_versions(name, before.as_ref(), limit).await?;
            if *json {
                print::versions_json(name, &versions)
            } else {
                Ok(print::versions(&versions))
            }
        }
        Command::Components { after, limit, json } => {
            let limit = limit.unwrap_or(u64::MAX);
            let names = catalog.components(after.as_ref(), limit).await?;
            print::names(names.iter().map(ComponentName::as_str), *json)
        }
        Command::Configurations { after, limit, json } => {
            let limit = limit.unwrap_or(u64::MAX);
            let names = catalog.configuration_names(after.as_ref(), limit).await?;
            print::names(names.iter().map(ConfigurationName::as_str), *json)
        }
        Command::History { name, before, limit, json } => {
            let states = catalog.history(name, *before, limit.unwrap_or(u64::MAX)).await?;
            if *json { print::history_json(name, &states) } else { Ok(print::history(&states)) }
        }
        _ => unreachable!("`execute` runs the other verbs"),
    }
}

/// Runs one of the verbs that change versions. These verbs print nothing.
async fn change_versions(
    registry: &Registry,
    command: &Command,
    change: &Change,
) -> Result<String, Refusal> {
    let catalog = &registry.catalog;
    match command {
        Command::AddVersion { component, version, digest } => {
            let digest = registry.find_hash(digest).await?.ok_or_else(not_uploaded)?;
            registry.add_version(component, version, digest, change).await?;
        }
        Command::DeleteVersion { component, version, force } => {
            catalog.delete_version(component, version, *force, change).await?;
        }
        Command::DeleteComponent { name, force } => {
            catalog.delete_component(name, *force, change).await?;
        }
        Command::Pin { component, version, message } => {
            catalog.pin(component, version, message, change).await?;
        }
        Command::Unpin { component, version } => {
            catalog.unpin(component, version, change).await?;
        }
        _ => unreachable!("`execute` runs the other verbs"),
    }
    Ok(String::new())
}

fn help(verb: Option<&str>) -> String {
    match verb {
        None | Some("help") => command::listing(),
        Some("exit-codes") => exit::HELP.to_owned(),
        // For an unknown verb, this help lists all verbs, as the Go tool's help does.
        Some(name) => command::find(name).map_or_else(command::listing, command::Verb::help),
    }
}
