//! `/audit`: who changed what.

use super::AuditFilter;

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(_registry: &Registry, _filter: &AuditFilter) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
