//! One connection to PostgreSQL.
//!
//! A conn knows what it owes, forwards what is shown and swallows the rest. Reading and writing never wait for one another, so
//! that a server which answers before it has read everything cannot deadlock with the proxy.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::time::Instant;

use super::copy_trim::CopyTrim;
pub use super::events::Events;
use super::gucs::Gucs;
use super::owed::{Owed, Show};
use super::prepared::OnConn;
use super::traffic::Moved;
use crate::wire::backend::{self, Status, tag};
use crate::wire::frame::{self, FrameError, HEADER};
use crate::wire::reply;
use crate::wire::stream::Stream;

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
    /// Transaction status as of the last ReadyForQuery.
    pub status: Status,
    /// Settings replayed on it; `None`: not known.
    pub applied: Option<Arc<Gucs>>,
    /// Shared statements that it has.
    pub prepared: OnConn,
    /// ParameterStatus values.
    pub parameters: Vec<(String, String)>,
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
    /// How long it took to open, until somebody has counted it.
    pub opened_in: Option<std::time::Duration>,
    /// Bytes read and written that nobody has counted yet.
    pub moved: Moved,
    /// Rows are captured into [`Events::rows`] instead of being dropped when they are not shown.
    pub capture: bool,
    /// What is taken out of COPY data on its way to the application.
    pub copy_trim: Option<CopyTrim>,
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
            status: Status::Idle,
            applied: Some(Gucs::none()),
            prepared: OnConn::default(),
            parameters: connected.parameters,
            process_id: connected.process_id,
            secret: connected.secret,
            expires,
            last_used: Instant::now(),
            spoiled: false,
            opened_in: None,
            moved: Moved::default(),
            capture: false,
            copy_trim: None,
        }
    }

    /// Adds a reply that the bytes just appended to [`Conn::write`] will bring.
    pub fn owe(&mut self, owed: Owed) {
        self.owed.push_back(owed);
    }

    /// Whether nothing is owed and nothing waits to be sent.
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty() && self.write.is_empty() && self.partial.is_none()
    }

    /// Whether it may go back to the pool.
    pub fn is_clean(&self) -> bool {
        !self.spoiled && self.status == Status::Idle && self.is_quiet() && self.read.is_empty()
    }

    /// Replies owed.
    pub fn owed_len(&self) -> usize {
        self.owed.len()
    }

    /// Gives its buffers back: an idle conn costs little.
    pub fn shrink(&mut self) {
        self.read = BytesMut::new();
        self.write = BytesMut::new();
        self.read_size = READ_MIN;
        if self.owed.capacity() > 64 {
            self.owed = VecDeque::new();
        }
    }

    /// Whether the server has closed an idle conn, or said something on it (it is then not used again). Does not wait, and
    /// makes no system call unless the socket has news.
    pub fn is_dead(&mut self) -> bool {
        match self.stream.try_read_buf(&mut self.read) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
            Ok(0) | Err(_) => true,
            Ok(_) => !self.only_parameter_status(),
        }
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
        let mut progress = false;
        while !self.write.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.write) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(closed())),
                Poll::Ready(Ok(n)) => {
                    self.moved.written += n as u64;
                    self.write.advance(n);
                    progress = true;
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
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(closed())),
            Poll::Ready(Ok(n)) => {
                self.moved.read += n as u64;
                if n >= self.read_size && self.read_size < READ_MAX {
                    self.read_size *= 2;
                }
                self.absorb(out, events)?;
                progress = true;
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
            Poll::Pending => {}
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
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
            if !whole && (!streamed || edited || self.captures()) {
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

    /// A DataRow or CopyData: shown or not?
    fn row(&self, tag: u8, at: std::ops::Range<usize>, events: &mut Events) -> Result<bool, ConnError> {
        match self.owed.front() {
            Some(Owed::Execute(show) | Owed::Query(show)) => {
                let shown = show.has(Show::ROWS);
                if !shown && self.captures() {
                    events.rows.push(Bytes::copy_from_slice(&self.read[at.start + HEADER..at.end]));
                }
                Ok(shown)
            }
            _ => Err(unexpected(tag)),
        }
    }

    /// Passes on what is left of a CopyData frame.
    fn trim(&mut self, at: std::ops::Range<usize>, out: &mut BytesMut) {
        let Some(trim) = &mut self.copy_trim else { return };
        let left = trim.keep(&self.read[at.start + HEADER..at.end]);
        if !left.is_empty() {
            reply::frame(out, tag::COPY_DATA, |b| b.extend_from_slice(left));
        }
    }

    /// Any other frame, whole: moves the queue, says whether it is shown.
    fn reply(&mut self, tag: u8, at: std::ops::Range<usize>, events: &mut Events) -> Result<bool, ConnError> {
        match tag {
            tag::NOTICE | tag::NOTIFICATION | tag::PARAMETER_STATUS | tag::ERROR => {
                self.unasked(tag, at, events)
            }
            tag::READY => self.ready(at),
            _ => self.answer(tag, at, events),
        }
    }

    /// Frames that may come at any time.
    fn unasked(
        &mut self,
        tag: u8,
        at: std::ops::Range<usize>,
        events: &mut Events,
    ) -> Result<bool, ConnError> {
        // Notifications are the application's whatever the proxy is doing on the conn.
        let shown =
            tag == tag::NOTIFICATION || self.owed.front().is_none_or(|owed| owed.show().has(Show::ERRORS));
        let body = &self.read[at.start + HEADER..at.end];
        match tag {
            tag::PARAMETER_STATUS => {
                if let Some((name, value)) = backend::parameter_status(body) {
                    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                    let (name, value) = (text(name), text(value));
                    set_parameter(&mut self.parameters, &name, &value);
                    events.parameters.push((name, value));
                }
                return Ok(false);
            }
            tag::ERROR => {
                let frame = Bytes::copy_from_slice(&self.read[at]);
                let severity = backend::error_field(&frame[HEADER..], b'V');
                if matches!(severity, Some(b"FATAL" | b"PANIC")) {
                    return Err(ConnError::Fatal(frame));
                }
                self.skip_to_ready();
                if events.error.is_none() {
                    events.error = Some(frame);
                }
            }
            _ => {}
        }
        Ok(shown)
    }

    /// After an error the server skips to Sync (or ends the Query): so do the debts.
    fn skip_to_ready(&mut self) {
        while let Some(front) = self.owed.front() {
            if front.ends_ready() {
                break;
            }
            if let Some(Owed::Parse { statement: Some(id), .. }) = self.owed.pop_front() {
                self.prepared.forget(id);
            }
        }
    }

    /// ReadyForQuery.
    fn ready(&mut self, at: std::ops::Range<usize>) -> Result<bool, ConnError> {
        let status = Status::read(&self.read[at.start + HEADER..at.end]);
        match (self.owed.front(), status) {
            (Some(owed), Some(status)) if owed.ends_ready() => {
                let shown = owed.show().has(Show::READY);
                self.status = status;
                self.owed.pop_front();
                Ok(shown)
            }
            _ => Err(unexpected(tag::READY)),
        }
    }

    /// The frames that answer the entry at the head.
    fn answer(
        &mut self,
        tag: u8,
        at: std::ops::Range<usize>,
        events: &mut Events,
    ) -> Result<bool, ConnError> {
        let Some(head) = self.owed.front() else { return Err(unexpected(tag)) };
        let show = head.show();
        let (part, done) = match (tag, head) {
            (tag::PARSE_COMPLETE, Owed::Parse { .. }) => {
                events.parsed += u32::from(show.has(Show::COMPLETE));
                (Show::COMPLETE, true)
            }
            (tag::BIND_COMPLETE, Owed::Bind(_)) | (tag::CLOSE_COMPLETE, Owed::Close(_)) => {
                (Show::COMPLETE, true)
            }
            (tag::ROW_DESCRIPTION | tag::NO_DATA, Owed::Describe(_)) => (Show::DESCRIPTION, true),
            (tag::PARAMETER_DESCRIPTION, Owed::Describe(_)) | (tag::ROW_DESCRIPTION, Owed::Query(_)) => {
                (Show::DESCRIPTION, false)
            }
            (
                tag::COMMAND_COMPLETE | tag::EMPTY_QUERY | tag::PORTAL_SUSPENDED,
                Owed::Execute(_) | Owed::Query(_),
            ) => {
                let body = &self.read[at.start + HEADER..at.end];
                events.note_completion(tag, body, show);
                (Show::COMPLETE, matches!(head, Owed::Execute(_)))
            }
            (tag::COPY_IN, Owed::Execute(_) | Owed::Query(_)) => {
                events.copy_in = true;
                (Show::DESCRIPTION, false)
            }
            (tag::COPY_OUT, Owed::Execute(_) | Owed::Query(_)) => (Show::DESCRIPTION, false),
            (tag::COPY_DONE, Owed::Execute(_) | Owed::Query(_)) => (Show::COPY_DONE, false),
            (tag::FUNCTION_RESULT, Owed::Function) => (Show::ROWS, false),
            _ => return Err(unexpected(tag)),
        };
        let shown = show.has(part);
        if !shown && part == Show::DESCRIPTION {
            events.descriptions.push(Bytes::copy_from_slice(&self.read[at]));
        }
        if done {
            self.owed.pop_front();
        }
        Ok(shown)
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
