//! Frame boundaries.
//!
//! Invariant: nothing is read from a body before the frame's length has been checked, and never beyond it.

use super::sqlstate;

/// Bytes before the body: tag and length.
pub const HEADER: usize = 5;

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length field is smaller than itself.
    #[error("frame of type {tag:?} claims a length of {length}, less than the 4 bytes of the length itself")]
    Length {
        /// Tag byte.
        tag: char,
        /// What the length field says.
        length: i64,
    },
    /// Above the cap.
    #[error(
        "message of type {tag:?} of {length} bytes is above the limit of {limit} bytes{}",
        if *tag == 'd' { "" } else { " (limits.message_bytes)" }
    )]
    TooLong {
        /// Tag byte.
        tag: char,
        /// What the length field says.
        length: i64,
        /// The cap in force.
        limit: usize,
    },
    /// A type that no frontend frame has.
    #[error("invalid frontend message type {tag}")]
    Type {
        /// Tag byte.
        tag: u8,
    },
    /// A body that is not what its tag promises.
    #[error("{problem}")]
    Body {
        /// PostgreSQL's words.
        problem: &'static str,
    },
    /// A frame that has no place in COPY data.
    #[error("terminating connection because protocol synchronization was lost")]
    InCopy {
        /// Tag byte.
        tag: u8,
    },
    /// Describe or Close of neither a statement nor a portal.
    #[error("invalid {} message subtype {kind}", if *.close { "CLOSE" } else { "DESCRIBE" })]
    Kind {
        /// Close.
        close: bool,
        /// What was given.
        kind: u8,
    },
}

impl FrameError {
    /// What the application is told with the message.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => sqlstate::PROGRAM_LIMIT_EXCEEDED,
            Self::Length { .. }
            | Self::Type { .. }
            | Self::Body { .. }
            | Self::InCopy { .. }
            | Self::Kind { .. } => sqlstate::PROTOCOL_VIOLATION,
        }
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Type.
    pub tag: u8,
    /// Bytes of the whole frame, tag included.
    pub len: usize,
}

/// Reads the header at the start of `buf`; `None` until five bytes are there.
pub fn header(buf: &[u8], limit: usize) -> Result<Option<Header>, FrameError> {
    let Some((&[tag, a, b, c, d], _)) = buf.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    if length < 4 {
        return Err(FrameError::Length { tag: char::from(tag), length: i64::from(length) });
    }
    let len = length as usize + 1;
    if len > limit {
        return Err(FrameError::TooLong { tag: char::from(tag), length: i64::from(length), limit });
    }
    Ok(Some(Header { tag, len }))
}

/// Makes one frame of everything from the tag at `start` on.
pub fn set_length(buf: &mut [u8], start: usize) {
    let length = (buf.len() - start - 1) as u32;
    buf[start + 1..start + HEADER].copy_from_slice(&length.to_be_bytes());
}

/// Reads a NUL-terminated string off the front of `body`.
pub fn cstr<'a>(body: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = body.iter().position(|&b| b == 0)?;
    let text = &body[..end];
    *body = &body[end + 1..];
    Some(text)
}

/// Reads a big-endian `i16` off the front of `body`.
pub fn i16(body: &mut &[u8]) -> Option<i16> {
    let (head, rest) = body.split_first_chunk::<2>()?;
    *body = rest;
    Some(i16::from_be_bytes(*head))
}

/// Reads a big-endian `i32` off the front of `body`.
pub fn i32(body: &mut &[u8]) -> Option<i32> {
    let (head, rest) = body.split_first_chunk::<4>()?;
    *body = rest;
    Some(i32::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_needs_five_bytes_and_an_honest_length() {
        assert_eq!(header(b"Q\0\0\0", 100), Ok(None));
        assert_eq!(header(b"Q\0\0\0\x05\0", 100), Ok(Some(Header { tag: b'Q', len: 6 })));
        assert!(matches!(header(b"Q\0\0\0\x03", 100), Err(FrameError::Length { length: 3, .. })));
        assert!(matches!(header(b"Q\xff\xff\xff\xff", 100), Err(FrameError::Length { length: -1, .. })));
        assert!(matches!(header(b"Q\0\0\x01\0", 100), Err(FrameError::TooLong { length: 256, .. })));
    }

    #[test]
    fn cstr_stops_at_nul_and_never_beyond_the_body() {
        let mut body: &[u8] = b"ab\0cd";
        assert_eq!(cstr(&mut body), Some(&b"ab"[..]));
        assert_eq!(cstr(&mut body), None);
    }
}
