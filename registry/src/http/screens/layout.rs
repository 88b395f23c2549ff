//! Renders the frame of all screens: the head with the navigation, and the parts of a page.

use axum::http::Uri;
use deploy_store::Digest;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::http::access::Viewer;
use crate::http::assets::{ICON_ADDRESS, SCRIPT_ADDRESS, STYLESHEET_ADDRESS};

/// The icons of all pages. A page shows an icon with an element such as `<use href="#i-good"/>`.
const SPRITE: &str = include_str!("../assets/sprite.svg");
const BRAND: &str = include_str!("../assets/brand.svg");

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

/// A section of a page. When a section changes, browsers replace the section. The HTML of a section
/// is one element with the section's id.
#[derive(Debug)]
pub struct Section {
    /// The id of the element.
    pub id: &'static str,
    /// The element.
    pub html: Markup,
}

/// A part of a page.
#[derive(Debug)]
pub enum Part {
    /// HTML that browsers do not replace, such as a form.
    Fixed(Markup),
    /// A section.
    One(Section),
    /// Sections beside each other.
    Columns(Vec<Section>),
}

/// The contents of a screen. Sections may depend on whether the viewer may change things, but on
/// nothing else about the viewer. So all viewers with equal rights share the same sections. A form
/// may depend on its viewer.
#[derive(Debug)]
pub struct Page {
    /// The title, without the name of the program.
    pub title: String,
    /// The screen of the navigation to which the page belongs.
    pub nav: Nav,
    /// The parts, from top to bottom.
    pub parts: Vec<Part>,
    /// The form that confirms a command.
    pub form: Option<ConfirmForm>,
}

/// The form that confirms a command.
#[derive(Debug)]
pub struct ConfirmForm {
    /// The command line.
    pub line: String,
    /// The sentences about the effect, each split into its subject and the rest.
    pub effects: Vec<(String, String)>,
    /// The text on the button, such as `Abort: 12 hosts back to 14`.
    pub button: String,
    /// Whether the change is hard to undo.
    pub is_danger: bool,
    /// The address to which `Cancel` leads.
    pub back: String,
    /// The label of the message field, and whether the command needs a message. With `None`, the
    /// form has no message field.
    pub message: Option<(&'static str, bool)>,
}

impl Page {
    /// A page with these parts.
    pub fn new(title: impl Into<String>, nav: Nav, parts: Vec<Part>) -> Self {
        Self { title: title.into(), nav, parts, form: None }
    }

    /// The sections, from top to bottom.
    pub fn sections(&self) -> impl Iterator<Item = &Section> {
        self.parts.iter().flat_map(|part| match part {
            Part::Fixed(_) => &[],
            Part::One(section) => std::slice::from_ref(section),
            Part::Columns(sections) => sections.as_slice(),
        })
    }

    /// Whether browsers keep the page up to date. A page is live if it has sections and no form.
    pub fn is_live(&self) -> bool {
        self.form.is_none() && self.sections().next().is_some()
    }

    /// The HTML document for a viewer. If the page is live and `address` is given, browsers keep
    /// the page up to date.
    pub fn to_html(&self, viewer: &Viewer, address: Option<&Uri>) -> Markup {
        let live = address.filter(|_| self.is_live()).map(|address| {
            let mut query = form_urlencoded::Serializer::new(String::new());
            let page = address.path_and_query().map_or("/", |page| page.as_str());
            query.append_pair("page", page).append_pair("seen", &digest_of(self));
            format!("/live?{}", query.finish())
        });
        let body = html! {
            @for part in &self.parts {
                @match part {
                    Part::Fixed(html) => (html),
                    Part::One(section) => (section.html),
                    Part::Columns(sections) => div class="cols" {
                        @for section in sections { (section.html) }
                    },
                }
            }
            @if let Some(form) = &self.form { (confirm_form(form, viewer)) }
        };
        document(&self.title, Some((self.nav, viewer)), live.as_deref(), &body)
    }
}

/// A digest of the sections of a page. If the digest stays the same, a browser has nothing to
/// replace.
pub fn digest_of(page: &Page) -> String {
    let all: String = page.sections().map(|section| &*section.html.0).collect();
    Digest::of(all.as_bytes()).to_string()[..16].to_owned()
}

fn confirm_form(form: &ConfirmForm, viewer: &Viewer) -> Markup {
    let Some(actor) = &viewer.actor else {
        return html! {
            p { "The page is read-only here. To make changes, use deployctl web, or a proxy with "
                "-http-user-header." }
        };
    };
    let class = if form.is_danger { "main danger" } else { "main" };
    html! {
        div class="narrow stack" {
            form class="card pad stack" method="post" action="/run" {
                input type="hidden" name="csrf" value=(actor.form_token);
                input type="hidden" name="line" value=(form.line);
                dl class="list effects" {
                    @for (subject, rest) in &form.effects { dt { (subject) } dd { (rest) } }
                }
                @if let Some((label, is_needed)) = form.message {
                    div class="field" {
                        label for="m" { (label) }
                        input id="m" name="m" maxlength="200" autocomplete="off" required[is_needed];
                        @if !is_needed { small { "may be empty" } }
                    }
                }
                div class="actions" {
                    button class=(class) { (form.button) }
                    a href=(form.back) { "Cancel" }
                }
            }
            div class="field" {
                h2 { "The same as a command" }
                code class="shell" { "ssh registry " (form.line) }
            }
        }
    }
}

/// A whole document. `head` has the current screen of the navigation, and the viewer. Without
/// `head`, the document has no navigation.
pub fn document(
    title: &str,
    head: Option<(Nav, &Viewer)>,
    live: Option<&str>,
    body: &Markup,
) -> Markup {
    let now = format!("{:.0}", Timestamp::now());
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · deploy-registry" }
                link rel="icon" href=(*ICON_ADDRESS);
                link rel="stylesheet" href=(*STYLESHEET_ADDRESS);
                script src=(*SCRIPT_ADDRESS) defer {}
            }
            body data-now=(now) data-live=[live] {
                a class="skip" href="#main" { "Skip to content" }
                (PreEscaped(SPRITE))
                (header(head))
                main id="main" tabindex="-1" { (body) }
                footer class="foot" { span { "deploy-registry " (env!("CARGO_PKG_VERSION")) } }
            }
        }
    }
}

fn header(head: Option<(Nav, &Viewer)>) -> Markup {
    html! {
        header class="top" {
            div {
                a class="brand" href="/" { (PreEscaped(BRAND)) "deploy-registry" }
                @if let Some((now, viewer)) = head {
                    nav aria-label="Main" {
                        @for (nav, name, address) in NAVIGATION {
                            a href=(address) aria-current=[(nav == now).then_some("page")] { (name) }
                        }
                    }
                    div class="who" {
                        span id="live-status" role="status" {}
                        @let (who, key, way) = viewer.who();
                        span { (who) }
                        @if !key.is_empty() { span class="key" { (key) } }
                        span class="key" { (way) }
                    }
                }
            }
        }
    }
}
