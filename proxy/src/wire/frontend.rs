//! Borrowed views of the frames that applications send.
//!
//! Each view consumes the whole body; a body with bytes left over is malformed (they would otherwise be read as the
//! next frame by a peer that counts differently).

use super::frame::{FrameError, cstr, i16, i32};

/// PostgreSQL's words for a string without its NUL.
const NO_STRING: FrameError = FrameError::Body { problem: "invalid string in message" };
/// PostgreSQL's words for a body that ends too early.
const TOO_SHORT: FrameError = FrameError::Body { problem: "insufficient data left in message" };
/// PostgreSQL's words for bytes left over.
const TOO_LONG: FrameError = FrameError::Body { problem: "invalid message format" };
/// PostgreSQL's words for a body without its first byte.
const NOTHING: FrameError = FrameError::Body { problem: "no data left in message" };

/// Tags of frontend frames.
pub mod tag {
    #![allow(missing_docs, reason = "the names are the protocol's own")]
    pub const QUERY: u8 = b'Q';
    pub const PARSE: u8 = b'P';
    pub const BIND: u8 = b'B';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const CLOSE: u8 = b'C';
    pub const FLUSH: u8 = b'H';
    pub const SYNC: u8 = b'S';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const TERMINATE: u8 = b'X';
    pub const PASSWORD: u8 = b'p';
}

/// Whether a tag is one that PostgreSQL accepts from a frontend after login.
pub fn known(tag: u8) -> bool {
    matches!(
        tag,
        tag::QUERY
            | tag::PARSE
            | tag::BIND
            | tag::DESCRIBE
            | tag::EXECUTE
            | tag::CLOSE
            | tag::FLUSH
            | tag::SYNC
            | tag::FUNCTION_CALL
            | tag::COPY_DATA
            | tag::COPY_DONE
            | tag::COPY_FAIL
            | tag::TERMINATE
    )
}

/// Parse.
#[derive(Debug, Clone, Copy)]
pub struct Parse<'a> {
    /// Statement name, empty for the unnamed one.
    pub name: &'a [u8],
    /// SQL.
    pub text: &'a [u8],
    /// Parameter type OIDs, big-endian, four bytes each.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Reads the body of a `P` frame.
    pub fn read(mut body: &'a [u8]) -> Result<Self, FrameError> {
        let body = &mut body;
        let name = cstr(body).ok_or(NO_STRING)?;
        let text = cstr(body).ok_or(NO_STRING)?;
        let count = i16(body).ok_or(TOO_SHORT)? as u16 as usize;
        ended(body.get(count * 4..).ok_or(TOO_SHORT)?)?;
        Ok(Self { name, text, types: body })
    }
}

/// Bind. The formats and values are looked at by the planner, not here.
#[derive(Debug, Clone, Copy)]
pub struct Bind<'a> {
    /// Portal name.
    pub portal: &'a [u8],
    /// Statement name.
    pub statement: &'a [u8],
    /// From the count of parameter formats to the end of the body.
    pub rest: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Reads the body of a `B` frame and checks that its counts and lengths add up.
    pub fn read(mut body: &'a [u8]) -> Result<Self, FrameError> {
        let body = &mut body;
        let portal = cstr(body).ok_or(NO_STRING)?;
        let statement = cstr(body).ok_or(NO_STRING)?;
        let bind = Self { portal, statement, rest: body };
        skip(body, 2).ok_or(TOO_SHORT)?;
        let values = i16(body).ok_or(TOO_SHORT)? as u16;
        for _ in 0..values {
            match i32(body).ok_or(TOO_SHORT)? {
                -1 => {}
                len => {
                    let len = usize::try_from(len).map_err(|_| TOO_SHORT)?;
                    *body = body.get(len..).ok_or(TOO_SHORT)?;
                }
            }
        }
        skip(body, 2).ok_or(TOO_SHORT)?;
        ended(body)?;
        Ok(bind)
    }
}

/// Skips a count and that many entries of `width` bytes.
fn skip(body: &mut &[u8], width: usize) -> Option<()> {
    let count = i16(body)? as u16 as usize;
    *body = body.get(count * width..)?;
    Some(())
}

fn ended(rest: &[u8]) -> Result<(), FrameError> {
    if rest.is_empty() { Ok(()) } else { Err(TOO_LONG) }
}

/// Describe or Close: what and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// A portal, not a statement.
    pub portal: bool,
    /// Name.
    pub name: &'a [u8],
}

impl<'a> Named<'a> {
    /// Reads the body of a `D` or `C` frame.
    pub fn read(tag: u8, mut body: &'a [u8]) -> Result<Self, FrameError> {
        let (&kind, rest) = body.split_first().ok_or(NOTHING)?;
        body = rest;
        let name = cstr(&mut body).ok_or(NO_STRING)?;
        ended(body)?;
        match kind {
            b'P' => Ok(Self { portal: true, name }),
            b'S' => Ok(Self { portal: false, name }),
            kind => Err(FrameError::Kind { close: tag == self::tag::CLOSE, kind }),
        }
    }
}

/// Execute.
#[derive(Debug, Clone, Copy)]
pub struct Execute<'a> {
    /// Portal name.
    pub portal: &'a [u8],
    /// Row limit, 0 for none.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// Reads the body of an `E` frame.
    pub fn read(mut body: &'a [u8]) -> Result<Self, FrameError> {
        let portal = cstr(&mut body).ok_or(NO_STRING)?;
        let max_rows = i32(&mut body).ok_or(TOO_SHORT)?;
        ended(body)?;
        Ok(Self { portal, max_rows })
    }
}

/// The text of a Query frame.
pub fn query(mut body: &[u8]) -> Result<&[u8], FrameError> {
    let text = cstr(&mut body).ok_or(NO_STRING)?;
    ended(body)?;
    Ok(text)
}

/// The body of a frame that has none.
pub fn bare(body: &[u8]) -> Result<(), FrameError> {
    ended(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_must_be_consumed_whole() {
        assert!(query(b"select 1\0").is_ok());
        assert!(query(b"select 1\0x").is_err());
        assert!(query(b"select 1").is_err());
        assert!(Execute::read(b"p\0\0\0\0\x05").is_ok());
        assert!(Execute::read(b"p\0\0\0\0\x05!").is_err());
        assert!(Named::read(b'D', b"Sname\0").is_ok_and(|n| !n.portal && n.name == b"name"));
        assert!(Named::read(b'D', b"Xname\0").is_err());
    }

    #[test]
    fn bind_counts_and_lengths_must_add_up() {
        let good = b"\0s\0\0\0\0\x01\0\0\0\x02ab\0\0";
        assert!(Bind::read(good).is_ok());
        assert!(Bind::read(b"").is_err());
        assert!(Bind::read(&good[..good.len() - 1]).is_err());
        let lie = b"\0s\0\0\0\0\x01\x7f\xff\xff\xff\0\0";
        assert!(Bind::read(lie).is_err());
    }

    #[test]
    fn parse_wants_its_types() {
        assert!(Parse::read(b"n\0select 1\0\0\x01\0\0\0\x17").is_ok_and(|p| p.types == [0, 0, 0, 23]));
        assert!(Parse::read(b"n\0select 1\0\0\x02\0\0\0\x17").is_err());
    }
}
