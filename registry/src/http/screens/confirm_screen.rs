//! Renders `/confirm`, which says what a command would do, and asks for a confirmation. Each change
//! on the page is a command of the console. So a change has the same effect, refusals and audit
//! entry as the command.

use maud::html;

use super::layout::{Nav, Page, Part};
use crate::http::actions;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The confirmation of the command that the fields describe.
pub async fn page(registry: &Registry, fields: &[(String, String)]) -> Result<Page, Problem> {
    let (line, command) = actions::from_fields(fields)?;
    let (line, command) = actions::without_unchanged(registry, line, command).await?;
    let (title, form) = actions::effect(registry, line, &command).await?;
    let heading = html! {
        div class="narrow stack" {
            div class="title" {
                nav class="crumbs" aria-label="Path" { a href=(form.back) { "Back" } }
                h1 { (title) }
            }
        }
    };
    let page = Page::new(title, Nav::Configurations, vec![Part::Fixed(heading)]);
    Ok(Page { form: Some(form), ..page })
}
