//! Runs `gc`. If an agent runs, the agent does the work. Otherwise the subcommand does the work.

use anyhow::Result;
use deploy_wire::exit;

use crate::commands::show;
use crate::control::ask;
use crate::control::protocol::{Answer, Request};
use crate::flags::Flags;
use crate::records::state_owner;
use crate::settings::Settings;
use crate::space::collection::{self, Gc};

pub(super) fn run_gc(flags: &Flags, dry_run: bool, taken_over: bool, json: bool) -> Result<u8> {
    let settings = Settings::of(flags);
    let answer = ask::either(&flags.dir, &Request::Gc { dry_run, taken_over }, || {
        if let Err(err) = state_owner::check(&flags.dir, &settings.state) {
            return Ok(Answer::failed(exit::FAILED, err.to_string()));
        }
        let done = collection::alone(&flags.dir, &settings, dry_run, taken_over)?;
        Ok(Answer::of(exit::OK, &done))
    })?;
    show(&answer, json, Gc::to_text)
}
