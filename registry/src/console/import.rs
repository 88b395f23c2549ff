//! `import`: a container image on standard input.

use deploy_wire::command::{Import, Refusal};
use deploy_wire::exit;

use super::Done;
use crate::catalog::Change;
use crate::input::Input;
use crate::registry::Registry;

/// Makes a configuration of the image that comes from `input`.
#[expect(clippy::unused_async, reason = "what imports will wait")]
pub async fn run(
    _registry: &Registry,
    _import: &Import,
    _input: Input,
    _change: &Change,
) -> Result<Done, Refusal> {
    Err(Refusal::new(exit::FAILED, "import is not in this build"))
}
