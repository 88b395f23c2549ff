//! The subcommand `import-state` imports the state of a Go registry.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use clap::Args;
use deploy_cli::progress::{Form, Shown};
use deploy_registry::go_import;
use deploy_registry::registry::{Place, Registry, Settings};
use deploy_wire::exit;

/// How to import.
#[derive(Debug, Args)]
pub struct ImportState {
    /// Report what would be imported, and change nothing
    #[arg(short = 'n', long, env = "DEPLOY_REGISTRY_DRY_RUN")]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long, env = "DEPLOY_REGISTRY_JSON")]
    json: bool,
    /// Show no progress
    #[arg(short, env = "DEPLOY_REGISTRY_Q")]
    q: bool,
}

impl ImportState {
    /// Imports the state of a Go registry in the directory, and prints a report.
    pub fn run(&self, place: &Place, settings: Settings) -> Result<u8> {
        let meter = Arc::default();
        let shown = Shown::with(&meter, Form::here(self.q), super::show_progress);
        let dir: &Path = &place.dir;
        let report = if self.dry_run {
            go_import::dry_run(dir, &meter)?
        } else {
            // This check comes first. So without a `state.db`, no directory is created.
            go_import::StateDb::there(dir)?;
            let open = Registry::open_counted(place, settings, &meter);
            let registry = super::runtime()?.block_on(open)?;
            let why = "it was imported before, or the catalogue is not empty";
            registry.imported.ok_or_else(|| anyhow!("cannot import state.db: {why}"))?
        };
        drop(shown);
        super::print(&if self.json { report.to_json()? + "\n" } else { report.to_text() })?;
        Ok(if report.is_sound() { exit::OK } else { exit::CORRUPT })
    }
}
