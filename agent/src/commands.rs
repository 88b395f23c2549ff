//! The subcommands. Each subcommand writes its output and returns its exit code.

mod fleet_link;
pub mod gc;
pub mod init;
mod open_agent;
pub mod rollback;
pub mod status;
pub mod sync;
pub mod track;
pub mod unpack;
pub mod verify;
mod without_agent;

use std::io::Write as _;

use anyhow::{Result, anyhow};
use deploy_store::escape_json;
use deploy_wire::exit;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::exit_codes;
use crate::control::protocol::Answer;
use crate::error::Error;
use crate::flags::{Cli, Flags, Refused, Sub};

/// Runs the command that the command line gives, and returns the exit code.
pub fn run(cli: &Cli) -> Result<u8> {
    let flags = &cli.flags;
    match cli.command {
        Some(ref sub) if sub.looks_at_directory() && !flags.dir.exists() => {
            Err(no_directory(flags))
        }
        Some(Sub::Status { json }) => status::show_status(flags, json),
        Some(Sub::Verify { repair, json }) => verify::show_verify(flags, repair, json),
        Some(Sub::Gc { dry_run, taken_over, json }) => gc::run_gc(flags, dry_run, taken_over, json),
        Some(Sub::Sync { json }) => sync::run_sync(flags, json),
        Some(Sub::Rollback { release: false, json }) => rollback::run_rollback(flags, json),
        Some(Sub::Rollback { release: true, json }) => rollback::run_release(flags, json),
        Some(Sub::Init { ref settings }) => init::init(flags, settings.as_deref()),
        Some(Sub::Unpack { ref blobs, ref into }) => unpack::unpack_confined(flags, blobs, into),
        None => track::track(flags),
    }
}

/// The exit code of a command that failed.
pub fn exit_code(err: &anyhow::Error) -> u8 {
    if err.is::<Refused>() {
        return exit::USAGE;
    }
    err.downcast_ref::<Error>().map_or(exit::FAILED, exit_codes::of)
}

fn no_directory(flags: &Flags) -> anyhow::Error {
    let dir = flags.dir.display();
    anyhow!("there is no directory {dir}: no agent has run there; check -dir")
}

fn print(text: &str) -> Result<()> {
    std::io::stdout().write_all(text.as_bytes()).map_err(|err| anyhow!("write to stdout: {err}"))
}

/// Prints the answer, or logs the error of the answer, and returns the exit code. The output is
/// JSON with `json`, and otherwise the text that `text` returns.
fn show<T: Serialize + DeserializeOwned>(
    answer: &Answer,
    json: bool,
    text: impl FnOnce(&T) -> String,
) -> Result<u8> {
    if let Some(err) = &answer.error {
        tracing::error!(event = "failed", "{err}");
        return Ok(answer.code);
    }
    let done: T = answer.read().map_err(|err| anyhow!("read the answer: {err}"))?;
    let text =
        if json { escape_json(&serde_json::to_string_pretty(&done)?) + "\n" } else { text(&done) };
    print(&text)?;
    Ok(answer.code)
}
