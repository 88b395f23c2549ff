//! Answers the sftp packets of a client without an ssh connection. The fuzz targets use such
//! exchanges, with the role of an operator and with the role of an agent.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::Files;
use super::reading::View;
use super::writing::Uploads;
use super::{answer, packets};
use crate::caller::{Caller, Client};
use crate::registry::Registry;
use crate::ssh::activity::Activity;
use crate::ssh::auth::keyring::Role;
use crate::ssh::context::Context;
use crate::ssh::server::STALL;

/// Answers the packets in `bytes`, one after another. `operator` says whether the client is an
/// operator or an agent. The exchange stops at the first packet that ends a session, and then drops
/// open handles.
pub async fn exchange(registry: &Arc<Registry>, operator: bool, bytes: &[u8]) -> Vec<Bytes> {
    let role = if operator { Role::Operator } else { Role::Service };
    let [user, key, address] = ["nobody", "no key", "no address"].map(str::to_owned);
    let context = Context {
        registry: Arc::clone(registry),
        activity: Activity::begin(STALL),
        role,
        caller: Caller { user, key, address, client: Client::Ssh },
        address: IpAddr::from([127, 0, 0, 1]),
        declared: Arc::default(),
        web_sessions: Arc::default(),
    };
    let uploads = operator.then(|| Uploads::new(&context));
    let mut files = Files { view: View::new(&context), uploads };
    let mut bytes = BytesMut::from(bytes);
    let mut answers = Vec::new();
    while let Some(request) = packets::next(&mut bytes) {
        answers.push(answer(request, &mut files).await.0);
    }
    answers
}
