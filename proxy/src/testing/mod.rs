//! For tests: a real PostgreSQL with a role for each authentication method, certificates, scripted peers.

pub(crate) mod certificates;
pub(crate) mod postgres;

use bytes::{BufMut as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wire::error::fields;

/// A pair of connected sockets: ours, theirs.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
    let address = listener.local_addr().expect("a bound socket has an address");
    let (theirs, ours) = tokio::join!(TcpStream::connect(address), listener.accept());
    (ours.expect("accepted").0, theirs.expect("connected"))
}

/// A startup packet.
pub(crate) fn startup_packet(version: u32, parameters: &[(&str, &str)]) -> BytesMut {
    let mut packet = BytesMut::new();
    crate::wire::startup::write_startup(parameters.iter().copied(), &mut packet);
    packet[4..8].copy_from_slice(&version.to_be_bytes());
    packet
}

/// A frame.
pub(crate) fn frame(tag: u8, body: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_u8(tag);
    frame.put_u32(u32::try_from(body.len() + 4).expect("short"));
    frame.put_slice(body);
    frame
}

/// All that comes until the peer closes.
pub(crate) async fn rest(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = socket.read_to_end(&mut bytes).await;
    bytes
}

/// Writes; a peer that has closed already is no failure here.
pub(crate) async fn write(socket: &mut TcpStream, bytes: &[u8]) {
    let _ = socket.write_all(bytes).await;
}

/// SQLSTATE and message of the first ErrorResponse in `bytes`, which begin with it.
pub(crate) fn error_of(bytes: &[u8]) -> (String, String) {
    assert_eq!(bytes.first(), Some(&b'E'), "{}", bytes.escape_ascii());
    let field = |wanted: u8| {
        let found = fields(&bytes[5..]).find(|(tag, _)| *tag == wanted);
        String::from_utf8_lossy(found.map(|(_, text)| text).unwrap_or_default()).into_owned()
    };
    (field(b'C'), field(b'M'))
}
