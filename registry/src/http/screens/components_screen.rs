//! `/components`: all components.

use deploy_store::ComponentName;

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(_registry: &Registry, _after: Option<&ComponentName>) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
