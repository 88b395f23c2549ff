//! Accepts connections on the port of `-http`.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::access::{Access, PortAccess};
use super::serve::serve as serve_stream;
use super::web::Web;

/// Maximum number of connections to the port. These connections do not count as ssh connections.
const MAX_CONNECTIONS: usize = 512;
/// The pause after `accept` has failed, for example because of too many open files.
const PAUSE: Duration = Duration::from_millis(200);

/// Accepts connections until the registry stops. While `MAX_CONNECTIONS` connections are open, new
/// connections wait.
pub async fn serve(web: Arc<Web>, listener: TcpListener, port: Arc<PortAccess>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut stopped = web.shared.registry.fleet.stopped();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let _ = stream.set_nodelay(true);
                let access = Access::Port { port: Arc::clone(&port), peer: peer.ip() };
                let web = Arc::clone(&web);
                tokio::spawn(async move {
                    serve_stream(web, stream, &access).await;
                    drop(permit);
                });
            }
            Err(err) => {
                tracing::warn!("accept on the port of -http: {err}");
                sleep(PAUSE).await;
            }
        }
    }
}
