//! Logs a client in to a registry that runs in the process of the test.

use std::sync::Arc;

use russh::client::{self, Config, Handle};
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};

use crate::rig::Rig;

/// A client that accepts any host key.
pub struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// Logs in at `port` with the operator's key.
pub async fn log_in(rig: &Rig, port: u16, config: Config) -> Handle<Trusting> {
    let address = ("127.0.0.1", port);
    let mut client = client::connect(Arc::new(config), address, Trusting).await.unwrap();
    let key = load_secret_key(rig.path("op"), None).unwrap();
    let key = PrivateKeyWithHashAlg::new(Arc::new(key), None);
    assert!(client.authenticate_publickey("me", key).await.unwrap().success());
    client
}
