//! Listening sockets: one set per session thread, all on the same port (SO_REUSEPORT), which also lets a new process take
//! over before the old one has drained.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::wire::stream::tune;

/// The addresses that a `host:port` stands for.
pub fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("listen.address = \"{address}\": {error}"));
    let found: Vec<SocketAddr> = address.to_socket_addrs().map_err(named)?.collect();
    if found.is_empty() {
        return Err(named(io::Error::new(io::ErrorKind::NotFound, "no address")));
    }
    Ok(found)
}

/// Listens on each address.
pub fn bind(addresses: &[SocketAddr], backlog: u32) -> io::Result<Vec<TcpListener>> {
    addresses.iter().map(|address| bind_one(*address, backlog)).collect()
}

fn bind_one(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(named)?;
    socket.set_reuse_address(true).map_err(named)?;
    socket.set_reuse_port(true).map_err(named)?;
    if address.is_ipv6() {
        socket.set_only_v6(true).map_err(named)?;
    }
    socket.set_nonblocking(true).map_err(named)?;
    socket.bind(&address.into()).map_err(named)?;
    tune(&SockRef::from(&socket)).map_err(named)?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).map_err(named)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accepted_connection_has_the_options_of_its_listener() {
        let listener = bind_one(SocketAddr::from(([127, 0, 0, 1], 0)), 8).expect("a port");
        listener.set_nonblocking(false).expect("an option of sockets");
        let _client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (accepted, _) = listener.accept().expect("a connection");
        let options = SockRef::from(&accepted);
        assert!(options.tcp_nodelay().expect("readable"));
        assert!(options.keepalive().expect("readable"));
        assert_eq!(options.tcp_keepalive_retries().expect("readable"), 3);
    }
}
