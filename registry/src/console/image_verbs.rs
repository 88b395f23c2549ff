//! Runs the verbs for importers of container images: `showlayers` and `addimage`.

use deploy_store::{ComponentName, ConfigurationName, MAX_JSON, VersionName, escape};
use deploy_wire::command::Refusal;
use deploy_wire::exit;
use deploy_wire::image::{self, BadImage, Image, KnownLayer};
use serde_json::json;

use crate::caller::Client;
use crate::catalog::{Change, Imaged};
use crate::console::Done;
use crate::console::print::document;
use crate::console::table::list;
use crate::registry::Registry;
use crate::stdin::Input;

/// The arguments of `addimage`.
pub struct Wanted<'a> {
    /// The configuration's name.
    pub name: &'a ConfigurationName,
    /// The layers to put on top of the image's layers.
    pub upper: &'a [(ComponentName, VersionName)],
    /// Whether to answer as JSON.
    pub json: bool,
    /// The program that sent the command.
    pub client: Client,
}

/// Runs `showlayers`, which shows the known layers among those that `asked` lists. Without `asked`,
/// the verb shows all known layers.
pub async fn show(registry: &Registry, asked: Option<Input>, json: bool) -> Result<Done, Refusal> {
    let origins = match asked {
        Some(input) => Some(read(input, image::origins_from_json).await?),
        None => None,
    };
    let known = registry.known_layers(origins.as_deref()).await?;
    Ok(Done::from(if json { document(&known)? } else { text(&known) }))
}

/// Runs `addimage`.
pub async fn add_image(
    registry: &Registry,
    wanted: Wanted<'_>,
    input: Input,
    change: &Change,
) -> Result<Done, Refusal> {
    let image = read(input, Image::from_json).await?;
    let Wanted { name, upper, json, client } = wanted;
    let imaged = registry.add_image(name, &image, upper, change).await?;
    Ok(Done::from(if json {
        imaged_json(name, &imaged)?
    } else {
        imaged_text(name, &imaged, client)
    }))
}

async fn read<T>(
    mut input: Input,
    from_json: impl Fn(&[u8]) -> Result<T, BadImage>,
) -> Result<T, Refusal> {
    let failed = |why: String| Refusal::new(exit::FAILED, why);
    let bytes = input.all(MAX_JSON).await.map_err(|err| failed(err.to_string()))?;
    if bytes.is_empty() {
        return Err(failed("standard input is empty".to_owned()));
    }
    from_json(&bytes).map_err(|err| failed(format!("standard input {}", escape(&err.to_string()))))
}

fn text(known: &[KnownLayer]) -> String {
    let rows: Vec<Vec<String>> = known
        .iter()
        .map(|KnownLayer { origin, hash, bytes }| {
            let (diff_id, compression) = (origin.diff_id.to_string(), origin.compression);
            vec![diff_id, compression.to_string(), hash.to_string(), bytes.to_string()]
        })
        .collect();
    list(&rows)
}

/// The answer of `addimage` as text.
pub fn imaged_text(name: &ConfigurationName, imaged: &Imaged, client: Client) -> String {
    match imaged.before {
        _ if imaged.is_as_it_was() => format!("configuration \"{name}\" is unchanged\n"),
        Some(number) => super::configuration_verbs::back_to(client, name, number),
        None => String::new(),
    }
}

fn imaged_json(name: &ConfigurationName, imaged: &Imaged) -> Result<String, Refusal> {
    document(&json!({
        "name": name.as_str(),
        "configuration": name.as_str(),
        "hash": imaged.id.to_string(),
        "state": imaged.number,
        "before": imaged.before,
        "changed": !imaged.is_as_it_was(),
    }))
}
