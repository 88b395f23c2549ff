//! The pages without navigation: what went wrong, and how to log in.

use maud::{Markup, html};

use super::layout::document;

/// The page that says what went wrong.
pub fn problem(title: &str, text: &str) -> Markup {
    let body = html! {
        h1 { (title) }
        p { (text) }
        p { a href="/" { "To the fleet" } }
    };
    document(title, None, None, &body)
}

/// The page for a browser that is not logged in.
pub fn login() -> Markup {
    let body = html! {
        h1 { "Not logged in" }
        p { "Your ssh connection is the login. Run " code { "deployctl web" } ", or type "
            code { "web" } " at the prompt of " code { "ssh -L 8080:web:80 registry" }
            " and open the address that it prints." }
        p { "If this browser is logged in already, and you came from a link of another page: "
            a href="" { "Continue" } }
    };
    document("Not logged in", None, None, &body)
}
