//! Defines the flags that say where a registry keeps its data.

use std::path::PathBuf;

use clap::Args;
use deploy_registry::registry::Place;

/// The help text of `-catalogue`.
const CATALOGUE: &str = "Database server with the catalogue, such as postgres://USER@HOST/NAME; \
     without it, the catalogue is a file in the directory";

/// Where the registry keeps its data.
#[derive(Debug, Args)]
pub struct PlaceFlags {
    /// Directory of the registry
    #[arg(
        long,
        global = true,
        env = "DEPLOY_REGISTRY_DIR",
        default_value = "/var/lib/deploy-registry"
    )]
    pub dir: PathBuf,
    /// The address of the database server with the catalogue
    #[arg(long, global = true, env = "DEPLOY_REGISTRY_CATALOGUE", value_name = "URL")]
    #[arg(help = CATALOGUE)]
    catalogue: Option<String>,
}

impl PlaceFlags {
    /// Where the registry keeps its data.
    pub fn place(&self) -> Place {
        Place {
            dir: self.dir.clone(),
            catalogue: self.catalogue.clone().filter(|url| !url.is_empty()),
        }
    }
}
