//! `import`: imports a container image.

use deploy_store::{ComponentName, ConfigurationName, VersionName};

use crate::command::given::Given;
use crate::command::line::Line;
use crate::command::verb::{
    CONFIGURATION, DRY_RUN, Flag, OVERRIDE, OVERRIDE_FLAG, QUIET, QUIET_FLAG, UPPER_LAYER, Verb,
    switch, text,
};
use crate::command::{Command, Refusal};
use crate::image::Compression;

pub(in crate::command) const VERB: Verb = Verb {
    name: "import",
    about: "add new configuration from container image on standard input",
    flags: &[
            text("compress", "compression of the layers: gzip, or zstd, which Go agents cannot unpack"),
            switch("dry-run", "only show what would be done"),
            text("image", "image to import, if the archive has several"),
            switch("image-config", "add a layer with .deploy/image.json, which says how the image is run"),
            UPPER_LAYER,
            switch(DRY_RUN, "same as -dry-run"),
            Flag { about: "configuration name (default: the name of the image)", ..CONFIGURATION },
            OVERRIDE_FLAG,
            text("platform", "platform to import, as in linux/arm64/v8"),
            QUIET_FLAG,
        ],
    examples: &[
        "import -name app < image.tar",
        "import -name app -platform linux/arm64 < image.tar",
    ],
    changes: true,
    reads_input: true,
};

/// The options for the import of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Import {
    /// Configuration to create or replace. If `None`, the configuration gets the name of the image.
    pub name: Option<ConfigurationName>,
    /// The image to import, if the archive has several images.
    pub image: Option<String>,
    /// The platform to import, as `os/arch` or `os/arch/variant`.
    pub platform: Option<String>,
    /// Layers on top of the image's layers, lowest first.
    pub layers: Vec<(ComponentName, VersionName)>,
    /// The compression of the layers' blobs.
    pub compress: Compression,
    /// Whether to add a layer with a file that states how to run the image.
    pub image_config: bool,
    /// Whether this is a dry run.
    pub dry_run: bool,
    /// Whether to show no progress.
    pub quiet: bool,
    /// Whether to change the configuration even if it is frozen.
    pub overrides: bool,
}

pub(in crate::command) fn parse(given: &Given) -> Result<Command, Refusal> {
    let name = given.all("name").last().map(|_| given.configuration_name()).transpose()?;
    let image = given.value("image", |text| match text {
        "" => Err("should not be empty".to_owned()),
        _ => Ok(text.to_owned()),
    });
    let compress = given.value("compress", |text| {
        text.parse().map_err(|err: crate::image::BadImage| err.to_string())
    })?;
    Ok(Command::Import(Import {
        name,
        image: image?,
        platform: given.value("platform", platform)?,
        layers: given.layers()?,
        compress: compress.unwrap_or_default(),
        image_config: given.is_set("image-config"),
        dry_run: given.is_set(DRY_RUN) || given.is_set("dry-run"),
        quiet: given.is_set(QUIET),
        overrides: given.is_set(OVERRIDE),
    }))
}

pub(in crate::command) fn write(command: &Command, line: &mut Line) {
    let Command::Import(import) = command else { return };
    let Import { name, image, platform, layers, compress, image_config, dry_run, quiet, overrides } =
        import;
    line.maybe("name", name.as_ref().map(ConfigurationName::as_str));
    line.maybe("image", image.as_ref());
    line.maybe("platform", platform.as_ref());
    line.maybe("compress", Some(compress).filter(|compress| **compress != Compression::default()));
    line.layers(layers);
    line.switch("image-config", *image_config);
    line.switch(DRY_RUN, *dry_run);
    line.switch(OVERRIDE, *overrides);
    line.switch(QUIET, *quiet);
}

/// Reads a platform, such as `linux/arm64/v8`.
fn platform(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    if !(2..=3).contains(&parts.len()) || parts.contains(&"") {
        return Err("should be os/arch or os/arch/variant".to_owned());
    }
    Ok(text.to_owned())
}
