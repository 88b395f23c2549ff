//! `/configurations/NAME/diff`: what differs between two states.

use deploy_store::ConfigurationName;

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(
    _registry: &Registry,
    _name: &ConfigurationName,
    _from: Option<u64>,
    _to: Option<u64>,
) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
