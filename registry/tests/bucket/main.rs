//! Tests of blobs in a bucket of a real S3 server, with a proxy that makes the network fail; tests of
//! several registries on one catalogue and one bucket; and tests of registries that move to a
//! database server and a bucket. `DEPLOY_TEST_S3` names the S3 server, and `DEPLOY_TEST_POSTGRES` the
//! database server.

#[path = "../it/bench/mod.rs"]
mod bench;
mod broken_network;
mod migrated;
mod objects;
#[path = "../it/rig/mod.rs"]
mod rig;
mod several;
mod several_programs;
#[path = "../it/fleet/watcher.rs"]
mod watcher;

/// Time limit for an answer of the registry on a busy machine.
const SOON: std::time::Duration = std::time::Duration::from_secs(20);
