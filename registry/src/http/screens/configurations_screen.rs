//! `/configurations`: all configurations.

use deploy_store::ConfigurationName;

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(
    _registry: &Registry,
    _after: Option<&ConfigurationName>,
) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
