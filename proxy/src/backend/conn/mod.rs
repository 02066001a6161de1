//! One connection to PostgreSQL.
//!
//! A conn knows what it owes, forwards what is shown and swallows the rest. Reading and writing never wait for one another, so
//! that a server which answers before it has read everything cannot deadlock with the proxy.

mod answers;

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use crate::backend::copy_trim::CopyTrim;
pub use crate::backend::events::Events;
use crate::backend::gucs::Gucs;
use crate::backend::oids::{OidCell, OidError, ShardOids};
use crate::backend::owed::{Owed, Show};
use crate::backend::prepared::OnConn;
use crate::backend::rewritten::Rewritten;
use crate::backend::traffic::Moved;
use crate::wire::backend::{Status, tag};
use crate::wire::frame::{self, FrameError};
use crate::wire::stream::{Stream, must_take};
use crate::wire::{buffers, frontend, reply};

/// A frame of the server's that is looked at whole may be this long; rows and COPY data are streamed and have no limit here.
const WHOLE_FRAME_BYTES: usize = 64 << 20;
/// First read buffer of a conn, bytes; grows to [`READ_MAX`] while reads fill it.
const READ_MIN: usize = 8 << 10;
/// Largest read buffer, bytes.
const READ_MAX: usize = 128 << 10;

/// Why a conn can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnError {
    /// The server closed it or the network failed.
    #[error("connection to the shard lost: {0}")]
    Io(#[from] std::io::Error),
    /// The server said something that nobody asked for.
    #[error("the shard violated the protocol: {0}")]
    Protocol(String),
    /// It described something that cannot be told to the application.
    #[error(transparent)]
    Oids(#[from] OidError),
    /// It went on in spite of a cancel request, or does not answer at all.
    #[error("the shard has not ended the statement within backend.cancel_wait after a cancel request")]
    Overdue,
    /// It ended the connection with this message (raw ErrorResponse frame).
    #[error("the shard ended the connection")]
    Fatal(Bytes),
}

impl From<FrameError> for ConnError {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error.to_string())
    }
}

/// A frame that is being passed on or swallowed piece by piece.
#[derive(Debug, Clone, Copy)]
struct Partial {
    left: usize,
    shown: bool,
}

/// A connection to one node as one user to one database.
pub struct Conn {
    stream: Stream,
    read: BytesMut,
    read_size: usize,
    /// Bytes to be sent.
    pub write: BytesMut,
    owed: VecDeque<Owed>,
    partial: Option<Partial>,
    patient: bool,
    /// Body of the ParameterDescription of the statement whose shape is being told.
    parameters_told: Bytes,
    /// Transaction status as of the last ReadyForQuery.
    pub status: Status,
    /// Settings replayed on it; `None`: not known.
    pub applied: Option<Arc<Gucs>>,
    /// Shared statements that it has.
    pub prepared: OnConn,
    /// ParameterStatus values.
    pub parameters: Vec<(String, String)>,
    /// The session for which it last ran something that may have drawn from a sequence; 0: none that asks.
    pub drew_for: u64,
    /// For cancel requests.
    pub process_id: i32,
    /// For cancel requests.
    pub secret: Bytes,
    /// When it is too old to be lent again.
    pub expires: Instant,
    /// When it was last given back.
    pub last_used: Instant,
    /// Set when the session left something on it that cannot be undone, or its state is unknown.
    pub spoiled: bool,
    /// A session keeps it for what it has left there.
    pub(super) bound: bool,
    /// How long it took to open, until somebody has counted it.
    pub opened_in: Option<std::time::Duration>,
    /// Bytes read and written that nobody has counted yet.
    pub moved: Moved,
    /// Rows are captured into [`Events::rows`] instead of being dropped when they are not shown.
    pub capture: bool,
    /// Rows are passed on whole, so that those of another conn may come between them; those that are longer than the largest read
    /// buffer are not ([`Conn::shows_part`]).
    pub whole_rows: bool,
    /// It runs a text of the proxy's own.
    pub rewritten: Option<Box<Rewritten>>,
    /// What is taken out of COPY data on its way to the application.
    pub copy_trim: Option<CopyTrim>,
    /// Translates OIDs of its shard; `None` on the home shard and where nothing is routed.
    pub oids: Option<OidCell>,
    /// In place of `oids` until the transaction ends, which has made types or tables.
    pub own_oids: Option<Box<ShardOids>>,
}

impl Conn {
    /// A conn over a stream that has just logged in.
    pub fn new(connected: crate::backend::connect::Connected, expires: Instant) -> Self {
        Self {
            stream: connected.stream,
            read: connected.leftover,
            read_size: READ_MIN,
            write: BytesMut::new(),
            owed: VecDeque::new(),
            partial: None,
            patient: false,
            parameters_told: Bytes::new(),
            status: Status::Idle,
            applied: Some(Gucs::none()),
            prepared: OnConn::default(),
            parameters: connected.parameters,
            drew_for: 0,
            process_id: connected.process_id,
            secret: connected.secret,
            expires,
            last_used: Instant::now(),
            spoiled: false,
            bound: false,
            opened_in: None,
            moved: Moved::default(),
            capture: false,
            whole_rows: false,
            rewritten: None,
            copy_trim: None,
            oids: None,
            own_oids: None,
        }
    }

    /// Adds a reply that the bytes just appended to [`Conn::write`] will bring.
    pub fn owe(&mut self, owed: Owed) {
        self.owed.push_back(owed);
    }

    /// Appends a Sync, whose reply is shown so.
    pub fn sync(&mut self, show: Show) {
        reply::bare(&mut self.write, frontend::tag::SYNC);
        self.owe(Owed::Sync(show));
    }

    /// Whether nothing is owed and nothing waits to be sent.
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty() && self.write.is_empty() && self.partial.is_none()
    }

    /// Whether the application has been given a part of a frame whose rest has not come.
    pub fn shows_part(&self) -> bool {
        self.partial.is_some_and(|partial| partial.shown)
    }

    /// Has nothing more shown than the rest of such a frame, and this part.
    pub fn hide_but(&mut self, part: Show) {
        self.owed.iter_mut().for_each(|owed| owed.hide_but(part));
    }

    /// Whether it may go back to the pool.
    pub fn is_clean(&self) -> bool {
        !self.spoiled && self.status == Status::Idle && self.is_quiet() && self.read.is_empty()
    }

    /// Replies owed.
    pub fn owed_len(&self) -> usize {
        self.owed.len()
    }

    /// From here on until it is given back the server may take what is sent as slowly as it likes: COPY data waits for locks.
    pub fn be_patient(&mut self) {
        if let (false, Some(socket)) = (self.patient, self.stream.tcp()) {
            // An option that cannot be changed costs at most this conn.
            self.patient = must_take(socket, false).is_ok();
        }
    }

    /// Gives its buffers back: an idle conn costs little.
    pub fn shrink(&mut self) {
        if let (true, Some(socket)) = (self.patient, self.stream.tcp()) {
            self.patient = must_take(socket, true).is_err();
        }
        buffers::give_back(&mut self.read);
        buffers::give_back(&mut self.write);
        self.read_size = READ_MIN;
        if self.owed.capacity() > 64 {
            self.owed = VecDeque::new();
        }
    }

    /// Whether the server has closed an idle conn, or said something on it (it is then not used again). Does not wait, and
    /// makes no system call unless the socket has news. A conn that is not dead has its buffers.
    pub fn is_dead(&mut self) -> bool {
        buffers::lend(&mut self.read);
        buffers::lend(&mut self.write);
        match self.stream.try_read_buf(&mut self.read) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Ok(0) | Err(_) => true,
            Ok(_) => !self.only_parameter_status(),
        }
    }

    /// Whether the node has closed the connection.
    pub fn is_ended(&self) -> bool {
        self.stream.is_ended()
    }

    /// An idle conn may report a changed parameter (a reload, a promotion) at any time; anything else is unexpected.
    fn only_parameter_status(&mut self) -> bool {
        let mut out = BytesMut::new();
        self.absorb(&mut out, &mut Events::default()).is_ok() && self.read.is_empty() && out.is_empty()
    }

    /// Sends what waits to be sent and reads what has come, once, without waiting longer than until one of the two
    /// made progress. Shown bytes are appended to `out`. Cancel-safe.
    pub async fn step(&mut self, out: &mut BytesMut, events: &mut Events) -> Result<(), ConnError> {
        poll_fn(|cx| self.poll_step(cx, out, events)).await
    }

    /// See [`Conn::step`].
    pub fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
        events: &mut Events,
    ) -> Poll<Result<(), ConnError>> {
        let before = self.moved.written;
        match self.poll_answer(cx, out, events) {
            Poll::Pending if self.moved.written > before => Poll::Ready(Ok(())),
            polled => polled,
        }
    }

    /// As [`Conn::poll_step`], for whoever has nothing more to send: that something was sent is no progress.
    pub fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        out: &mut BytesMut,
        events: &mut Events,
    ) -> Poll<Result<(), ConnError>> {
        while !self.write.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.write) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(closed())),
                Poll::Ready(Ok(n)) => {
                    self.moved.written += n as u64;
                    self.moved.calls += 1;
                    self.write.advance(n);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(self.last_words(out, events, error)),
                Poll::Pending => break,
            }
        }
        if self.stream.needs_flush()
            && let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_flush(cx)
        {
            return Poll::Ready(self.last_words(out, events, error));
        }
        self.read.reserve(self.read_size);
        let read = pin!(self.stream.read_buf(&mut self.read)).poll(cx);
        match read {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(closed())),
            Poll::Ready(Ok(n)) => {
                self.moved.read += n as u64;
                self.moved.calls += 1;
                if n >= self.read_size && self.read_size < READ_MAX {
                    self.read_size *= 2;
                }
                Poll::Ready(self.absorb(out, events))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    /// A server that ends the connection says why before it closes: a failed write is no reason not to read it.
    fn last_words(
        &mut self,
        out: &mut BytesMut,
        events: &mut Events,
        error: std::io::Error,
    ) -> Result<(), ConnError> {
        self.read.reserve(READ_MIN);
        if self.stream.try_read_buf(&mut self.read).is_ok_and(|n| n > 0) {
            self.absorb(out, events)?;
        }
        Err(error.into())
    }

    /// Works off the frames that have been read.
    fn absorb(&mut self, out: &mut BytesMut, events: &mut Events) -> Result<(), ConnError> {
        // `run` is the start of the bytes that are shown but not yet copied, `at` the next frame.
        let (mut run, mut at) = (0, 0);
        if let Some(partial) = self.partial {
            let now = partial.left.min(self.read.len());
            at = now;
            if !partial.shown {
                run = now;
            }
            self.partial = (partial.left > now).then_some(Partial { left: partial.left - now, ..partial });
        }
        while let Some(header) = frame::header(&self.read[at..], usize::MAX)? {
            let streamed = matches!(header.tag, tag::DATA_ROW | tag::COPY_DATA);
            let whole = self.read.len() - at >= header.len;
            let edited = header.tag == tag::COPY_DATA && self.copy_trim.is_some();
            let kept = self.whole_rows && header.len <= READ_MAX;
            if !whole && (!streamed || edited || kept || self.captures()) {
                if header.len > WHOLE_FRAME_BYTES {
                    return Err(ConnError::Protocol(format!(
                        "frame {:?} of {} bytes",
                        char::from(header.tag),
                        header.len
                    )));
                }
                break;
            }
            let end = (at + header.len).min(self.read.len());
            let shown = if streamed {
                self.row(header.tag, at..end, events)
            } else {
                self.reply(header.tag, at..end, events)
            };
            let shown = match shown {
                Ok(shown) => shown,
                Err(error) => {
                    // What came before the end is still the application's.
                    out.extend_from_slice(&self.read[run..at]);
                    return Err(error);
                }
            };
            if !whole {
                self.partial = Some(Partial { left: header.len - (end - at), shown });
            }
            if !shown || edited {
                out.extend_from_slice(&self.read[run..at]);
                run = end;
            }
            if shown && edited {
                self.trim(at..end, out);
            }
            at = end;
            if matches!(self.owed.front(), Some(Owed::Local(_))) && self.partial.is_none() {
                out.extend_from_slice(&self.read[run..at]);
                run = at;
                self.release_local(out, events);
            }
        }
        out.extend_from_slice(&self.read[run..at]);
        self.read.advance(at);
        Ok(())
    }

    /// Replies of the proxy's own whose turn has come.
    pub fn release_local(&mut self, out: &mut BytesMut, events: &mut Events) {
        while let Some(Owed::Local(bytes)) = self.owed.front() {
            events.note_local(bytes);
            out.extend_from_slice(bytes);
            self.owed.pop_front();
        }
    }

    /// After COPY data was fed to a portal: drops the debts of Syncs that the server ignored in that state. `None` for a COPY of
    /// the simple protocol, else whether there was one.
    pub fn forget_ignored_syncs(&mut self) -> Option<bool> {
        match self.owed.front() {
            Some(Owed::Execute(_)) => {
                let before = self.owed.len();
                self.owed.retain(|owed| !matches!(owed, Owed::Sync(_)));
                Some(self.owed.len() < before)
            }
            _ => None,
        }
    }

    /// Whether the rows that come now are kept.
    fn captures(&self) -> bool {
        self.capture && self.owed.front().is_some_and(|owed| !owed.show().has(Show::ROWS))
    }

    /// Whether a description is still to come that is to be compared.
    pub fn awaits_description(&self) -> bool {
        let compared = |owed: &Owed| owed.show().has(Show::COMPARED);
        self.owed.iter().any(compared)
    }

    /// The stream, for COPY data and for waiting.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

/// Enters a value in a list of ParameterStatus values; whether that changed anything.
pub fn set_parameter(values: &mut Vec<(String, String)>, name: &str, value: &str) -> bool {
    match values.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) if old == value => return false,
        Some((_, old)) => value.clone_into(old),
        None => values.push((name.to_owned(), value.to_owned())),
    }
    true
}

fn closed() -> ConnError {
    ConnError::Io(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed by the server"))
}

fn unexpected(tag: u8) -> ConnError {
    ConnError::Protocol(format!("unexpected frame {:?}", char::from(tag)))
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::backend::connect::Connected;

    #[tokio::test]
    async fn a_node_that_is_fed_copy_data_may_take_its_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        must_take(&socket, true).expect("an option of Linux");
        let connected = Connected {
            stream: Stream::Plain(socket),
            leftover: BytesMut::new(),
            parameters: Vec::new(),
            process_id: 1,
            secret: Bytes::new(),
        };
        let mut conn = Conn::new(connected, Instant::now());
        let limit = |conn: &mut Conn| {
            let socket = conn.stream().tcp().expect("TCP");
            SockRef::from(socket).tcp_user_timeout().expect("readable")
        };
        assert!(limit(&mut conn).is_some());
        conn.be_patient();
        assert_eq!(limit(&mut conn), None);
        conn.shrink();
        assert!(limit(&mut conn).is_some());
    }
}
