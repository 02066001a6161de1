//! Borrowed views of the frames that PostgreSQL sends.

use super::frame::cstr;

/// Tags of backend frames.
pub mod tag {
    #![allow(missing_docs, reason = "the names are the protocol's own")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY: u8 = b'K';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const READY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
    pub const DATA_ROW: u8 = b'D';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const EMPTY_QUERY: u8 = b'I';
    pub const ERROR: u8 = b'E';
    pub const NOTICE: u8 = b'N';
    pub const NOTIFICATION: u8 = b'A';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const NO_DATA: u8 = b'n';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const COPY_IN: u8 = b'G';
    pub const COPY_OUT: u8 = b'H';
    pub const COPY_BOTH: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const FUNCTION_RESULT: u8 = b'V';
}

/// Transaction status in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Status {
    /// `I`
    #[default]
    Idle,
    /// `T`
    InTransaction,
    /// `E`
    Failed,
}

impl Status {
    /// Reads the body of a `Z` frame.
    pub fn read(body: &[u8]) -> Option<Self> {
        match body {
            b"I" => Some(Self::Idle),
            b"T" => Some(Self::InTransaction),
            b"E" => Some(Self::Failed),
            _ => None,
        }
    }

    /// The byte of the protocol.
    pub fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InTransaction => b'T',
            Self::Failed => b'E',
        }
    }
}

/// One field of the body of an ErrorResponse or NoticeResponse: `b'C'` is the SQLSTATE, `b'S'` the severity, `b'M'` the message.
pub fn error_field(mut body: &[u8], wanted: u8) -> Option<&[u8]> {
    loop {
        let (&kind, rest) = body.split_first()?;
        if kind == 0 {
            return None;
        }
        body = rest;
        let value = cstr(&mut body)?;
        if kind == wanted {
            return Some(value);
        }
    }
}

/// Name and value of a ParameterStatus body.
pub fn parameter_status(mut body: &[u8]) -> Option<(&[u8], &[u8])> {
    let name = cstr(&mut body)?;
    Some((name, cstr(&mut body)?))
}

/// The tag text of a CommandComplete body, e.g. `INSERT 0 1`.
pub fn command_tag(mut body: &[u8]) -> Option<&[u8]> {
    cstr(&mut body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_fields_are_found_by_their_type() {
        let body = b"SERROR\0C42601\0Mno\0\0";
        assert_eq!(error_field(body, b'C'), Some(&b"42601"[..]));
        assert_eq!(error_field(body, b'H'), None);
        assert_eq!(error_field(b"SERR", b'C'), None);
    }
}
