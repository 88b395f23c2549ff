//! Defines the flags of `deploy-from-docker`, and converts them to settings.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser};
use deploy_from_docker::Result as ImportResult;
use deploy_from_docker::choose::Wanted;
use deploy_from_docker::choose::manifest::Platform;
use deploy_from_docker::import::Options;
use deploy_from_docker::read::cache::Cache;
use deploy_from_docker::send::compress::MAX_THREADS;
use deploy_store::{ComponentName, VersionName};
use deploy_wire::client::{Connect, OPERATOR_TIMEOUT, operator};
use deploy_wire::command::Refusal;
use deploy_wire::flags;
use deploy_wire::image::Compression;

/// Imports a container image into a registry. The image becomes a configuration, and each layer
/// becomes a component. The input is the output of docker save, podman, skopeo or buildah.
///
///   docker save app:1.4 | deploy-from-docker -addr registry:2022
#[derive(Debug, Parser)]
#[command(name = "deploy-from-docker", args_override_self = true, verbatim_doc_comment)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Flags {
    /// Registry to import into (host:port)
    #[arg(long, env = "DEPLOYCTL_ADDR", default_value = "")]
    addr: String,
    /// Fingerprint of the registry's host key (sha256:...); without it, ssh's known hosts are used
    #[arg(long, env = "DEPLOYCTL_FINGERPRINT", default_value = "")]
    fp: String,
    /// Private ssh key file; without it, ssh-agent's keys and the usual files are tried
    #[arg(long, env = "DEPLOYCTL_KEY", default_value = "")]
    key: OsString,
    /// User name (default: the name you are logged in with)
    #[arg(long, env = "DEPLOYCTL_USER", default_value = "")]
    user: String,
    /// Name of the configuration, and start of the components' names (default: the image's name)
    #[arg(long, env = "DEPLOY_FROM_DOCKER_NAME")]
    name: Option<String>,
    /// Layer to put on top, as component:version; can be set multiple times
    #[arg(long, env = "DEPLOY_FROM_DOCKER_LAYER", value_parser = layer, action = ArgAction::Append)]
    #[arg(value_delimiter = ',')]
    layer: Vec<(ComponentName, VersionName)>,
    /// Image to import, by its name or the start of its id
    #[arg(long, env = "DEPLOY_FROM_DOCKER_IMAGE")]
    image: Option<String>,
    /// Platform of the image, as os/arch or os/arch/variant
    #[arg(long, env = "DEPLOY_FROM_DOCKER_PLATFORM")]
    platform: Option<Platform>,
    /// Compression of the layers: gzip, or zstd, which no Go agent unpacks
    #[arg(long, env = "DEPLOY_FROM_DOCKER_COMPRESS", default_value_t = Compression::Gzip)]
    compress: Compression,
    /// Add a layer with .deploy/image.json, which says how the image is run
    #[arg(long, env = "DEPLOY_FROM_DOCKER_IMAGE_CONFIG", action = ArgAction::Set)]
    #[arg(value_parser = flags::boolean, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false")]
    image_config: bool,
    /// Only show what would be done
    #[arg(long, short = 'n', env = "DEPLOY_FROM_DOCKER_DRY_RUN", action = ArgAction::Set)]
    #[arg(value_parser = flags::boolean, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false")]
    dry_run: bool,
    /// Write the layers to this directory instead of a registry
    #[arg(long, env = "DEPLOY_FROM_DOCKER_INTO")]
    pub into: Option<PathBuf>,
    /// Directory for the temporary files, which may be as large as the unpacked image archive
    #[arg(long, env = "DEPLOY_FROM_DOCKER_TMPDIR")]
    tmpdir: Option<PathBuf>,
    /// Directory for the cached listings of layers (default: ~/.cache/deploy-from-docker)
    #[arg(long, env = "DEPLOY_FROM_DOCKER_CACHE_DIR")]
    cache_dir: Option<PathBuf>,
    /// Use no cache, and unpack every layer to list it
    #[arg(long, env = "DEPLOY_FROM_DOCKER_NO_CACHE", action = ArgAction::Set)]
    #[arg(value_parser = flags::boolean, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false")]
    no_cache: bool,
    /// Change the configuration even if it is frozen
    #[arg(long = "override", env = "DEPLOY_FROM_DOCKER_OVERRIDE", action = ArgAction::Set)]
    #[arg(value_parser = flags::boolean, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false")]
    pub overrides: bool,
    /// Show no progress
    #[arg(short, env = "DEPLOY_FROM_DOCKER_Q", action = ArgAction::Set)]
    #[arg(value_parser = flags::boolean, num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "true", default_value = "false")]
    pub q: bool,
    /// Image archive, or directory in the OCI layout (default: standard input)
    #[arg(value_name = "FILE")]
    pub input: Option<PathBuf>,
}

impl Flags {
    /// The description of the command line for clap.
    pub fn described() -> clap::Command {
        let command = Self::command().version(deploy_cli::version!());
        deploy_cli::full(command.mut_args(|arg| arg.hide_env_values(true)))
    }

    /// Reads the command line. The first of `arguments` is the program's name.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let command = Self::described();
        let known: Vec<String> = command
            .get_arguments()
            .filter_map(|argument| argument.get_long().map(str::to_owned))
            .chain(["help", "version"].map(str::to_owned))
            .collect();
        let words = flags::normalize(arguments, &known).into_iter().map(flags::name_in_full);
        Self::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    /// The settings for the connection.
    pub fn connect(&self) -> Result<Connect, Refusal> {
        if self.addr.is_empty() {
            let text = "addr should be set: give -addr host:port or set DEPLOYCTL_ADDR, \
                        or use -into DIR, which needs no registry";
            return Err(Refusal::usage(text.to_owned()));
        }
        operator(&self.addr, &self.fp, &self.key, &self.user, OPERATOR_TIMEOUT)
    }

    /// The cache with the listings of layers from earlier imports. An unusable cache is an error
    /// only if the user chose its directory with a flag or variable.
    pub fn cache(&self) -> ImportResult<Option<Cache>> {
        let asked = self.cache_dir.as_ref().filter(|dir| !dir.as_os_str().is_empty());
        match asked {
            _ if self.no_cache => Ok(None),
            Some(dir) => Cache::named(dir, deploy_cli::version!()).map(Some),
            None => Ok(Cache::usual(deploy_cli::version!())),
        }
    }

    /// The request for an import that the flags describe.
    pub fn options(&self) -> Options {
        let Self { name, layer, image, platform, compress, tmpdir, .. } = self;
        let threads = std::thread::available_parallelism();
        Options {
            wanted: Wanted { image: image.clone(), platform: platform.clone() },
            name: name.clone().filter(|name| !name.is_empty()),
            layers: layer.clone(),
            compression: *compress,
            image_config: self.image_config,
            dry_run: self.dry_run,
            tmpdir: tmpdir.clone(),
            threads: threads.map_or(1, std::num::NonZero::get).min(MAX_THREADS),
            ..Options::default()
        }
    }
}

fn layer(text: &str) -> Result<(ComponentName, VersionName), String> {
    let (component, version) =
        text.split_once(':').ok_or_else(|| format!("layer {text:?} is not component:version"))?;
    let bad = |err: deploy_store::Error| err.to_string();
    Ok((component.parse().map_err(bad)?, version.parse().map_err(bad)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Flags, clap::Error> {
        Flags::read(format!("deploy-from-docker {line}").split_whitespace().map(OsString::from))
    }

    #[test]
    fn flags_accept_the_go_spelling() {
        let flags = read("-name app --layer=a:1 -layer b:2 -n -q -compress zstd x.tar").unwrap();
        let options = flags.options();
        assert_eq!((options.name.as_deref(), options.layers.len()), (Some("app"), 2));
        assert!(options.dry_run && flags.q && !options.image_config);
        assert_eq!(options.compression, Compression::Zstd);
        assert_eq!(flags.input, Some(PathBuf::from("x.tar")));
        assert!(!read("-dry-run=false -image-config=F").unwrap().options().dry_run);
        for bad in ["-layer a", "-platform linux", "-compress lz4", "-bogus", "a b", "-name"] {
            assert_eq!(read(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn missing_address_is_refused() {
        let refused = read("x").unwrap().connect().unwrap_err();
        assert!(refused.text.starts_with("addr should be set"), "{refused}");
    }
}
