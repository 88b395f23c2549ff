//! An sftp session without ssh around it: the packets of a client in, the answers out. The
//! fuzz targets talk to both roles this way.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::caller::Client;
use crate::console::Caller;
use crate::registry::Registry;
use crate::ssh::activity::Activity;
use crate::ssh::auth::keyring::Role;
use crate::ssh::channel::Context;
use crate::ssh::sftp::reading::View;
use crate::ssh::sftp::writing::Uploads;
use crate::ssh::sftp::{self, Files};

/// Answers the packets in `bytes` as [`Role::Operator`] or [`Role::Service`] has them
/// answered, one after another, up to the first that ends a session. What is still open
/// then is given up.
pub async fn exchange(registry: &Arc<Registry>, operator: bool, bytes: &[u8]) -> Vec<Bytes> {
    let role = if operator { Role::Operator } else { Role::Service };
    let [user, key, address] = ["nobody", "no key", "no address"].map(str::to_owned);
    let context = Context {
        registry: Arc::clone(registry),
        activity: Activity::begin(crate::ssh::STALL),
        role,
        caller: Caller { user, key, address, client: Client::Ssh },
    };
    let uploads = operator.then(|| Uploads::new(&context));
    let mut files = Files { view: View::new(&context), uploads };
    let mut bytes = BytesMut::from(bytes);
    let mut answers = Vec::new();
    while let Some(request) = sftp::next(&mut bytes) {
        answers.push(sftp::answer(request, &mut files).await.0);
    }
    answers
}
