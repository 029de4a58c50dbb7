//! Addresses of nodes, as people write them.

use std::fmt;

use crate::ConnectError;

/// Where a node listens: host name or IP address, and port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddress {
    /// A host name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl NodeAddress {
    /// Parses `host:port`, with or without `http://` before it; IPv6 addresses stand in brackets.
    pub fn parse(text: &str) -> Result<Self, ConnectError> {
        let bad = || ConnectError::BadAddress { address: text.to_owned() };
        let bare = text.trim();
        let bare = bare.strip_prefix("http://").unwrap_or(bare).trim_end_matches('/');
        let (host, port) = bare.rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| bad())?;
        if host.is_empty() || port == 0 {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Every address in `lists`, each of which may hold several, separated by commas.
pub(crate) fn parse_lists<S: AsRef<str>>(lists: impl IntoIterator<Item = S>) -> Result<Vec<NodeAddress>, ConnectError> {
    let mut addresses = Vec::new();
    for list in lists {
        for one in list.as_ref().split(',').filter(|one| !one.trim().is_empty()) {
            addresses.push(NodeAddress::parse(one)?);
        }
    }
    if addresses.is_empty() { Err(ConnectError::NoAddress) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_split_at_commas_and_refused_by_name() {
        let found = parse_lists(["a:1, b:2", "http://[::1]:3/"]).unwrap();
        let text: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["a:1", "b:2", "[::1]:3"]);
        for bad in ["localhost", ":9092", "host:port", "host:0"] {
            assert!(NodeAddress::parse(bad).unwrap_err().to_string().contains(bad), "{bad}");
        }
        assert!(matches!(parse_lists(["", " , "]), Err(ConnectError::NoAddress)));
    }
}
