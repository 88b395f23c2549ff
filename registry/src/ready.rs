//! The subcommand `ready` asks a running registry whether it can serve.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::Args;

/// Maximum time until the registry accepts the connection, and until each part of its answer arrives.
const WAIT: Duration = Duration::from_secs(15);
/// Maximum length of the answer in bytes.
const LONGEST: u64 = 64 << 10;

/// The registry to ask.
#[derive(Debug, Args)]
pub struct Ready {
    /// HTTP address of the registry, as its flag -http gives it
    #[arg(long, env = "DEPLOY_REGISTRY_HTTP", value_name = "ADDR")]
    http: String,
}

impl Ready {
    /// Asks the registry. Fails, with the reason, if the registry cannot serve.
    pub fn run(&self) -> Result<()> {
        let answer = self.ask().map_err(|err| anyhow!("ask {}: {}", self.http, err.kind()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            bail!("the registry at {} is not ready: status {status}: {}", self.http, body.trim());
        }
        Ok(())
    }

    fn ask(&self) -> std::io::Result<String> {
        let everywhere = self.http.strip_prefix(':').map(|port| format!("localhost:{port}"));
        let address = everywhere.as_deref().unwrap_or(&self.http);
        let mut last = std::io::ErrorKind::AddrNotAvailable.into();
        for resolved in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&resolved, WAIT) {
                Ok(stream) => return get(stream),
                Err(err) => last = err,
            }
        }
        Err(last)
    }
}

fn get(mut stream: TcpStream) -> std::io::Result<String> {
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
