//! The screens of the page. Each screen has an address, and is made of sections that a browser can
//! replace one by one.

mod confirm_screen;
mod fleet_screen;
pub mod layout;
pub mod notices;

use self::layout::Page;
use super::problem::Problem;
use crate::registry::Registry;

/// Longest address of a screen.
const MAX_ADDRESS: usize = 8 << 10;

/// A screen, as its address names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Screen {
    /// `/`: what needs attention, rollouts, and configurations.
    Fleet,
    /// `/confirm`: what a command would do, and a button to do it.
    Confirm(Vec<(String, String)>),
}

/// The fields of an address's query.
#[derive(Debug)]
struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(query: &str) -> Self {
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// The value of a field. An empty value is none, because a form sends all its fields.
    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

impl Screen {
    /// The screen with this address.
    pub fn parse(path: &str, query: &str) -> Result<Self, Problem> {
        if path.len() + query.len() > MAX_ADDRESS {
            return Err(Problem::not_found());
        }
        let parts: Option<Vec<String>> = path.split('/').skip(1).map(decoded).collect();
        let parts = parts.ok_or_else(Problem::not_found)?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let fields = Fields::read(query);
        match parts.as_slice() {
            [""] => Ok(Self::Fleet),
            ["confirm"] => Ok(Self::Confirm(fields.0)),
            _ => Err(Problem::not_found()),
        }
    }

    /// The contents of the screen. `may_act` says whether its viewer may change things.
    pub async fn page(&self, registry: &Registry, may_act: bool) -> Result<Page, Problem> {
        match self {
            Self::Fleet => fleet_screen::page(registry, may_act).await,
            Self::Confirm(fields) => confirm_screen::page(registry, fields).await,
        }
    }
}

/// A part of a path, decoded; `None` if it is not text.
fn decoded(part: &str) -> Option<String> {
    percent_encoding::percent_decode_str(part).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}
