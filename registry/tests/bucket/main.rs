//! Tests of blobs in a bucket of a real S3 server, with a proxy that makes the network fail, and of
//! registries that move to a database server and a bucket. `DEPLOY_TEST_S3` and
//! `DEPLOY_TEST_POSTGRES` name the servers.

#[path = "../it/bench/mod.rs"]
mod bench;
mod broken_network;
mod migrated;
mod objects;
#[path = "../it/rig/mod.rs"]
mod rig;
