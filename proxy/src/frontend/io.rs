//! The application's side of a session: bytes in, bytes out, nothing held while idle.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::visible::Visible;
use crate::backend::conn::{Conn, ConnError, Events};
use crate::backend::traffic::Moved;
use crate::wire::buffers;
use crate::wire::frame::{self, FrameError, HEADER, Header};
use crate::wire::frontend::tag;
use crate::wire::stream::Stream;

/// Bytes read at a time while a session is quiet.
const READ_BYTES: usize = 4 << 10;
/// Bytes read ahead of the request being worked on; beyond them the application waits.
const READ_AHEAD_BYTES: usize = 64 << 10;
/// Output that waits before the shard is made to wait for the application.
pub const OUT_HIGH_BYTES: usize = 64 << 10;

/// Longest CopyData, bytes: PostgreSQL's `PQ_LARGE_MESSAGE_LIMIT`, and the tag.
const COPY_DATA_MAX: usize = (1 << 30) - 1;
/// Data of a COPY that is taken before the whole of its frame has come.
const COPY_PIECE_BYTES: usize = 32 << 10;

/// A whole Terminate message.
const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// Why a session ends.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It hung up, or the network failed.
    #[error("the application is gone: {0}")]
    Gone(#[from] io::Error),
    /// It does not speak the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The process ends, and waits for nothing any more.
    #[error("the process ends")]
    Cut,
}

/// An application's stream with its buffers.
pub struct ClientIo {
    /// The stream.
    pub stream: Stream,
    /// Bytes read and not yet worked off.
    pub read: BytesMut,
    /// Bytes to be written.
    pub out: BytesMut,
    /// The application has closed its side.
    pub eof: bool,
    /// Longest frame accepted, bytes.
    pub max_frame: usize,
    /// Bytes at the front of `read` that are the request under way: it is passed on where it stands.
    pub current: usize,
    /// Bytes read and written that nobody has counted yet.
    pub moved: Moved,
    /// What others see of its session.
    pub visible: Arc<Visible>,
    /// Not zero: nothing is written meanwhile, since what comes is the proxy's own; so many KiB of it at most, in `out`.
    kept_back_kib: u32,
    /// There was more than that.
    too_much: bool,
}

impl ClientIo {
    /// Over a stream that has logged in; `leftover` was read behind the login.
    pub fn new(stream: Stream, leftover: BytesMut, max_frame: usize) -> Self {
        Self {
            stream,
            read: leftover,
            out: BytesMut::new(),
            eof: false,
            max_frame,
            current: 0,
            moved: Moved::default(),
            visible: Arc::default(),
            kept_back_kib: 0,
            too_much: false,
        }
    }

    /// Header of the frame at `at` bytes into what has been read. Data of a COPY has PostgreSQL's own limit: see [`Self::cut_copy_data`].
    pub fn header(&self, at: usize) -> Result<Option<Header>, FrameError> {
        let rest = self.read.get(at..).unwrap_or_default();
        let limit = if rest.first() == Some(&tag::COPY_DATA) { COPY_DATA_MAX } else { self.max_frame };
        frame::header(rest, limit)
    }

    /// Makes two frames of a long CopyData at the front that has not come as a whole: what is there, and the rest. Where one ends and
    /// the next begins says nothing about the data.
    pub fn cut_copy_data(&mut self) -> Result<(), FrameError> {
        if self.read.first() != Some(&tag::COPY_DATA) || self.read.len() < HEADER + COPY_PIECE_BYTES {
            return Ok(());
        }
        if let Some(header) = self.header(0)?.filter(|header| self.read.len() < header.len) {
            let rest = header.len - self.read.len();
            frame::set_length(&mut self.read, 0);
            self.read.put_u8(tag::COPY_DATA);
            self.read.put_u32((rest + 4) as u32);
        }
        Ok(())
    }

    /// Header of the frame at the front while data of a COPY is awaited; `None` until there is a whole one.
    pub fn whole_copy_frame(&mut self) -> Result<Option<Header>, FrameError> {
        self.cut_copy_data()?;
        Ok(self.header(0)?.filter(|header| self.read.len() >= header.len))
    }

    /// Reads more. Cancel-safe. An application that closes its side ends the session.
    pub async fn fill(&mut self, room: usize) -> Result<(), ClientError> {
        self.lend_buffers();
        self.read.reserve(room.max(READ_BYTES));
        let n = if self.eof { 0 } else { self.stream.read_buf(&mut self.read).await? };
        if n == 0 {
            self.eof = true;
            return Err(gone());
        }
        self.moved.read += n as u64;
        self.moved.calls += 1;
        Ok(())
    }

    /// The text of a Query that stands in `read`.
    pub fn current_text(&self) -> &[u8] {
        self.read.get(HEADER..self.current.saturating_sub(1)).unwrap_or_default()
    }

    /// The frames of the request, which stand in `read`.
    pub fn current_frames(&self) -> &[u8] {
        self.read.get(..self.current).unwrap_or_default()
    }

    /// The request under way, to be kept.
    pub fn take_current(&mut self) -> Bytes {
        self.read.split_to(std::mem::take(&mut self.current)).freeze()
    }

    /// The request under way is over, if it stands in `read`.
    pub fn drop_current(&mut self) {
        self.read.advance(std::mem::take(&mut self.current));
    }

    /// Gives back the buffers in which nothing waits: an idle session owns none.
    pub fn rest(&mut self) {
        if self.read.is_empty() {
            buffers::give_back(&mut self.read);
        }
        if self.out.is_empty() {
            buffers::give_back(&mut self.out);
        }
    }

    fn lend_buffers(&mut self) {
        buffers::lend(&mut self.read);
        buffers::lend(&mut self.out);
    }

    /// Waits for the next request without holding a buffer. Cancel-safe.
    pub async fn wait(&mut self) -> Result<(), ClientError> {
        poll_fn(|cx| self.poll_wait(cx)).await
    }

    /// See [`Self::wait`].
    pub fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        if !self.read.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.rest();
        self.stream.poll_readable(cx).map_err(ClientError::Gone)
    }

    /// From now on what comes is the proxy's own, up to so many bytes in `out`, or (`None`) the application's again. Whether there was
    /// no more than that; otherwise what there was is incomplete.
    pub fn keep_back(&mut self, limit: Option<usize>) -> bool {
        self.kept_back_kib =
            limit.map_or(0, |limit| u32::try_from(limit.div_ceil(1024)).unwrap_or(u32::MAX).max(1));
        !std::mem::take(&mut self.too_much)
    }

    /// Writes everything that waits.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        if self.kept_back_kib > 0 {
            let limit = self.kept_back_kib as usize * 1024;
            if self.out.len() > limit {
                self.too_much = true;
                self.out.truncate(limit);
            }
            return Ok(());
        }
        if self.out.is_empty() && !self.stream.needs_flush() {
            return Ok(());
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(gone())),
                Poll::Ready(Ok(n)) => {
                    self.moved.written += n as u64;
                    self.moved.calls += 1;
                    self.out.advance(n);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.stream.needs_flush() {
            return Pin::new(&mut self.stream).poll_flush(cx).map_err(ClientError::Gone);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends what waits and takes a piece of the answer, watching at the same time whether the application hangs up. Cancel-safe.
    pub async fn step(&mut self, conn: &mut Conn, events: &mut Events) -> Result<(), StepError> {
        poll_fn(|cx| {
            let polled = match conn.owed_len() {
                0 => conn.poll_step(cx, &mut self.out, events),
                _ => conn.poll_answer(cx, &mut self.out, events),
            };
            if let Poll::Ready(done) = polled {
                return Poll::Ready(done.map_err(StepError::Backend));
            }
            self.poll_hangup(cx)
        })
        .await
    }

    /// Reads ahead while a shard works; ready only when the application is gone, or has cancelled what goes on all the same.
    pub fn poll_hangup(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StepError>> {
        if self.visible.poll_given_up(cx) {
            return Poll::Ready(Err(StepError::Backend(ConnError::Overdue)));
        }
        while !self.eof && self.read.len() < READ_AHEAD_BYTES {
            if let Stream::Plain(socket) = &self.stream
                && socket.poll_read_ready(cx).is_pending()
            {
                return Poll::Pending;
            }
            self.lend_buffers();
            self.read.reserve(READ_BYTES);
            match pin!(self.stream.read_buf(&mut self.read)).poll(cx) {
                Poll::Ready(Ok(0)) => self.eof = true,
                Poll::Ready(Ok(n)) => {
                    self.moved.read += n as u64;
                    self.moved.calls += 1;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(StepError::Client(error.into()))),
                Poll::Pending => return Poll::Pending,
            }
        }
        // An application may send its last request and close its side: only a hang-up with nothing left to do ends it.
        let rest = &self.read[self.current.min(self.read.len())..];
        if self.eof && (rest.is_empty() || *rest == TERMINATE) {
            return Poll::Ready(Err(StepError::Client(gone())));
        }
        Poll::Pending
    }
}

/// Whose fault it is that a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The application's.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The shard's.
    #[error(transparent)]
    Backend(#[from] ConnError),
}

fn gone() -> ClientError {
    ClientError::Gone(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the application"))
}
