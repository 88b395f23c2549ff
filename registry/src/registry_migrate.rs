//! The subcommand `migrate` moves a registry from its directory to a database server and a bucket,
//! or back.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use clap::Args;
use deploy_cli::progress::{Form, Shown};
use deploy_registry::bucket::BucketAddress;
use deploy_registry::migrate::{self, ServerPlace};
use deploy_wire::command::Refusal;
use deploy_wire::exit;

use crate::place_flags::PlaceFlags;

/// The help texts of the flags.
const TO: &str = "Database server to move to, such as postgres://USER@HOST/NAME; its database has to \
     be empty";
const BUCKET: &str = "Bucket to move to, or with -back to move from, such as \
     s3://NAME?endpoint=URL&region=REGION&prefix=PREFIX";
const BACK: &str = "Move from the database server of -catalogue and the bucket to the directory";

/// The places of a migration.
#[derive(Debug, Args)]
pub struct Migrate {
    /// The address of the new database server
    #[arg(long, env = "DEPLOY_REGISTRY_TO", value_name = "URL", help = TO)]
    #[arg(required_unless_present = "back", conflicts_with = "back")]
    to: Option<String>,
    /// The address of the bucket
    #[arg(long, env = "DEPLOY_REGISTRY_BUCKET", value_name = "URL", help = BUCKET)]
    bucket: BucketAddress,
    /// Whether the registry returns to a directory
    #[arg(long, env = "DEPLOY_REGISTRY_BACK", help = BACK)]
    back: bool,
    /// Show no progress
    #[arg(short, env = "DEPLOY_REGISTRY_Q")]
    q: bool,
}

impl Migrate {
    /// Moves the registry, and prints a report with the next steps.
    pub fn run(&self, place: &PlaceFlags) -> Result<u8> {
        let bucket = self.bucket.clone();
        let meter = Arc::default();
        let shown = Shown::with(&meter, Form::here(self.q), super::show_progress);
        let runtime = super::runtime()?;
        let moved = if let Some(to) = &self.to {
            let to = ServerPlace { catalogue: to.clone(), bucket };
            runtime.block_on(migrate::to_server(&place.dir, &to, &meter))
        } else {
            let none = || anyhow!("migrate -back needs -catalogue");
            let catalogue = place.catalogue().ok_or_else(none)?;
            let from = ServerPlace { catalogue, bucket };
            runtime.block_on(migrate::to_directory(&place.dir, &from, &meter))
        };
        drop(shown);
        match moved {
            Ok(report) => {
                super::print(&report.to_text())?;
                Ok(if report.is_sound() { exit::OK } else { exit::CORRUPT })
            }
            Err(err) => {
                let refusal = Refusal::from(err);
                tracing::error!("{}", refusal.text);
                Ok(refusal.code)
            }
        }
    }
}
