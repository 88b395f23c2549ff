//! `/hosts`: a list of hosts.

use super::HostsFilter;

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(
    _registry: &Registry,
    _filter: &HostsFilter,
    _may_act: bool,
) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
