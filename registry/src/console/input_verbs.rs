//! Runs the verbs that read standard input: `put`, `showlayers`, `addimage` and `import`.

use std::sync::Arc;

use deploy_store::Meter;
use deploy_wire::command::{Command, Refusal};

use super::{Done, image_import, image_verbs, print};
use crate::caller::Caller;
use crate::catalog::Change;
use crate::registry::Registry;
use crate::stdin::Input;
use crate::verbs::put::PutTarget;

/// Runs one of the verbs that read standard input.
pub async fn execute(
    registry: &Registry,
    caller: &Caller,
    command: &Command,
    change: &Change,
    input: Input,
    meter: &Arc<Meter>,
) -> Result<Done, Refusal> {
    match command {
        Command::Put { component, version, json } => {
            let (component, version) = (component.clone(), version.clone());
            let target = PutTarget { component, version };
            let put = registry.put(&target, input, change).await?;
            let text =
                if *json { print::put_json(&target, put)? } else { print::put(&target, put) };
            Ok(Done::from(text))
        }
        Command::ShowLayers { asked, json } => {
            let input = if *asked { Some(input) } else { None };
            image_verbs::show(registry, input, *json).await
        }
        Command::AddImage { name, layers, json, .. } => {
            let wanted =
                image_verbs::Wanted { name, upper: layers, json: *json, client: caller.client };
            image_verbs::add_image(registry, wanted, input, change).await
        }
        Command::Import(wanted) => {
            image_import::run(registry, wanted, input, change, caller.client, meter).await
        }
        _ => unreachable!("`console` runs the other verbs"),
    }
}
