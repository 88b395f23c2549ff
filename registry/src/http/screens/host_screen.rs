//! `/hosts/NAME`: what happened on one host.

use deploy_wire::fleet::HostName;

use super::layout::Page;
use crate::http::problem::Problem;
use crate::registry::Registry;

/// The screen.
pub async fn page(_registry: &Registry, _host: &HostName, _may_act: bool) -> Result<Page, Problem> {
    Err(Problem::not_found())
}
