//! `/rollouts/NAME/NUMBER`: one rollout.

use deploy_store::ConfigurationName;

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(
    _registry: &Registry,
    _name: &ConfigurationName,
    _number: u64,
    _may_act: bool,
) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
