//! A stream with a read and a write buffer, for the conversations before a session: handshake, authentication, login to a
//! node. Off the hot path; the session proper takes the stream and the buffers apart again.
//!
//! Invariants: a frame is handed out whole and by itself, its length checked against a limit before anything is
//! reserved for it; dropping any of these futures loses nothing but the connection they are for.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::error::Report;
use super::startup::{FirstPacket, StartupError, take_first_packet};
use super::stream::Stream;

const READ_BYTES: usize = 1024;

/// A stream and what is buffered on both ways.
#[derive(Debug)]
pub struct Talk {
    /// The connection.
    pub stream: Stream,
    /// Read, not yet looked at.
    pub inbox: BytesMut,
    /// Written, not yet sent.
    pub outbox: BytesMut,
}

/// Why no frame came.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The peer closed the stream in an orderly way; `partial`: in the middle of a frame.
    #[error("the connection was closed{}", if *partial { " in the middle of a message" } else { "" })]
    Closed {
        /// Bytes of an unfinished frame were read.
        partial: bool,
    },
    /// A length that lies or is over the limit.
    #[error("invalid message length")]
    Length,
    /// The first packet is refused.
    #[error(transparent)]
    Startup(#[from] StartupError),
}

impl Talk {
    /// Nothing buffered yet.
    pub fn new(stream: Stream) -> Self {
        Self { stream, inbox: BytesMut::new(), outbox: BytesMut::new() }
    }

    /// The next frame: tag and body. Bodies above `body_bytes_max` are an error before they are read.
    pub async fn frame(&mut self, body_bytes_max: usize) -> Result<(u8, Bytes), TalkError> {
        loop {
            if let Some(frame) = take_frame(&mut self.inbox, body_bytes_max)? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The first packet of a connection.
    pub async fn first_packet(&mut self) -> Result<FirstPacket, TalkError> {
        loop {
            if let Some(packet) = take_first_packet(&mut self.inbox)? {
                return Ok(packet);
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Result<(), TalkError> {
        self.inbox.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.inbox).await? {
            0 => Err(TalkError::Closed { partial: !self.inbox.is_empty() }),
            _ => Ok(()),
        }
    }

    /// Appends a frame to what is to be sent.
    pub fn put(&mut self, tag: u8, body: &[&[u8]]) {
        let length: usize = body.iter().map(|part| part.len()).sum();
        self.outbox.put_u8(tag);
        self.outbox.put_u32(u32::try_from(length + 4).unwrap_or(u32::MAX));
        for part in body {
            self.outbox.put_slice(part);
        }
    }

    /// Sends what is buffered.
    pub async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.outbox).await?;
        self.stream.flush().await
    }

    /// Sends a last error and closes; what goes wrong meanwhile does not matter any more.
    pub async fn close_with(mut self, report: Report<'_>) {
        report.write(&mut self.outbox);
        if self.send().await.is_err() || self.stream.shutdown().await.is_err() {
            return;
        }
        // Unread bytes would turn the close into a reset, which may overtake the error.
        let mut unread = BytesMut::with_capacity(4096);
        for _ in 0..16 {
            unread.clear();
            if !matches!(self.stream.try_read_buf(&mut unread), Ok(1..)) {
                return;
            }
        }
    }
}

/// Takes a frame off `buffer`: tag and body; `None`: more bytes are needed.
pub fn take_frame(buffer: &mut BytesMut, body_bytes_max: usize) -> Result<Option<(u8, Bytes)>, TalkError> {
    let Some([tag, length @ ..]) = buffer.first_chunk::<5>().copied() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(length) as usize;
    if !(4..=body_bytes_max + 4).contains(&length) {
        return Err(TalkError::Length);
    }
    if buffer.len() < 1 + length {
        return Ok(None);
    }
    let mut frame = buffer.split_to(1 + length).freeze();
    Ok(Some((tag, frame.split_off(5))))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::frame;

    #[test]
    fn lengths_are_checked_before_anything_is_reserved() {
        for length in [0_u32, 1, 3, 15, 0x7fff_ffff, u32::MAX] {
            let mut buffer = BytesMut::from(&[&b"p"[..], &length.to_be_bytes()].concat()[..]);
            assert!(matches!(take_frame(&mut buffer, 10), Err(TalkError::Length)), "{length}");
        }
        let mut empty = frame(b'S', b"");
        assert!(matches!(take_frame(&mut empty, 0), Ok(Some((b'S', body))) if body.is_empty()));
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..6), chunk in 1_usize..9) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(b'd', body)).collect();
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for part in bytes.chunks(chunk) {
                buffer.extend_from_slice(part);
                while let Some((tag, body)) = take_frame(&mut buffer, 20).expect("good frames") {
                    prop_assert_eq!(tag, b'd');
                    read.push(body.to_vec());
                }
            }
            prop_assert_eq!(read, bodies);
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some((_, body))) = take_frame(&mut buffer, 30) {
                let _ = crate::wire::error::NodeError::parse(body);
            }
        }
    }
}
