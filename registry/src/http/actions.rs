//! Changes. Each is a command of the console, after a confirmation.

mod effect;

use std::sync::Arc;

use axum::Extension;
use axum::extract::{Form, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use deploy_wire::command::{self, Command, HostAction, RolloutAction};
use maud::html;
use serde::Deserialize;

pub use self::effect::effect;
use super::access::Viewer;
use super::problem::Problem;
use super::screens::layout::{Nav, Page, section};
use super::web::Handle;
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
        Command::Rollout(action) => {
            !matches!(action, RolloutAction::Status { .. } | RolloutAction::List { .. })
        }
        _ => false,
    }
}

/// The command with these fields: `verb` has the verb and its action, and each other field is the
/// value of a flag. Fields without a value are left out.
pub fn from_fields(fields: &[(String, String)]) -> Result<Command, Problem> {
    let mut line = String::new();
    for (_, value) in fields.iter().filter(|(name, _)| name == "verb") {
        line.push_str(value);
    }
    for (name, value) in fields.iter().filter(|(name, value)| name != "verb" && !value.is_empty()) {
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') {
            return Err(Problem::not_found());
        }
        line = line + " -" + name + "=" + &command::quote_always(value);
    }
    parse(&line)
}

/// The command of a line, if the page offers it.
fn parse(line: &str) -> Result<Command, Problem> {
    let words = command::split(line)?;
    let command = command::parse(&words)?;
    if !is_offered(&command) {
        let text = "the page does not offer this command; run it with ssh registry";
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    Ok(command)
}

/// `POST /run`: runs a confirmed command, and shows its answer.
pub(super) async fn run(
    State(handle): State<Handle>,
    Extension(viewer): Extension<Viewer>,
    Form(Confirmed { csrf, line, m }): Form<Confirmed>,
) -> Result<Response, Problem> {
    let web = handle.web()?;
    let read_only = || Problem::new(StatusCode::FORBIDDEN, "the page is read-only here");
    let actor = viewer.actor.clone().ok_or_else(read_only)?;
    if csrf != actor.form_token {
        let text = "the form is from an earlier login; open the page again";
        return Err(Problem::new(StatusCode::FORBIDDEN, text));
    }
    let message = if m.is_empty() { m } else { format!(" -m={}", command::quote_always(&m)) };
    let command = parse(&(line + &message))?;
    let back = effect::back(&command);
    let caller = Caller { client: Client::Web, ..actor.caller.clone() };
    let registry = Arc::clone(&web.registry);
    // The command runs to its end even if the browser leaves.
    let running = tokio::spawn(async move { console::perform(&registry, &caller, &command).await });
    let text = running.await.map_err(|err| {
        tracing::error!("internal error while running a command: {err}");
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error, see the registry's log")
    })??;
    let body = html! {
        @if !text.is_empty() { pre { (text) } }
        p { a href=(back) { "Back" } }
    };
    let page = Page::new("Done", Nav::Fleet, vec![section("done", "Done", &body)]);
    Ok(Html(page.to_html(&viewer, None).into_string()).into_response())
}
