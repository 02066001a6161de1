//! The byte streams under both sides: plain TCP, Unix sockets, TLS.
//!
//! Invariants: an idle plain stream owns no buffer (TLS states are boxed); `try_read_buf` reports `WouldBlock` only after
//! the transport had nothing more, so that `readable` may then wait for the socket; what TLS has accepted may still be
//! in its own buffer, so that every burst of writes ends with `flush` (free on plain streams).

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// An idle connection is probed after this time; three lost probes end it.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// Bytes sent to a node that it does not take for this long end the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to an application or to a node.
#[derive(Debug)]
pub enum Stream {
    /// TCP, plain.
    Plain(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS, our side is the server (an application).
    ServerTls(Box<server::TlsStream<TcpStream>>),
    /// TLS, our side is the client (a node).
    ClientTls(Box<client::TlsStream<TcpStream>>),
}

macro_rules! each {
    ($stream:expr, $inner:ident => $body:expr) => {
        match $stream {
            Stream::Plain($inner) => $body,
            Stream::Unix($inner) => $body,
            Stream::ServerTls($inner) => $body,
            Stream::ClientTls($inner) => $body,
        }
    };
}

impl Stream {
    /// Whether the bytes are encrypted on the way.
    pub fn is_tls(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Unix(_) => false,
            Self::ServerTls(_) | Self::ClientTls(_) => true,
        }
    }

    /// The TCP socket below, for its options and addresses; `None` for Unix sockets.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Unix(_) => None,
            Self::ServerTls(tls) => Some(tls.get_ref().0),
            Self::ClientTls(tls) => Some(tls.get_ref().0),
        }
    }

    /// Reads what is there into the spare capacity of `buffer` (64 bytes are reserved if there is none); `WouldBlock` if
    /// nothing is, 0 at the end of the stream.
    pub fn try_read_buf(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        if buffer.capacity() == buffer.len() {
            buffer.reserve(64);
        }
        match self {
            Self::Plain(socket) => socket.try_read_buf(buffer),
            Self::Unix(socket) => socket.try_read_buf(buffer),
            Self::ServerTls(_) | Self::ClientTls(_) => {
                poll_once(tokio::io::AsyncReadExt::read_buf(self, buffer))
            }
        }
    }

    /// Waits until `try_read_buf` may have something. Cancel safe.
    pub async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_readable(cx)).await
    }

    /// See [`Self::readable`]. One task reads a stream: its own place for a waker costs less than a place in the list of
    /// those who wait.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Unix(socket) => socket.poll_read_ready(cx),
            Self::ServerTls(tls) => {
                let (socket, state) = tls.get_mut();
                if state.process_new_packets().map_or(true, |io| io.plaintext_bytes_to_read() > 0) {
                    return Poll::Ready(Ok(()));
                }
                socket.poll_read_ready(cx)
            }
            Self::ClientTls(tls) => {
                let (socket, state) = tls.get_mut();
                if state.process_new_packets().map_or(true, |io| io.plaintext_bytes_to_read() > 0) {
                    return Poll::Ready(Ok(()));
                }
                socket.poll_read_ready(cx)
            }
        }
    }

    /// Whether the other side has closed the connection, as far as the socket has news of it; what it said before may still be
    /// unread. Does not wait.
    pub fn is_ended(&self) -> bool {
        let ready = match self {
            Self::Plain(socket) => socket.ready(Interest::READABLE).now_or_never(),
            Self::Unix(socket) => socket.ready(Interest::READABLE).now_or_never(),
            Self::ServerTls(tls) => tls.get_ref().0.ready(Interest::READABLE).now_or_never(),
            Self::ClientTls(tls) => tls.get_ref().0.ready(Interest::READABLE).now_or_never(),
        };
        ready.is_some_and(|ready| ready.map_or(true, |ready| ready.is_read_closed()))
    }

    /// Waits until `try_write_vectored` may take something. Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.writable().await,
            Self::Unix(socket) => socket.writable().await,
            Self::ServerTls(tls) => tls.get_ref().0.writable().await,
            Self::ClientTls(tls) => tls.get_ref().0.writable().await,
        }
    }

    /// Writes what fits without waiting; `WouldBlock` if nothing does. See [`Stream::needs_flush`].
    pub fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write_vectored(slices),
            Self::Unix(socket) => socket.try_write_vectored(slices),
            Self::ServerTls(_) | Self::ClientTls(_) => {
                poll_once(poll_fn(|context| Pin::new(&mut *self).poll_write_vectored(context, slices)))
            }
        }
    }

    /// Writes what fits without waiting, from one slice.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
            Self::ServerTls(_) | Self::ClientTls(_) => self.try_write_vectored(&[IoSlice::new(bytes)]),
        }
    }

    /// Whether accepted bytes are still on our side (TLS only): `try_flush`, or `flush` of `AsyncWriteExt`.
    pub fn needs_flush(&self) -> bool {
        match self {
            Self::Plain(_) | Self::Unix(_) => false,
            Self::ServerTls(tls) => tls.get_ref().1.wants_write(),
            Self::ClientTls(tls) => tls.get_ref().1.wants_write(),
        }
    }

    /// Hands accepted bytes to the socket without waiting; `WouldBlock` if some are left.
    pub fn try_flush(&mut self) -> io::Result<()> {
        if !self.needs_flush() {
            return Ok(());
        }
        poll_once(poll_fn(|context| Pin::new(&mut *self).poll_flush(context)))
    }

    /// The certificate that the peer showed, DER.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        let chain = match self {
            Self::Plain(_) | Self::Unix(_) => None,
            Self::ServerTls(tls) => tls.get_ref().1.peer_certificates(),
            Self::ClientTls(tls) => tls.get_ref().1.peer_certificates(),
        };
        chain.and_then(<[_]>::first).map(AsRef::as_ref)
    }
}

/// Sets what every TCP connection of the proxy has: no delay, and an end to idle peers that have vanished. Set on a listener,
/// its connections have it from the start.
pub fn tune(options: &SockRef<'_>) -> io::Result<()> {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    options.set_tcp_nodelay(true)?;
    options.set_tcp_keepalive(&keepalive)?;
    Ok(())
}

/// Whether the connection ends when the peer does not take what was sent: a node that has vanished is not waited for. The
/// kernel makes no difference to a peer that is alive and does not read: an application in the middle of a large result,
/// a server in the middle of COPY data may pause for as long as they like.
pub fn must_take(socket: &TcpStream, must: bool) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    SockRef::from(socket).set_tcp_user_timeout(must.then_some(USER_TIMEOUT))?;
    Ok(())
}

/// One attempt; `WouldBlock` if it is not done. Outside of tokio's budget: an exhausted budget would look like a socket
/// that is not ready, `readable` would say that it is, and the two would take turns for ever.
fn poll_once<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let attempt = std::pin::pin!(tokio::task::coop::unconstrained(attempt));
    match attempt.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        each!(self, inner => inner.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), inner => Pin::new(inner).poll_shutdown(cx))
    }
}
