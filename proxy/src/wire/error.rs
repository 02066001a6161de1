//! ErrorResponse and NoticeResponse: writing those of the proxy, reading those of a node.
//!
//! Source: PostgreSQL documentation, "Message Formats" and "Error and Notice Message Fields". Invariant: what is written
//! is one well-formed frame whatever the texts contain (NUL bytes are left out).

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use super::frame;

/// Severity of an error or notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the session goes on.
    Error,
    /// The session ends.
    Fatal,
    /// A notice that something may be wrong.
    Warning,
    /// A notice.
    Notice,
}

impl Severity {
    /// As it stands in fields `S` and `V`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Warning => "WARNING",
            Self::Notice => "NOTICE",
        }
    }
}

/// An error or notice about to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report<'a> {
    /// Field `S` and `V`.
    pub severity: Severity,
    /// Field `C`, five characters.
    pub sqlstate: &'a str,
    /// Field `M`.
    pub message: &'a str,
    /// Field `D`.
    pub detail: Option<&'a str>,
    /// Field `H`.
    pub hint: Option<&'a str>,
    /// Field `W`.
    pub context: Option<&'a str>,
}

impl<'a> Report<'a> {
    /// Severity ERROR.
    pub fn error(sqlstate: &'a str, message: &'a str) -> Self {
        Self { severity: Severity::Error, sqlstate, message, detail: None, hint: None, context: None }
    }

    /// Severity FATAL.
    pub fn fatal(sqlstate: &'a str, message: &'a str) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(sqlstate, message) }
    }

    /// Severity NOTICE.
    pub fn notice(message: &'a str) -> Self {
        Self { severity: Severity::Notice, ..Self::error(super::sqlstate::SUCCESSFUL_COMPLETION, message) }
    }

    /// Severity WARNING.
    pub fn warning(sqlstate: &'a str, message: &'a str) -> Self {
        Self { severity: Severity::Warning, ..Self::error(sqlstate, message) }
    }

    /// With a detail.
    pub fn detail(self, detail: impl Into<Option<&'a str>>) -> Self {
        Self { detail: detail.into(), ..self }
    }

    /// With a hint.
    pub fn hint(self, hint: impl Into<Option<&'a str>>) -> Self {
        Self { hint: hint.into(), ..self }
    }

    /// With a context.
    pub fn context(self, context: impl Into<Option<&'a str>>) -> Self {
        Self { context: context.into(), ..self }
    }

    /// Appends the frame: ErrorResponse for ERROR and FATAL, NoticeResponse for the others.
    pub fn write(&self, out: &mut BytesMut) {
        let tag = match self.severity {
            Severity::Error | Severity::Fatal => b'E',
            Severity::Warning | Severity::Notice => b'N',
        };
        let start = out.len();
        out.put_u8(tag);
        out.put_u32(0);
        let severity = self.severity.as_str();
        put_field(out, b'S', severity);
        put_field(out, b'V', severity);
        put_field(out, b'C', self.sqlstate);
        put_field(out, b'M', self.message);
        if let Some(detail) = self.detail {
            put_field(out, b'D', detail);
        }
        if let Some(hint) = self.hint {
            put_field(out, b'H', hint);
        }
        if let Some(context) = self.context {
            put_field(out, b'W', context);
        }
        out.put_u8(0);
        frame::set_length(out, start);
    }

    /// The frame by itself.
    pub fn to_frame(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.message.len());
        self.write(&mut out);
        out.freeze()
    }
}

fn put_field(out: &mut BytesMut, tag: u8, text: &str) {
    out.put_u8(tag);
    if text.as_bytes().contains(&0) {
        out.extend(text.bytes().filter(|&byte| byte != 0));
    } else {
        out.put_slice(text.as_bytes());
    }
    out.put_u8(0);
}

/// An error in the words of PostgreSQL, with the function that raises it there (field `R`): drivers look at it.
pub fn of_routine(sqlstate: &str, message: &str, routine: &str) -> Bytes {
    let mut out = BytesMut::from(&Report::error(sqlstate, message).to_frame()[..]);
    out.truncate(out.len() - 1);
    put_field(&mut out, b'R', routine);
    out.put_u8(0);
    frame::set_length(&mut out, 0);
    out.freeze()
}

/// An ErrorResponse whose position (field `P`) counts from so many characters earlier on.
pub fn moved(frame: &[u8], characters: usize) -> Bytes {
    placed(frame, |position| Some(position + characters))
}

/// An ErrorResponse whose position (field `P`) is what `place` makes of it; without one where that is nothing.
pub fn placed(frame: &[u8], place: impl Fn(usize) -> Option<usize>) -> Bytes {
    rewritten(frame, |field, text| match field {
        b'P' => {
            let position = std::str::from_utf8(text).ok()?.parse().ok()?;
            Some(place(position)?.to_string().into_bytes().into())
        }
        _ => Some(Cow::Borrowed(text)),
    })
}

/// An ErrorResponse or NoticeResponse with another context (field `W`), where `rewrite` gives one.
pub fn with_context(frame: &[u8], rewrite: impl Fn(&str) -> Option<String>) -> Bytes {
    rewritten(frame, |field, text| {
        let context = std::str::from_utf8(text).ok().filter(|_| field == b'W').and_then(&rewrite);
        Some(context.map_or(text.into(), |context| context.into_bytes().into()))
    })
}

/// An ErrorResponse or NoticeResponse whose fields have the texts that `rewrite` gives; those without one are left out.
fn rewritten<'f>(frame: &'f [u8], rewrite: impl Fn(u8, &'f [u8]) -> Option<Cow<'f, [u8]>>) -> Bytes {
    let mut out = BytesMut::with_capacity(frame.len() + 16);
    let (Some(tag), Some(body)) = (frame.first(), frame.get(super::frame::HEADER..)) else {
        return Bytes::copy_from_slice(frame);
    };
    super::reply::frame(&mut out, *tag, |out| {
        for (field, text) in fields(body).filter_map(|(field, text)| Some((field, rewrite(field, text)?))) {
            out.put_u8(field);
            out.put_slice(&text);
            out.put_u8(0);
        }
        out.put_u8(0);
    });
    out.freeze()
}

/// An ErrorResponse received from a node: the body as it came, and the fields that the proxy looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeError {
    /// The body of the frame (fields and terminator, without tag and length), to be forwarded as it is.
    pub body: Bytes,
    /// Field `C`; `XX000` if it was missing.
    pub sqlstate: String,
    /// Field `M`.
    pub message: String,
}

impl NodeError {
    /// Reads the body of an ErrorResponse; never fails: what cannot be read is left empty.
    pub fn parse(body: Bytes) -> Self {
        let mut sqlstate = None;
        let mut message = String::new();
        for (tag, text) in fields(&body) {
            match tag {
                b'C' => sqlstate = Some(String::from_utf8_lossy(text).into_owned()),
                b'M' => message = String::from_utf8_lossy(text).into_owned(),
                _ => {}
            }
        }
        let sqlstate = sqlstate.unwrap_or_else(|| super::sqlstate::INTERNAL_ERROR.to_owned());
        Self { body, sqlstate, message }
    }

    /// A field as text.
    pub fn field(&self, tag: u8) -> Option<Cow<'_, str>> {
        super::backend::error_field(&self.body, tag).map(String::from_utf8_lossy)
    }

    /// Appends it as an ErrorResponse.
    pub fn write(&self, out: &mut BytesMut) {
        out.put_u8(b'E');
        out.put_u32(u32::try_from(self.body.len() + 4).unwrap_or(u32::MAX));
        out.put_slice(&self.body);
    }
}

/// The fields of an ErrorResponse's or NoticeResponse's body.
pub fn fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (&tag, after) = rest.split_first()?;
        if tag == 0 {
            return None;
        }
        let end = after.iter().position(|&byte| byte == 0)?;
        rest = &after[end + 1..];
        Some((tag, &after[..end]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back() {
        let frame = Report::fatal("28P01", "no \0pass").detail("why").hint("cure").to_frame();
        assert_eq!(frame[0], b'E');
        assert_eq!(frame.len(), 1 + u32::from_be_bytes([frame[1], frame[2], frame[3], frame[4]]) as usize);
        let read: Vec<_> = fields(&frame[5..]).map(|(tag, text)| (tag as char, text.to_vec())).collect();
        let expected =
            [("S", "FATAL"), ("V", "FATAL"), ("C", "28P01"), ("M", "no pass"), ("D", "why"), ("H", "cure")];
        let expected: Vec<_> = expected
            .iter()
            .map(|(tag, text)| (tag.as_bytes()[0] as char, text.as_bytes().to_vec()))
            .collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn a_node_error_survives_garbage_and_is_forwarded_unchanged() {
        let frame = Report::error("42P01", "gone").to_frame();
        let error = NodeError::parse(frame.slice(5..));
        assert_eq!((error.sqlstate.as_str(), error.message.as_str()), ("42P01", "gone"));
        let mut out = BytesMut::new();
        error.write(&mut out);
        assert_eq!(out, frame);
        for garbage in [&b""[..], b"\0", b"M", b"Mabc", b"C\0M\0"] {
            NodeError::parse(Bytes::from_static(garbage));
        }
    }
}
