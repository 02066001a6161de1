//! How names are written, and what a string says when its escapes are read, for whoever looks for words in it: a character that
//! cannot be told is a placeholder.
//!
//! Source: PostgreSQL 15 documentation, "String Constants with C-Style Escapes", "... with Unicode Escapes".

use std::borrow::Cow;

use super::lexer::{Kind, Lexer};
use super::normalise::Literal;

/// Stands for what is not ASCII.
const OTHER: char = '\u{FFFD}';

/// A name as a quoted identifier.
pub fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What a literal says.
#[derive(Debug, PartialEq, Eq)]
pub enum Words<'t> {
    /// A string.
    Text(Cow<'t, str>),
    /// No string: a number, a bit string.
    None,
    /// It cannot be told.
    Unknown,
}

impl Literal {
    /// What it says, as far as words go.
    pub fn words<'t>(&self, text: &'t [u8], conforming: bool) -> Words<'t> {
        let raw = text.get(self.start..self.end).and_then(|raw| std::str::from_utf8(raw).ok());
        let Some(raw) = raw else { return Words::Unknown };
        let body = |prefix: usize| raw.get(prefix..).and_then(|body| body.strip_suffix('\''));
        let found = match self.kind {
            Kind::Number | Kind::Bits => return Words::None,
            Kind::Escaped => body(2).map(escaped),
            Kind::Unicode if custom_escape(text, self.end, conforming) => None,
            Kind::Unicode => body(3).map(unicode),
            Kind::String if !conforming && raw.contains('\\') => {
                raw.find('\'').and_then(|at| body(at + 1)).map(escaped)
            }
            _ => return self.value(text, conforming).map_or(Words::Unknown, Words::Text),
        };
        found.map_or(Words::Unknown, |text| Words::Text(Cow::Owned(text)))
    }
}

/// Whether UESCAPE follows.
fn custom_escape(text: &[u8], end: usize, conforming: bool) -> bool {
    let next = Lexer::new(&text[end..], conforming).next();
    next.is_some_and(|token| text[end..][token.start..token.end].eq_ignore_ascii_case(b"uescape"))
}

/// `E'…'`
fn escaped(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find(['\\', '\'']) {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let Some(next) = behind.chars().next() else { break };
        let (read, c) = match next {
            // Two quotes are one.
            _ if rest.as_bytes()[at] == b'\'' => (next.len_utf8(), '\''),
            'b' | 'f' | 'n' | 'r' | 't' => (1, ' '),
            '0'..='7' => code(behind, 0, (1, 3), 8),
            'x' => code(behind, 1, (1, 2), 16),
            'u' => code(behind, 1, (4, 4), 16),
            'U' => code(behind, 1, (8, 8), 16),
            other => (other.len_utf8(), other),
        };
        out.push(c);
        rest = &behind[read..];
    }
    out.push_str(rest);
    out
}

/// `U&'…'`
fn unicode(body: &str) -> String {
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let behind = &rest[at + 1..];
        let (read, c) = match behind.chars().next() {
            Some('+') => code(behind, 1, (6, 6), 16),
            Some('\\') => (1, '\\'),
            Some(_) => code(behind, 0, (4, 4), 16),
            None => break,
        };
        out.push(c);
        rest = &behind[read..];
    }
    out.push_str(rest);
    out
}

/// Digits behind a prefix of so many bytes, this many at least and at most: bytes read, and the character. Without them the prefix
/// stands for itself.
fn code(text: &str, prefix: usize, (least, most): (usize, usize), radix: u32) -> (usize, char) {
    let digits =
        text[prefix..].bytes().take(most).take_while(|byte| char::from(*byte).is_digit(radix)).count();
    if digits < least {
        let first = text.chars().next().unwrap_or(OTHER);
        return (first.len_utf8(), first);
    }
    let value = u32::from_str_radix(&text[prefix..prefix + digits], radix).ok();
    let c = value.and_then(char::from_u32).filter(char::is_ascii).unwrap_or(OTHER);
    (prefix + digits, c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, conforming: bool) -> String {
        let token = Lexer::new(text.as_bytes(), conforming).next().expect("a token");
        let literal = Literal { kind: token.kind, start: token.start, end: token.end };
        match literal.words(text.as_bytes(), conforming) {
            Words::Text(text) => text.into_owned(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn escapes_are_read() {
        for text in [
            "'now'",
            "E'no\\167'",
            "E'n\\x6Fw'",
            "e'no\\u0077'",
            "E'\\U0000006eow'",
            "U&'no\\0077'",
            "u&'\\+00006eow'",
            "E'n\\ow'",
            "N'now'",
            "$$now$$",
            "$a$now$a$",
        ] {
            assert_eq!(words(text, true), "now", "{text}");
        }
        assert_eq!(words("'no\\167'", false), "now");
        assert_eq!(words("'no\\167'", true), "no\\167");
        assert_eq!(words("E'it''s \\\\ \\xe4 \\'x\\''", true), "it's \\ \u{FFFD} 'x'");
        assert_eq!(words("E'\\xg \\u12'", true), "xg u12");
        assert_eq!(words("U&'no!0077' UESCAPE '!'", true), "Unknown");
        assert_eq!(words("12", true), "None");
        assert_eq!(words("b'1'", true), "None");
    }
}
