//! `/confirm`: says what a command would do, and asks for a confirmation. Each change of the page
//! is a command of the console, so that it has the same effect, refusals and audit entry.

use maud::html;

use super::layout::{ConfirmForm, Nav, Page, section};
use crate::http::actions;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The confirmation of the command that the fields describe.
pub async fn page(registry: &Registry, fields: &[(String, String)]) -> Result<Page, Problem> {
    let command = actions::from_fields(fields)?;
    let effect = actions::effect(registry, &command).await?;
    let body = html! {
        ul { @for line in &effect.lines { li { (line) } } }
        p { "The same as: " code { "ssh registry " (command) } }
    };
    let form = ConfirmForm {
        line: command.to_string(),
        button: effect.button,
        back: effect.back,
        takes_message: effect.takes_message,
    };
    let sections = vec![section("confirm", &effect.title, &body)];
    Ok(Page { form: Some(form), ..Page::new(effect.title, Nav::Configurations, sections) })
}
