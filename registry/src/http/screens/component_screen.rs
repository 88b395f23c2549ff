//! `/components/NAME`: the versions of one component.

use deploy_store::{ComponentName, VersionName};

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(
    _registry: &Registry,
    _name: &ComponentName,
    _before: Option<&VersionName>,
    _may_act: bool,
) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
