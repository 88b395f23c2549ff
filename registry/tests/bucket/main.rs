//! Tests of blobs in a bucket of a real S3 server, with a proxy that makes the network fail.
//! `DEPLOY_TEST_S3` names the server.

#[path = "../it/bench/mod.rs"]
mod bench;
mod broken_network;
mod objects;
