//! Runs the commands of the console that the page offers. The user confirms each command first.

mod changed_layers;
mod described_effect;
mod effect;
mod rollout_effect;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use deploy_store::Digest;
use deploy_wire::command::{self, Command, HostAction, RolloutAction};
use maud::html;
use serde::Deserialize;

pub use self::changed_layers::without_unchanged;
pub use self::effect::effect;
use super::access::Viewer;
use super::problem::Problem;
use super::screens::layout::{Nav, Page, Part};
use super::shared_state::Handle;
use crate::caller::{Caller, Client};
use crate::console;

/// The fields of the form that confirms a command.
#[derive(Debug, Deserialize)]
pub struct Confirmed {
    #[serde(default)]
    csrf: String,
    line: String,
    #[serde(default)]
    m: String,
}

/// Whether the page offers this command.
fn is_offered(command: &Command) -> bool {
    match command {
        Command::ChangeConfiguration { .. }
        | Command::BumpConfiguration { .. }
        | Command::Rollback { .. }
        | Command::Promote { .. }
        | Command::Retry { .. }
        | Command::Freeze { .. }
        | Command::Pin { .. }
        | Command::Unpin { .. } => true,
        Command::Host(action) => !matches!(action, HostAction::List { .. }),
        Command::Rollout(action) => matches!(
            action,
            RolloutAction::Pause(..)
                | RolloutAction::Resume { .. }
                | RolloutAction::Abort(..)
                | RolloutAction::SkipSoak(_)
                | RolloutAction::Mark(..)
        ),
        _ => false,
    }
}

/// Turns the fields of an address into a command line and its command. The field `verb` holds the
/// verb and its action, such as `host hold`. Each other field holds the value of the flag with the
/// field's name. An empty field adds no flag. If the fields lack a message that the command needs,
/// the confirmation asks for the message.
pub fn from_fields(fields: &[(String, String)]) -> Result<(String, Command), Problem> {
    let bad = || Problem::new(StatusCode::BAD_REQUEST, "the address does not name a command");
    let verb = fields.iter().find(|(name, _)| name == "verb").map(|(_, verb)| verb.as_str());
    let is_word = |c: char| c.is_ascii_lowercase() || c == '-' || c == ' ';
    let verb = verb.filter(|verb| verb.chars().all(is_word)).ok_or_else(bad)?;
    let mut line = verb.to_owned();
    for (name, value) in fields.iter().filter(|(name, value)| name != "verb" && !value.is_empty()) {
        if !name.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
            return Err(bad());
        }
        line = line + " -" + name + "=" + &command::quote_always(value);
    }
    let has_message = fields.iter().any(|(name, value)| name == "m" && !value.is_empty());
    let needs_message = matches!(verb, "host hold" | "freeze") && !has_message;
    let command = parse(&if needs_message { format!("{line} -m=\"...\"") } else { line.clone() })?;
    Ok((line, command))
}

/// Parses a command line. If the page does not offer this command, the function returns a problem.
fn parse(line: &str) -> Result<Command, Problem> {
    let words = command::split(line)?;
    let command = command::parse(&words)?;
    if !is_offered(&command) {
        let text = "the page does not offer this command; run it with ssh registry";
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(command)
}

/// `POST /run`: runs a confirmed command, and shows the command's output.
pub(super) async fn run(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Form(Confirmed { csrf, line, m }): Form<Confirmed>,
) -> Result<Response, Problem> {
    let shared = handle.shared()?;
    let read_only = || {
        let text =
            "the page is read-only here; use deployctl web, or a proxy with -http-user-header";
        Problem::new(StatusCode::FORBIDDEN, text)
    };
    let actor = viewer.actor.clone().ok_or_else(read_only)?;
    if Digest::of(csrf.as_bytes()) != Digest::of(actor.form_token.as_bytes()) {
        let text = "the form is from an earlier login; open the page again";
        return Err(Problem::new(StatusCode::FORBIDDEN, text));
    }
    let message = if m.is_empty() { m } else { format!(" -m={}", command::quote_always(&m)) };
    let command = parse(&(line + &message))?;
    let back = effect::back(&command);
    let caller = Caller { client: Client::Web, ..actor.caller.clone() };
    let registry = Arc::clone(&shared.registry);
    // The command runs to its end even if the browser disconnects.
    let running = tokio::spawn(async move { console::perform(&registry, &caller, &command).await });
    let text = running.await.map_err(|err| {
        tracing::error!("internal error while running a command: {err}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error; see the registry's log")
    })??;
    let body = html! {
        div class="narrow stack" {
            div class="title" { h1 { "Done" } }
            div class="card pad stack" {
                @if text.is_empty() { p { "The registry made the change." } }
                @else { pre class="out" tabindex="0" { (text) } }
                div class="actions" { a class="button" href=(back) { "Show it" } }
            }
        }
    };
    let page = Page::new("Done", Nav::Fleet, vec![Part::Fixed(body)]);
    Ok(Html(page.to_html(&viewer, None).into_string()).into_response())
}
