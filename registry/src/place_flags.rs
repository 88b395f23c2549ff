//! Defines the flags that say where a registry keeps its data.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use deploy_registry::bucket::{BucketAddress, BucketSettings};
use deploy_registry::registry::Place;
use deploy_wire::flags;

/// The help texts of the flags.
const CATALOGUE: &str = "Database server with the catalogue, such as postgres://USER@HOST/NAME; \
     without it, the catalogue is a file in the directory";
const BUCKET: &str = "Bucket of an S3 server for the blobs, such as s3://NAME?endpoint=URL&region=REGION&\
     prefix=PREFIX; without it, the blobs are files in the directory";
const LINGER: &str = "How long an unneeded object stays in the bucket after gc has condemned it";
const ABANDON: &str = "How long gc keeps the unfinished uploads of another registry that is away";
const ACCEPT: &str = "Start with a catalogue that is older than the bucket, as after a restored \
     backup, and remove nothing; NUMBER is in the message of the start that failed";

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
    /// The address of the bucket with the blobs
    #[arg(long, env = "DEPLOY_REGISTRY_BUCKET", value_name = "URL", help = BUCKET)]
    #[arg(value_parser = bucket)]
    bucket: Option<Bucket>,
    /// Maximum size of the copies of objects on the local disk, with -bucket
    #[arg(
        long,
        env = "DEPLOY_REGISTRY_CACHE",
        default_value = "20G",
        value_parser = flags::size
    )]
    cache: u64,
    /// How long an unneeded object stays in the bucket
    #[arg(long, env = "DEPLOY_REGISTRY_LINGER", default_value = "1h", help = LINGER)]
    #[arg(value_parser = flags::duration)]
    linger: Duration,
    /// The time without a heartbeat after which the uploads of another registry are given up
    #[arg(long, env = "DEPLOY_REGISTRY_ABANDON_AFTER", default_value = "1h", help = ABANDON)]
    #[arg(value_parser = flags::duration)]
    abandon_after: Duration,
    /// The number of a bucket whose older catalogue is accepted
    #[arg(long, env = "DEPLOY_REGISTRY_ACCEPT_OLDER_CATALOGUE", value_name = "NUMBER")]
    #[arg(help = ACCEPT)]
    accept_older_catalogue: Option<u64>,
}

/// The value of `-bucket`. An empty value stands for no bucket, so that a file with variables can
/// have an empty one.
#[derive(Debug, Clone)]
struct Bucket(Option<BucketAddress>);

fn bucket(text: &str) -> Result<Bucket, String> {
    if text.is_empty() { Ok(Bucket(None)) } else { text.parse().map(|one| Bucket(Some(one))) }
}

impl PlaceFlags {
    /// The address of the database server. An empty value stands for no server.
    pub fn catalogue(&self) -> Option<String> {
        self.catalogue.clone().filter(|url| !url.is_empty())
    }

    /// Where the registry keeps its data.
    pub fn place(&self) -> Place {
        let settings = |address| BucketSettings {
            address,
            cache: self.cache,
            linger: self.linger,
            abandon: self.abandon_after,
            accepts_older: self.accept_older_catalogue,
        };
        Place {
            dir: self.dir.clone(),
            catalogue: self.catalogue(),
            bucket: self.bucket.clone().and_then(|Bucket(address)| address).map(settings),
        }
    }
}
