//! Turns errors into answers. This is the only place that chooses HTTP statuses for the registry's
//! errors.

use axum::Json;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{Html, IntoResponse, Response};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use serde::Serialize;

use super::screens::notices;
use crate::error::Error;

/// The content type of the document of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// An error as the answer to a request.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    text: String,
    /// Whether the answer is for a program, not for a browser.
    is_api: bool,
    is_logged_out: bool,
}

/// The JSON document of a problem (RFC 9457).
#[derive(Debug, Serialize)]
struct Document<'a> {
    status: u16,
    title: &'a str,
    detail: &'a str,
}

impl Problem {
    /// A problem with a status and a text for people.
    pub fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), is_api: false, is_logged_out: false }
    }

    /// The problem that the page does not exist.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "there is no such page")
    }

    /// Returns the problem as the answer to a request for `uri`. Under `/api/`, the answer is for a
    /// program.
    #[must_use]
    pub fn of(self, uri: &Uri) -> Self {
        Self { is_api: uri.path().starts_with("/api/"), ..self }
    }

    /// Returns the problem as the answer to a program.
    #[must_use]
    pub fn for_program(self) -> Self {
        Self { is_api: true, ..self }
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether the page, or the object that the page shows, does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// The answer to a sender who is not logged in.
    #[must_use]
    pub fn logged_out(self) -> Self {
        let text = "log in with deployctl web, or type web at the prompt of ssh registry";
        Self { text: text.to_owned(), is_logged_out: true, ..self }
    }
}

/// The status of an error.
fn status(err: &Error) -> StatusCode {
    match err {
        Error::NotFound(_) | Error::MissingLayers(_) => StatusCode::NOT_FOUND,
        Error::Conflict(_) => StatusCode::CONFLICT,
        Error::Invalid(_) => StatusCode::BAD_REQUEST,
        Error::BadArchive { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        Error::NotBound { cause, .. } => status(cause),
        Error::Busy(_) | Error::NoAnswer(_) | Error::NoBucket(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::OverLimit(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Damaged(_) | Error::Failed(_) | Error::Store(_) | Error::Database(_) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

impl From<Error> for Problem {
    fn from(err: Error) -> Self {
        Self::new(status(&err), err.to_string())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.code {
            exit::USAGE => StatusCode::BAD_REQUEST,
            exit::DENIED => StatusCode::FORBIDDEN,
            exit::NOT_FOUND => StatusCode::NOT_FOUND,
            exit::CONFLICT => StatusCode::CONFLICT,
            exit::TIMEOUT => StatusCode::GATEWAY_TIMEOUT,
            // With any other exit code, the console has refused the command, or the command failed.
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, refusal.text)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, text, is_api, is_logged_out } = &self;
        if *is_api {
            let title = status.canonical_reason().unwrap_or("error");
            let document = Document { status: status.as_u16(), title, detail: text };
            let kind = [(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON))];
            let mut response = (*status, kind, Json(document)).into_response();
            if *status == StatusCode::UNAUTHORIZED {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            return response;
        }
        let page = if *is_logged_out {
            notices::login()
        } else {
            notices::problem(status.canonical_reason().unwrap_or("error"), text)
        };
        (*status, Html(page.into_string())).into_response()
    }
}
