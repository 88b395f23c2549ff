//! Parses the `from=` option of a key, which lists addresses, networks and wildcards.

use std::net::IpAddr;

use deploy_wire::wildcard;

/// One item of a `from=` list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    refuses: bool,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Network { address: IpAddr, bits: u8 },
    Wildcard(String),
}

/// Parses a comma-separated list of addresses, networks (`10.0.0.0/8`) and patterns with `*` and
/// `?`. An item that begins with `!` refuses its addresses.
pub fn parse_sources(text: &str) -> Result<Vec<Source>, String> {
    text.split(',').map(str::trim).map(parse_source).collect()
}

fn parse_source(text: &str) -> Result<Source, String> {
    let (refuses, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
    if text.is_empty() {
        return Err("option from has an empty item".to_owned());
    }
    let kind = match text.split_once('/') {
        Some((address, bits)) => parse_network(address, bits)
            .ok_or_else(|| format!("item {text:?} of option from is not ADDRESS/BITS"))?,
        None => Kind::Wildcard(text.to_ascii_lowercase()),
    };
    Ok(Source { refuses, kind })
}

fn parse_network(address: &str, bits: &str) -> Option<Kind> {
    let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some(Kind::Network { address, bits })
}

impl Source {
    /// Whether a list of sources allows `address`. At least one item without `!` must match, and no
    /// item with `!` may match.
    pub fn any_matches(sources: &[Self], address: IpAddr) -> bool {
        let address = address.to_canonical();
        let matching = |refuses| {
            sources.iter().any(|source| source.refuses == refuses && source.kind.matches(address))
        };
        matching(false) && !matching(true)
    }
}

impl Kind {
    fn matches(&self, address: IpAddr) -> bool {
        match self {
            Self::Network { address: network, bits } => {
                let high = |address: IpAddr| match address {
                    IpAddr::V4(address) => {
                        u128::from(address.to_bits()).checked_shr(32 - u32::from(*bits))
                    }
                    IpAddr::V6(address) => address.to_bits().checked_shr(128 - u32::from(*bits)),
                };
                network.is_ipv4() == address.is_ipv4() && high(*network) == high(address)
            }
            Self::Wildcard(pattern) => wildcard::matches(pattern, &address.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets_in(sources: &str, address: &str) -> bool {
        Source::any_matches(&parse_sources(sources).unwrap(), address.parse().unwrap())
    }

    #[test]
    fn networks_wildcards_and_refusals_match() {
        for (sources, address, want) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.11", false),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("10.*,192.168.?.1", "192.168.7.1", true),
            ("10.*,192.168.?.1", "192.168.77.1", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("*,!10.0.0.0/8", "10.1.1.1", false),
            ("*,!10.0.0.0/8", "9.1.1.1", true),
            ("!10.0.0.0/8", "9.1.1.1", false),
            ("*.example.com", "9.1.1.1", false),
        ] {
            assert_eq!(lets_in(sources, address), want, "{sources} {address}");
        }
        for bad in ["", "10.0.0.0/33", "x/8", "a,,b"] {
            assert!(parse_sources(bad).is_err(), "{bad:?}");
        }
    }
}
