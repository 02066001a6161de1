//! Ports of the loopback interface that no other local cluster takes, without files that could be left behind.
//!
//! A port is reserved by a socket in the abstract namespace that bears its number: the kernel gives the name to one
//! process and takes it back when that process ends, and like the ports it belongs to the network namespace. That the
//! port itself is free is then tried by binding it. Ports come from below the range that the kernel gives to outgoing
//! connections, so that nobody's outgoing connection lands on one between the trial and the server's start.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::error::Error;

const FIRST: u16 = 15_000;
const LAST: u16 = 31_999;

/// A port that stays ours until drop.
#[derive(Debug)]
pub struct ReservedPort {
    number: u16,
    _name: UnixListener,
}

impl ReservedPort {
    /// Any free port.
    pub fn any() -> Result<Self, Error> {
        let span = LAST - FIRST + 1;
        let start = rand::random_range(0..span);
        (0..span)
            .find_map(|step| Self::exactly(FIRST + (start + step) % span))
            .ok_or(Error::NoPort { from: FIRST, to: LAST })
    }

    /// `wanted`, or the next free one after it among a hundred.
    pub fn from(wanted: u16) -> Result<Self, Error> {
        let last = wanted.saturating_add(99);
        (wanted..=last).find_map(Self::exactly).ok_or(Error::NoPort { from: wanted, to: last })
    }

    /// This one, if it is free.
    pub fn exactly(number: u16) -> Option<Self> {
        let name = SocketAddr::from_abstract_name(format!("gavel-port-{number}")).ok()?;
        let name = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
        Some(Self { number, _name: name })
    }

    /// The port.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_again_after_drop() {
        let port = ReservedPort::any().expect("a free port");
        let number = port.number();
        assert!(ReservedPort::exactly(number).is_none());
        assert_ne!(ReservedPort::from(number).expect("the next").number(), number);
        drop(port);
        assert_eq!(ReservedPort::exactly(number).expect("free again").number(), number);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_not_given() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let number = listener.local_addr().expect("address").port();
        assert!(ReservedPort::exactly(number).is_none());
    }
}
