//! From a command to words: a line that [`super::split`] and [`super::parse`] bring back to the
//! same command.

use std::fmt;

use deploy_store::{ComponentName, VersionName};

use super::verb::INPUT;
use super::{Command, Import, duration, quote};
use crate::image::Compression;

impl Command {
    /// Its flags with their values.
    fn flags(&self) -> Vec<(&'static str, String)> {
        let text = |name, value: &str| (name, value.to_owned());
        let mut flags = Vec::new();
        match self {
            Self::Help { .. }
            | Self::Components { .. }
            | Self::Configurations { .. }
            | Self::ShowLayers { .. }
            | Self::Collect { .. }
            | Self::Stat { .. } => {}
            Self::AddVersion { component, version, digest } => flags.extend([
                text("name", component.as_str()),
                text("version", version.as_str()),
                ("hash", digest.to_string()),
            ]),
            Self::AddConfiguration { name, layers, .. } | Self::AddImage { name, layers, .. } => {
                flags.push(text("name", name.as_str()));
                flags.extend(layers.iter().map(layer));
            }
            Self::Import(given) => flags.extend(import(given)),
            Self::ChangeConfiguration { name, changes, if_hash } => {
                flags.push(text("name", name.as_str()));
                for (component, version) in changes {
                    flags.push(text("component", component.as_str()));
                    flags.push(text("version", version.as_str()));
                }
                flags.extend(if_hash.iter().map(|hash| ("if-hash", hash.to_string())));
            }
            Self::BumpConfiguration { name, components, if_hash } => {
                flags.push(text("name", name.as_str()));
                flags.extend(components.iter().map(|name| text("component", name.as_str())));
                flags.extend(if_hash.iter().map(|hash| ("if-hash", hash.to_string())));
            }
            Self::ShowConfiguration { name, .. }
            | Self::DeleteConfiguration { name, .. }
            | Self::History { name, .. }
            | Self::Diff { name, .. }
            | Self::Rollback { name, .. } => flags.push(text("name", name.as_str())),
            Self::ShowComponent { name, .. } | Self::DeleteComponent { name, .. } => {
                flags.push(text("name", name.as_str()));
            }
            Self::References { digest, .. } => flags.push(("hash", digest.to_string())),
            Self::Verify { sample, budget, .. } => {
                flags.extend(sample.map(|sample| ("sample", sample.to_string())));
                flags.extend(budget.map(|time| ("budget", duration(time))));
            }
            Self::Audit { since, .. } => {
                flags.extend(since.map(|since| ("since", since.to_string())));
            }
            Self::Put { component, version, .. }
            | Self::DeleteVersion { component, version, .. }
            | Self::Pin { component, version, .. }
            | Self::Unpin { component, version } => {
                flags.extend([text("name", component.as_str()), text("version", version.as_str())]);
            }
        }
        if let Self::History { limit: Some(number), .. } | Self::Audit { limit: Some(number), .. } =
            self
        {
            flags.push(("limit", number.to_string()));
        }
        if let Self::Diff { from, to, .. } = self {
            flags.extend(from.map(|number| ("from", number.to_string())));
            flags.extend(to.map(|number| ("to", number.to_string())));
        }
        if let Self::Pin { message, .. } = self
            && !message.is_empty()
        {
            flags.push(text("m", message));
        }
        if let Self::Rollback { to: Some(number), .. } = self {
            flags.push(("to", number.to_string()));
        }
        flags
    }

    /// Its switches that are on.
    fn switches(&self) -> Vec<&'static str> {
        let mut switches = Vec::new();
        let mut add = |name, on: bool| switches.extend(on.then_some(name));
        match self {
            Self::ShowConfiguration { verbose, json, .. } => {
                add("v", *verbose);
                add("json", *json);
            }
            Self::ShowComponent { json, .. }
            | Self::Components { json }
            | Self::Configurations { json }
            | Self::References { json, .. }
            | Self::Stat { json }
            | Self::Put { json, .. }
            | Self::Audit { json, .. }
            | Self::History { json, .. } => add("json", *json),
            Self::Diff { files, json, .. } => {
                add("files", *files);
                add("json", *json);
            }
            Self::Collect { dry_run, force, json, quiet } => {
                add("n", *dry_run);
                add("force", *force);
                add("json", *json);
                add("q", *quiet);
            }
            Self::AddConfiguration { replace, .. } => add("replace", *replace),
            Self::AddImage { json, .. } => {
                add("json", *json);
                add(INPUT, true);
            }
            Self::ShowLayers { asked, json } => {
                add("json", *json);
                add(INPUT, *asked);
            }
            Self::Import(Import { image_config, dry_run, quiet, .. }) => {
                add("image-config", *image_config);
                add("n", *dry_run);
                add("q", *quiet);
            }
            Self::Verify { resume, json, quiet, .. } => {
                add("resume", *resume);
                add("json", *json);
                add("q", *quiet);
            }
            Self::DeleteVersion { force, .. }
            | Self::DeleteComponent { force, .. }
            | Self::DeleteConfiguration { force, .. } => add("force", *force),
            _ => {}
        }
        switches
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())?;
        if let Self::Help { verb: Some(verb) } = self {
            write!(f, " {}", quote(verb))?;
        }
        for (name, value) in self.flags() {
            write!(f, " -{name}={}", quote(&value))?;
        }
        self.switches().iter().try_for_each(|name| write!(f, " -{name}"))
    }
}

fn layer((component, version): &(ComponentName, VersionName)) -> (&'static str, String) {
    ("layer", format!("{}:{}", component.as_str(), version.as_str()))
}

fn import(import: &Import) -> Vec<(&'static str, String)> {
    let Import { name, image, platform, layers, compress, .. } = import;
    let mut flags = Vec::new();
    flags.extend(name.as_ref().map(|name| ("name", name.as_str().to_owned())));
    flags.extend(image.clone().map(|image| ("image", image)));
    flags.extend(platform.clone().map(|platform| ("platform", platform)));
    if *compress != Compression::default() {
        flags.push(("compress", compress.to_string()));
    }
    flags.extend(layers.iter().map(layer));
    flags
}
