//! Probes a TCP port. The probe succeeds if the agent can connect to the port.

use tokio::net::TcpStream;

use crate::flags::health_flags::Address;
use crate::health::wording::reason;

/// Connects to an address.
pub(super) async fn connect(address: &Address) -> Result<TcpStream, String> {
    let stream = TcpStream::connect((&*address.host, address.port)).await;
    stream.map_err(|err| reason(&err))
}
