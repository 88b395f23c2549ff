//! Serves the stylesheet, the script and the icon, which are compiled into the program.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use deploy_store::Digest;

const STYLESHEET: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/live.js");
const ICON: &str = include_str!("assets/icon.svg");

/// The address of the stylesheet. The address changes with the contents, so browsers may cache the
/// stylesheet.
pub static STYLESHEET_ADDRESS: LazyLock<String> = LazyLock::new(|| address(STYLESHEET, "css"));
/// The address of the script.
pub static SCRIPT_ADDRESS: LazyLock<String> = LazyLock::new(|| address(SCRIPT, "js"));

/// The address of the icon.
pub static ICON_ADDRESS: LazyLock<String> = LazyLock::new(|| address(ICON, "svg"));

fn address(text: &str, ending: &str) -> String {
    format!("/assets/{}.{ending}", &Digest::of(text.as_bytes()).to_string()[..16])
}

/// Answers a request for a file of the page.
pub async fn get(Path(name): Path<String>) -> Response {
    let asked = format!("/assets/{name}");
    let (text, kind) = if asked == *STYLESHEET_ADDRESS {
        (STYLESHEET, "text/css; charset=utf-8")
    } else if asked == *SCRIPT_ADDRESS {
        (SCRIPT, "text/javascript; charset=utf-8")
    } else if asked == *ICON_ADDRESS {
        (ICON, "image/svg+xml")
    } else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let forever = "public, max-age=31536000, immutable";
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, forever)], text).into_response()
}
