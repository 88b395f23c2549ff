//! Runs a verb that only shows data, and answers with the document that the verb prints.

use axum::http::HeaderValue;
use axum::http::header::{CONTENT_TYPE, LINK};
use axum::response::{IntoResponse as _, Response};
use deploy_wire::command::Command;
use serde_json::Value;

use super::parameters::Parameters;
use crate::console;
use crate::http::problem::Problem;
use crate::http::shared_state::Handle;

/// The content type of documents.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Runs `command`, and returns the document that the console prints. `command` must ask for JSON.
pub async fn text(handle: &Handle, command: &Command) -> Result<String, Problem> {
    let shared = handle.shared().map_err(Problem::for_program)?;
    let shown = console::show_document(&shared.registry, command).await;
    shown.map_err(|refusal| Problem::from(refusal).for_program())
}

/// Runs `command`, and answers a request with the document.
pub async fn document(handle: &Handle, command: &Command) -> Result<Response, Problem> {
    text(handle, command).await.map(answer)
}

/// The answer to a request, with the document `text` as its body.
pub fn answer(text: String) -> Response {
    ([(CONTENT_TYPE, JSON)], text).into_response()
}

/// How to find the next page of a list.
#[derive(Debug, Clone, Copy)]
pub struct Paging {
    /// The field of the query that says where the next page begins.
    pub field: &'static str,
    /// The place of the list in the document, as a JSON pointer.
    pub list: &'static str,
    /// The place of the field's next value in an entry of the list, as a JSON pointer.
    pub value: &'static str,
    /// Whether the next page continues from this page's first entry instead of the last entry.
    pub backwards: bool,
}

/// A page of a list as the answer to a request. If there may be another page, its address is in the
/// header `Link`.
pub async fn page(
    handle: &Handle,
    parameters: &Parameters,
    command: &Command,
    paging: Paging,
) -> Result<Response, Problem> {
    let limit = parameters.limit()?;
    let text = text(handle, command).await?;
    let next = next(&text, limit, paging).map(|value| parameters.page(paging.field, &value));
    Ok(with_next(answer(text), next))
}

/// Adds the address of the next page to an answer, in the header `Link`.
pub fn with_next(mut response: Response, next: Option<String>) -> Response {
    let link = next.map(|next| format!("<{next}>; rel=\"next\""));
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(LINK, link);
    }
    response
}

/// The value of the query's field for the next page. A page with fewer entries than `limit` is the
/// last page.
fn next(text: &str, limit: u64, paging: Paging) -> Option<String> {
    let document: Value = serde_json::from_str(text).ok()?;
    let list = document.pointer(paging.list)?.as_array()?;
    if (list.len() as u64) < limit {
        return None;
    }
    let entry = if paging.backwards { list.first() } else { list.last() };
    match entry?.pointer(paging.value)? {
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_page_has_a_next_page() {
        let names = Paging { field: "after", list: "", value: "", backwards: false };
        assert_eq!(next("[\"a\", \"b\"]", 2, names), Some("b".to_owned()));
        assert_eq!(next("[\"a\", \"b\"]", 3, names), None);
        assert_eq!(next("[]", 1, names), None);
        let states =
            Paging { field: "before", list: "/states", value: "/number", backwards: false };
        let document = "{\"states\": [{\"number\": 3}, {\"number\": 2}]}";
        assert_eq!(next(document, 2, states), Some("2".to_owned()));
        let versions = Paging { backwards: true, ..states };
        assert_eq!(next(document, 2, versions), Some("3".to_owned()));
    }
}
