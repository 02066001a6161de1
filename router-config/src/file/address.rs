//! Spellings of addresses: what is wrong with a text that should be one, and which two of them are one place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::topology::NodeAddress;

/// Whose address it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// A PostgreSQL's: TCP, or the directory of a Unix socket.
    Node,
    /// A proxy's own or another one's: TCP.
    Proxy,
}

impl Whose {
    /// What such an address may look like, for messages.
    pub(super) fn cure(self) -> &'static str {
        match self {
            Self::Node => {
                "write host:port, like \"127.0.0.1:5432\", \"[::1]:5432\" or \"/run/postgresql:5432\""
            }
            Self::Proxy => "write host:port, like \"127.0.0.1:6432\", \"0.0.0.0:6432\" or \"[::1]:6432\"",
        }
    }
}

/// Why the text is not `host:port`.
pub(super) fn fault(text: &str, whose: Whose) -> Option<String> {
    if text.contains("://") {
        return Some(format!("\"{text}\" is a URL"));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Some(format!("\"{text}\" has no port"));
    };
    if host.is_empty() || host == "*" {
        return Some(format!("\"{text}\" has no host"));
    }
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Ok(0) => return Some(String::from("port 0 is nobody's port")),
        Ok(_) if digits => {}
        _ => return Some(format!("\"{port}\" is not a port number")),
    }
    match whose {
        _ if !host.starts_with('/') => host_fault(host),
        Whose::Node => None,
        Whose::Proxy => Some(format!("\"{host}\" is a directory: proxies do not listen on Unix sockets")),
    }
}

fn host_fault(host: &str) -> Option<String> {
    if let Some(rest) = host.strip_prefix('[') {
        let inner = rest.strip_suffix(']').and_then(|inner| inner.parse::<Ipv6Addr>().ok());
        return match inner {
            Some(_) => None,
            None => Some(format!("\"{host}\" is not an IPv6 address in brackets")),
        };
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("the IPv6 address \"{host}\" needs brackets"));
    }
    // Looked up as a name, it would be found nowhere, or be another address.
    let numbers = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numbers && host.parse::<Ipv4Addr>().is_err() {
        return Some(format!("\"{host}\" is not an IPv4 address"));
    }
    let good = |c: char| c.is_alphanumeric() || c == '-' || c == '.' || c == '_';
    (!host.chars().all(good)).then(|| format!("\"{host}\" is not a host name"))
}

/// Whether a listener on `listener` would take what is meant for `other`, as far as that can be told without looking up names.
pub(super) fn takes(listener: &NodeAddress, other: &NodeAddress) -> bool {
    if listener.port != other.port {
        return false;
    }
    match (ip(&listener.host), ip(&other.host)) {
        (Some(a), Some(b)) if a.is_unspecified() => a.is_ipv4() == b.is_ipv4(),
        (Some(a), Some(b)) => a == b,
        _ => listener.host.eq_ignore_ascii_case(&other.host),
    }
}

/// Whether a node's address is for certain that of the proxy itself. One on all addresses has those of this machine only.
pub(super) fn is_listener(listener: &NodeAddress, node: &NodeAddress) -> bool {
    let here = |ip: IpAddr| ip.is_loopback() || ip.is_unspecified();
    let everywhere = ip(&listener.host).is_some_and(|ip| ip.is_unspecified());
    takes(listener, node) && (!everywhere || ip(&node.host).is_some_and(here))
}

fn ip(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") { Some(Ipv4Addr::LOCALHOST.into()) } else { host.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_addresses() {
        let both = ["127.0.0.1:6432", "[::1]:5432", "db-1.example.com:5432", "0.0.0.0:1", "db:65535", "1a:5"];
        for good in both {
            assert_eq!((fault(good, Whose::Node), fault(good, Whose::Proxy)), (None, None), "{good}");
        }
        assert_eq!(fault("/run/postgresql:5432", Whose::Node), None);
    }

    #[test]
    fn wrong_addresses_are_told_by_what_they_are() {
        for (bad, said) in [
            ("127.0.0.1", "has no port"),
            ("", "has no port"),
            (":5432", "has no host"),
            ("*:5432", "has no host"),
            ("h:99999", "is not a port number"),
            ("h:+5432", "is not a port number"),
            ("h:", "is not a port number"),
            ("h:0", "port 0"),
            ("::1:5432", "needs brackets"),
            ("[::g]:1", "not an IPv6 address in brackets"),
            ("300.1.1.1:6631", "is not an IPv4 address"),
            ("10.0.1:6631", "is not an IPv4 address"),
            ("a b:1", "is not a host name"),
            ("a:b:1", "is not a host name"),
            ("postgres://127.0.0.1:5432", "is a URL"),
        ] {
            for whose in [Whose::Node, Whose::Proxy] {
                let fault = fault(bad, whose).expect("not an address");
                assert!(fault.contains(said), "{bad}: {fault}");
            }
        }
        assert!(fault("/tmp:6432", Whose::Proxy).is_some_and(|fault| fault.contains("Unix socket")));
    }

    #[test]
    fn listeners_take_what_is_theirs() {
        let address = |text: &str| text.parse::<NodeAddress>().expect("an address");
        for (listener, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "localhost:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("[::]:1", "[::1]:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", false),
            ("Db:1", "db:1", true),
            ("0.0.0.0:1", "db:1", false),
            ("127.0.0.1:1", "/tmp:1", false),
        ] {
            assert_eq!(takes(&address(listener), &address(other)), expected, "{listener} {other}");
        }
    }

    #[test]
    fn a_proxy_knows_its_own_address() {
        let own = |listener: &str, node: &str| {
            is_listener(&listener.parse().expect("an address"), &node.parse().expect("an address"))
        };
        assert!(own("0.0.0.0:5432", "127.0.0.1:5432") && own("10.0.0.1:5432", "10.0.0.1:5432"));
        // The same port of another machine.
        assert!(!own("0.0.0.0:5432", "10.0.0.1:5432") && !own("127.0.0.1:5432", "/run/postgresql:5432"));
    }
}
