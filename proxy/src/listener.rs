//! Listening sockets: one set per session thread, all on the same port (SO_REUSEPORT), which also lets a new process take
//! over before the old one has drained.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};

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
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX)).map_err(named)?;
    Ok(socket.into())
}
