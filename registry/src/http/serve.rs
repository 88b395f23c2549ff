//! Serves the requests of one connection of a browser or of another client.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};

use super::access::Access;
use super::web::Web;

/// How long a client may take to send the head of a request. The registry also closes a connection
/// on which no request has arrived for this time.
const HEAD: Duration = Duration::from_secs(30);
/// Maximum number of bytes of the head of a request.
const MAX_HEAD: usize = 32 << 10;
/// Maximum number of headers of a request.
const MAX_HEADERS: usize = 64;

/// Serves the requests that arrive on `stream`, until the client disconnects or the registry
/// stops.
pub async fn serve<S>(web: Arc<Web>, stream: S, access: &Access)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(web.service(access));
    let mut stopped = web.shared.registry.fleet.stopped();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    http.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let connection = http.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        _ = stopped.wait_for(|stopped| *stopped) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        tracing::debug!("connection of a browser ended: {err}");
    }
}
