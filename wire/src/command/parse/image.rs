//! The verbs about imports of container images.

use super::super::verb::INPUT;
use super::super::{Command, Import, Refusal};
use super::Flags;

impl Flags {
    pub(super) fn add_image(&self) -> Result<Command, Refusal> {
        self.need(&["name"], "name should be set")?;
        if !self.is_set(INPUT) {
            let text = "the image is read from standard input: say so with - at the end";
            return Err(Refusal::usage(text.to_owned()));
        }
        let (name, layers) = (self.configuration_name()?, self.layers()?);
        Ok(Command::AddImage { name, layers, json: self.is_set("json") })
    }

    pub(super) fn import(&self) -> Result<Command, Refusal> {
        let name = self.all("name").last().map(|_| self.configuration_name()).transpose()?;
        let image = self.value("image", |text| match text {
            "" => Err("should not be empty".to_owned()),
            _ => Ok(text.to_owned()),
        });
        let compress = self.value("compress", |text| {
            text.parse().map_err(|err: crate::image::BadImage| err.to_string())
        })?;
        Ok(Command::Import(Import {
            name,
            image: image?,
            platform: self.value("platform", platform)?,
            layers: self.layers()?,
            compress: compress.unwrap_or_default(),
            image_config: self.is_set("image-config"),
            dry_run: self.is_set("n") || self.is_set("dry-run"),
            quiet: self.is_set("q"),
        }))
    }
}

/// A platform, as in `linux/arm64/v8`.
fn platform(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    if !(2..=3).contains(&parts.len()) || parts.contains(&"") {
        return Err("should be os/arch or os/arch/variant".to_owned());
    }
    Ok(text.to_owned())
}
