//! `/store`: what takes space.

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(_registry: &Registry) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
