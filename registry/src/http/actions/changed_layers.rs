//! The page's form for changes sends the version of every layer. This module removes from the
//! command each layer that already has the chosen version.

use axum::http::StatusCode;
use deploy_store::{ComponentName, Layer, VersionName};
use deploy_wire::command::Command;

use crate::http::problem::Problem;
use crate::registry::Registry;

/// If the command changes versions, removes the layers that already have the chosen version.
/// Returns the command line and the command. Other commands stay as they are.
pub async fn without_unchanged(
    registry: &Registry,
    line: String,
    command: Command,
) -> Result<(String, Command), Problem> {
    let Command::ChangeConfiguration { name, changes, if_hash, options } = command else {
        return Ok((line, command));
    };
    let now = registry.catalog.configuration(&name).await?;
    let before = changes.len();
    let changes = changed(changes, now.layers());
    if changes.is_empty() {
        let text = "no layer would change: go back, and choose another version";
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    let is_same = changes.len() == before;
    let command = Command::ChangeConfiguration { name, changes, if_hash, options };
    let line = if is_same { line } else { command.to_string() };
    Ok((line, command))
}

/// The components whose chosen version differs from their version in `now`, each with the chosen
/// version.
fn changed(
    chosen: Vec<(ComponentName, VersionName)>,
    now: &[Layer],
) -> Vec<(ComponentName, VersionName)> {
    let is_new = |(component, version): &(ComponentName, VersionName)| {
        !now.iter().any(|layer| layer.component == *component && layer.version == *version)
    };
    chosen.into_iter().filter(is_new).collect()
}

#[cfg(test)]
mod tests {
    use deploy_store::Digest;
    use jiff::Timestamp;

    use super::*;
    use crate::http::actions::from_fields;

    fn layer(component: &str, version: &str) -> Layer {
        Layer {
            component: component.parse().unwrap(),
            version: version.parse().unwrap(),
            digest: Digest::of(b""),
            created: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn layers_that_keep_their_version_are_left_out() {
        let hash = "0".repeat(64);
        let fields = [
            ("verb", "changeconf"),
            ("name", "web"),
            ("if-hash", hash.as_str()),
            ("component", "code"),
            ("version", "v93"),
            ("component", "a & <b>"),
            ("version", "one \"two\""),
            ("component", "config"),
            ("version", "c41"),
            ("waves", "canary,100%"),
            ("soak", ""),
        ];
        let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (_, command) = from_fields(&fields).unwrap();
        let Command::ChangeConfiguration { changes, if_hash, options, .. } = command else {
            panic!("another command");
        };
        let now = [layer("code", "v92"), layer("a & <b>", "one \"two\""), layer("config", "c41")];
        let names = |changes: Vec<(ComponentName, VersionName)>| -> Vec<String> {
            let text = |(component, version): &(ComponentName, VersionName)| {
                format!("{}={}", component.as_str(), version.as_str())
            };
            changes.iter().map(text).collect()
        };
        assert_eq!(changes.len(), 3);
        assert_eq!(names(changed(changes.clone(), &now)), ["code=v93"]);
        // In this configuration, no component has its chosen version.
        let other = [layer("code", "c41"), layer("config", "v93")];
        assert_eq!(changed(changes, &other).len(), 3);
        assert!(if_hash.is_some() && options.rolling.rules.waves.is_some());
        assert_eq!(options.rolling.rules.soak, None);
    }
}
