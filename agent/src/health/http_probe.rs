//! Probes over HTTP/1.1 with a GET request on a new connection. The probe follows no redirects.

use std::future::poll_fn;
use std::pin::Pin;

use deploy_store::escape;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1::Builder;
use hyper::header::{CONNECTION, HOST, HeaderMap, LOCATION, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

use crate::flags::health_flags::Address;
use crate::health::tcp_probe::connect;

/// Maximum number of bytes of headers that the probe reads.
const MOST_OF_HEAD: usize = 64 << 10;
/// Maximum number of bytes of an answer's body that the probe reads.
const MOST_OF_BODY: usize = 64 << 10;
/// Maximum number of characters of a redirect's address in a message.
const MOST_OF_ADDRESS: usize = 100;

/// Sends a request, and reads the answer. Only a status from 200 to 299 is a success.
pub(super) async fn probe(address: &Address) -> Result<(), String> {
    let stream = connect(address).await?;
    let mut builder = Builder::new();
    let connected = builder.max_buf_size(MOST_OF_HEAD).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|err| explain(&err))?;
    let request = request(address)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|err| explain(&err))?;
        judge(&response)?;
        read(response.into_body()).await
    };
    tokio::pin!(exchange, connection);
    let mut is_open = true;
    loop {
        tokio::select! {
            probed = &mut exchange => return probed,
            // If the connection fails, the exchange reports the reason.
            _ = &mut connection, if is_open => is_open = false,
        }
    }
}

fn request(address: &Address) -> Result<Request<String>, String> {
    let Address { host, port, path, .. } = address;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let request = Request::get(path)
        .header(HOST, if *port == 80 { host } else { format!("{host}:{port}") })
        .header(USER_AGENT, concat!("deploy-agent/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, "close");
    request.body(String::new()).map_err(|err| err.to_string())
}

fn judge(response: &Response<Incoming>) -> Result<(), String> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let code = status.as_u16();
    if !status.is_redirection() {
        return Err(format!("status {code}"));
    }
    let to = location(response.headers()).map_or_else(String::new, |to| format!(" to {to}"));
    Err(format!("status {code} (a redirect{to}, not followed)"))
}

fn location(headers: &HeaderMap) -> Option<String> {
    let to = String::from_utf8_lossy(headers.get(LOCATION)?.as_bytes()).into_owned();
    Some(escape(&to).chars().take(MOST_OF_ADDRESS).collect())
}

/// Reads the body, up to a limit. If the body ends too early, the probe fails.
async fn read(mut body: Incoming) -> Result<(), String> {
    let mut left = MOST_OF_BODY;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|err| explain(&err))?;
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            break;
        }
    }
    Ok(())
}

/// Returns the text of the error and the text of its cause, because the text of a hyper error does
/// not contain the cause.
fn explain(err: &hyper::Error) -> String {
    let cause = std::error::Error::source(err).map(|cause| format!(": {cause}"));
    format!("{err}{}", cause.unwrap_or_default())
}
