//! Renders the pages without navigation, which say what went wrong, or how to log in.

use maud::{Markup, html};

use super::layout::document;

/// The page for a problem. The first line of `text` is emphasised.
pub fn problem(title: &str, text: &str) -> Markup {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let body = html! {
        div class="narrow stack" {
            div class="title" { h1 { (title) } }
            div class="card pad stack" {
                p { b { (first) } }
                @if !rest.is_empty() { pre class="out" tabindex="0" { (rest) } }
                div class="actions" { a class="button" href="/" { "To the fleet" } }
            }
        }
    };
    document(title, None, None, &body)
}

/// The page for a browser that is not logged in.
pub fn login() -> Markup {
    let body = html! {
        div class="narrow stack" {
            div class="title" { h1 { "Open this page through ssh" } }
            div class="card pad stack" {
                p { "This browser is not logged in. Your ssh key is the login; there is no password. "
                    "Type this on your machine:" }
                code class="shell" { "deployctl web" }
                p { "This command opens the page. Without deployctl, forward a port, and ask "
                    "the registry for an address with a token:" }
                code class="shell" { "ssh -L 8080:web:80 registry web" }
                p { "Then open the address that the command prints. The address works once. You stay "
                    "logged in as long as the ssh connection lasts." }
            }
            div class="card pad stack" {
                p { "If this browser is logged in, and you followed a link from another site, "
                    "click Continue." }
                div class="actions" { a class="button" href="/" { "Continue" } }
            }
        }
    };
    document("Not logged in", None, None, &body)
}
