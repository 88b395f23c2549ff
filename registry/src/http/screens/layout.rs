//! The frame of all screens: the head with the navigation, the sections, and the form of a
//! confirmation.

use axum::http::Uri;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::http::access::Viewer;
use crate::http::assets::{SCRIPT_ADDRESS, STYLESHEET_ADDRESS};
use crate::http::live::digest_of;

/// The screens in the navigation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nav {
    /// The fleet and its hosts.
    Fleet,
    /// The configurations and their rollouts.
    Configurations,
    /// The components.
    Components,
    /// The stored files.
    Store,
    /// The audit trail.
    Audit,
}

/// All screens of the navigation: name and address.
const NAVIGATION: [(Nav, &str, &str); 5] = [
    (Nav::Fleet, "Fleet", "/"),
    (Nav::Configurations, "Configurations", "/configurations"),
    (Nav::Components, "Components", "/components"),
    (Nav::Store, "Store", "/store"),
    (Nav::Audit, "Audit", "/audit"),
];

/// A part of a page that a browser can replace. Its HTML is one element with the id.
#[derive(Debug)]
pub struct Section {
    /// The id of the element.
    pub id: &'static str,
    /// The element.
    pub html: Markup,
}

/// The contents of a screen.
#[derive(Debug)]
pub struct Page {
    /// The title, without the name of the program.
    pub title: String,
    /// The screen of the navigation to which the page belongs.
    pub nav: Nav,
    /// The sections, from top to bottom.
    pub sections: Vec<Section>,
    /// The form that confirms a command.
    pub form: Option<ConfirmForm>,
}

/// The form that confirms a command.
#[derive(Debug)]
pub struct ConfirmForm {
    /// The command line.
    pub line: String,
    /// The text on the button, such as `Abort: 12 hosts back to state 14`.
    pub button: String,
    /// Where `Cancel` leads.
    pub back: String,
    /// Whether the command takes a message.
    pub takes_message: bool,
}

impl Page {
    /// A page with these sections.
    pub fn new(title: impl Into<String>, nav: Nav, sections: Vec<Section>) -> Self {
        Self { title: title.into(), nav, sections, form: None }
    }

    /// The document for a viewer. A page with an address, and without a form, shows changes.
    pub fn to_html(&self, viewer: &Viewer, address: Option<&Uri>) -> Markup {
        let live = address.filter(|_| self.form.is_none()).map(|address| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            let page = address.path_and_query().map_or("/", |page| page.as_str());
            query.append_pair("page", page).append_pair("seen", &digest_of(self));
            format!("/live?{}", query.finish())
        });
        let body = html! {
            @for section in &self.sections { (section.html) }
            @if let Some(form) = &self.form { (confirm_form(form, viewer)) }
        };
        document(&self.title, Some((self.nav, &viewer.who())), live.as_deref(), &body)
    }
}

fn confirm_form(form: &ConfirmForm, viewer: &Viewer) -> Markup {
    let Some(actor) = &viewer.actor else {
        return html! { p { "The page is read-only here." } };
    };
    html! {
        form method="post" action="/run" class="card confirm" {
            input type="hidden" name="csrf" value=(actor.form_token);
            input type="hidden" name="line" value=(form.line);
            @if form.takes_message {
                label for="m" { "Message" }
                input id="m" name="m" maxlength="200" autocomplete="off";
            }
            p class="act" {
                button class="danger" type="submit" { (form.button) }
                a class="btn" href=(form.back) { "Cancel" }
            }
        }
    }
}

/// A whole document. `head` is the screen of the navigation and the viewer; without it, the
/// document has no navigation.
pub fn document(
    title: &str,
    head: Option<(Nav, &str)>,
    live: Option<&str>,
    body: &Markup,
) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · deploy-registry" }
                link rel="stylesheet" href=(*STYLESHEET_ADDRESS);
                link rel="icon" href="data:,";
                @if live.is_some() { script src=(*SCRIPT_ADDRESS) defer {} }
            }
            body data-live=[live] {
                a class="skip" href="#main" { "Skip to the content" }
                @if let Some((now, who)) = head { (header(now, who)) }
                main id="main" { (body) }
            }
        }
    }
}

fn header(now: Nav, who: &str) -> Markup {
    html! {
        header {
            b { "deploy-registry" }
            nav aria-label="Main" {
                @for (nav, name, address) in NAVIGATION {
                    a href=(address) aria-current=[(nav == now).then_some("page")] { (name) }
                }
            }
            span class="who" { (who) }
            span id="live-status" role="status" aria-live="polite" {}
        }
    }
}

/// A section with a heading.
pub fn section(id: &'static str, heading: &str, body: &Markup) -> Section {
    let heading_id = format!("{id}-h");
    let html = html! {
        section id=(id) aria-labelledby=(heading_id) {
            h2 id=(heading_id) { (heading) }
            (body)
        }
    };
    Section { id, html }
}

/// Text that is HTML already.
pub fn raw(text: impl Into<String>) -> Markup {
    PreEscaped(text.into())
}
