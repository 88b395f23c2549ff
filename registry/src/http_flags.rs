//! Defines the flags of the HTTP port.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail};
use clap::Args;
use deploy_registry::http::PortAccess;

/// The flags of the port for HTTP
#[derive(Debug, Args)]
pub struct HttpFlags {
    /// HTTP address for the page and the metrics, such as localhost:8022; without it, no HTTP port
    #[arg(long, env = "DEPLOY_REGISTRY_HTTP", value_name = "ADDR")]
    http: Option<String>,
    /// Name under which browsers may open the page, besides IP addresses and localhost
    #[arg(long, env = "DEPLOY_REGISTRY_HTTP_HOST", value_name = "NAME", value_delimiter = ',')]
    http_host: Vec<String>,
    /// Header in which a proxy names the logged-in user, who may then make changes
    #[arg(long, env = "DEPLOY_REGISTRY_HTTP_USER_HEADER", value_name = "HEADER")]
    http_user_header: Option<String>,
    /// Address of a proxy whose header is trusted; without it, this host's loopback addresses
    #[arg(long, env = "DEPLOY_REGISTRY_HTTP_PROXY", value_name = "IP", value_delimiter = ',')]
    http_proxy: Vec<IpAddr>,
}

impl HttpFlags {
    /// The address that `-http` gives, and the access rules of the HTTP port; `None` without
    /// `-http`.
    pub fn access(&self) -> Result<Option<(&str, Arc<PortAccess>)>> {
        let Some(address) = self.http.as_deref().filter(|address| !address.is_empty()) else {
            if self.http_user_header.is_some() {
                bail!("-http-user-header needs -http");
            }
            return Ok(None);
        };
        let header = self.http_user_header.as_deref().filter(|header| !header.is_empty());
        let header = header
            .map(|name| name.parse().map_err(|err| anyhow!("-http-user-header {name:?}: {err}")));
        let proxies = if self.http_proxy.is_empty() {
            vec![[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()]
        } else {
            self.http_proxy.clone()
        };
        let access = PortAccess::new(header.transpose()?, proxies, self.http_host.clone());
        let access = access.map_err(|err| anyhow!("make the secret of -http: {err}"))?;
        Ok(Some((address, Arc::new(access))))
    }
}
