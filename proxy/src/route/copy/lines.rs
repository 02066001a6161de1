//! Lines of COPY's text and csv formats.
//!
//! Invariant: a line ends exactly where PostgreSQL's `CopyReadLineText` ends it. The style of line ends is that of the
//! first line; any other is an error, because each shard would decide by its own first line.

use memchr::{memchr_iter, memchr2, memchr3};

use super::fields;
use super::{Fault, KeyField, Step};
use crate::sql::copy_shape::{CopyFormat, CopyShape};
use crate::sql::times::names_the_time;

/// How lines end, once the first one has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eol {
    Unknown,
    Nl,
    Cr,
    CrNl,
}

/// What a scan met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// The bytes given end before the line does.
    More,
    /// The line's content ends at `.0`, its line end at `.1`.
    Line(usize, usize),
    /// `\.` on a line of its own.
    Marker,
}

/// Finds lines and the key field in each.
#[derive(Debug)]
pub(super) struct Lines {
    /// Field delimiter, and for csv quote and escape.
    pub(super) syntax: Syntax,
    /// `None`: the rows have no key.
    key_field: Option<usize>,
    /// Fields whose texts may be read by the clock.
    times: Vec<usize>,
    eol: Eol,
    header: bool,
    line: u64,
    /// Bytes of the current line that have been scanned already, and in which state.
    scanned: usize,
    in_quote: bool,
    after_escape: bool,
    /// Line ends inside of quotes, in the current line.
    embedded: u64,
}

/// Special bytes of the format.
#[derive(Debug)]
pub(super) struct Syntax {
    pub(super) delimiter: u8,
    pub(super) null: Vec<u8>,
    /// csv: quote and escape.
    pub(super) csv: Option<(u8, u8)>,
}

impl Lines {
    pub(super) fn new(shape: &CopyShape, key_field: Option<usize>) -> Self {
        let csv = (shape.format == CopyFormat::Csv).then_some((shape.quote, shape.escape));
        let syntax = Syntax { delimiter: shape.delimiter, null: shape.null.clone().into_bytes(), csv };
        Self {
            syntax,
            key_field,
            times: shape.times.clone(),
            eol: Eol::Unknown,
            header: shape.header,
            line: 0,
            scanned: 0,
            in_quote: false,
            after_escape: false,
            embedded: 0,
        }
    }

    /// Number of the line that was looked at last.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// The line at the start of `rest`. With `eof`, what has no line end is a line too.
    pub(super) fn next<'b>(&mut self, rest: &'b [u8], eof: bool) -> Result<Step<'b>, Fault> {
        let found = self.scan(rest, eof).inspect_err(|_| self.line += 1 + self.embedded)?;
        let (content, total) = match found {
            Found::Line(content, total) => (content, total),
            Found::Marker => return Ok(Step::End),
            Found::More if !eof || rest.is_empty() => return Ok(Step::More),
            Found::More if self.in_quote => {
                self.line += 1 + self.embedded;
                return Err(Fault::format("unterminated CSV quoted field"));
            }
            Found::More => (rest.len(), rest.len()),
        };
        self.line += 1 + self.embedded;
        (self.scanned, self.in_quote, self.after_escape, self.embedded) = (0, false, false, 0);
        if self.header {
            self.header = false;
            return Ok(Step::All(total));
        }
        let line = rest.get(..content).unwrap_or_default();
        let key = self.key_field.and_then(|n| self.field(line, n)).unwrap_or(KeyField::Missing);
        Ok(Step::Row { bytes: total, key, times: self.names_the_time(line) })
    }

    fn field<'b>(&self, line: &'b [u8], n: usize) -> Option<KeyField<'b>> {
        match self.syntax.csv {
            None => fields::text(line, &self.syntax, n),
            Some(csv) => fields::csv(line, &self.syntax, csv, n),
        }
    }

    /// Whether a date or time of the line would be read from the clock.
    fn names_the_time(&self, line: &[u8]) -> bool {
        // Each of the words has one of these letters; a backslash may stand for any.
        let may = || memchr3(b'w', b'y', b'\\', line).or_else(|| memchr2(b'W', b'Y', line)).is_some();
        !self.times.is_empty()
            && may()
            && self.times.iter().any(|&n| match self.field(line, n) {
                Some(KeyField::Text(text)) => names_the_time(&String::from_utf8_lossy(&text)),
                Some(KeyField::Null | KeyField::Missing | KeyField::Binary(_)) | None => false,
            })
    }

    fn scan(&mut self, rest: &[u8], eof: bool) -> Result<Found, Fault> {
        match self.syntax.csv {
            None => self.scan_text(rest, eof),
            Some((quote, escape)) => self.scan_csv(rest, eof, (quote, escape)),
        }
    }

    fn scan_text(&mut self, rest: &[u8], eof: bool) -> Result<Found, Fault> {
        loop {
            let unseen = rest.get(self.scanned..).unwrap_or_default();
            let Some(at) = memchr3(b'\n', b'\r', b'\\', unseen) else {
                self.scanned = rest.len();
                return Ok(Found::More);
            };
            self.scanned += at;
            if unseen[at] != b'\\' {
                return self.line_end(rest, eof);
            }
            match rest.get(self.scanned + 1) {
                None if eof => self.scanned += 1,
                None => return Ok(Found::More),
                Some(b'.') => return self.marker(rest, eof),
                // Whatever follows a backslash is data, a line end too.
                Some(_) => self.scanned += 2,
            }
        }
    }

    fn scan_csv(&mut self, rest: &[u8], eof: bool, csv: (u8, u8)) -> Result<Found, Fault> {
        let (quote, escape) = csv;
        if self.scanned == 0 && !self.in_quote && rest.starts_with(b"\\") {
            match rest.get(1..3) {
                Some([b'.', b'\n' | b'\r']) => return self.marker(rest, eof),
                None if matches!(rest, b"\\" | b"\\.") && !eof => return Ok(Found::More),
                None if rest == b"\\." => return self.marker(rest, eof),
                _ => {}
            }
        }
        loop {
            let unseen = rest.get(self.scanned..).unwrap_or_default();
            let Some(&first) = unseen.first() else { return Ok(Found::More) };
            if self.after_escape {
                self.after_escape = false;
                self.scanned += usize::from(first == escape || first == quote);
                continue;
            }
            let at = if self.in_quote {
                memchr2(quote, escape, unseen)
            } else {
                memchr3(quote, b'\n', b'\r', unseen)
            };
            if self.in_quote {
                let passed = unseen.get(..at.unwrap_or(unseen.len())).unwrap_or_default();
                let end = if self.eol == Eol::Nl { b'\n' } else { b'\r' };
                self.embedded += memchr_iter(end, passed).count() as u64;
            }
            let Some(at) = at else {
                self.scanned = rest.len();
                return Ok(Found::More);
            };
            self.scanned += at;
            match unseen[at] {
                byte if byte == quote => self.in_quote = !self.in_quote,
                _ if self.in_quote => self.after_escape = true,
                _ => return self.line_end(rest, eof),
            }
            self.scanned += 1;
        }
    }

    /// The `\n` or `\r` at `scanned`.
    fn line_end(&mut self, rest: &[u8], eof: bool) -> Result<Found, Fault> {
        let at = self.scanned;
        if rest[at] == b'\n' {
            return match self.eol {
                Eol::Cr | Eol::CrNl => Err(self.stray_newline()),
                Eol::Unknown | Eol::Nl => {
                    self.eol = Eol::Nl;
                    Ok(Found::Line(at, at + 1))
                }
            };
        }
        match (self.eol, rest.get(at + 1)) {
            (Eol::Nl, _) => Err(self.stray_return()),
            (Eol::Cr, _) => Ok(Found::Line(at, at + 1)),
            (Eol::Unknown | Eol::CrNl, None) if !eof => Ok(Found::More),
            (Eol::Unknown | Eol::CrNl, Some(b'\n')) => {
                self.eol = Eol::CrNl;
                Ok(Found::Line(at, at + 2))
            }
            (Eol::CrNl, _) => Err(self.stray_return()),
            (Eol::Unknown, _) => {
                self.eol = Eol::Cr;
                Ok(Found::Line(at, at + 1))
            }
        }
    }

    /// The `\.` at `scanned`.
    fn marker(&self, rest: &[u8], eof: bool) -> Result<Found, Fault> {
        match (self.eol, rest.get(self.scanned + 2)) {
            (_, None) if !eof => Ok(Found::More),
            _ if self.scanned > 0 => Err(Fault::format("end-of-copy marker corrupt")),
            (Eol::Nl, Some(b'\r')) | (Eol::Cr | Eol::CrNl, Some(b'\n')) => {
                Err(Fault::format("end-of-copy marker does not match previous newline style"))
            }
            (_, None | Some(b'\n' | b'\r')) => Ok(Found::Marker),
            (_, Some(_)) => Err(Fault::format("end-of-copy marker corrupt")),
        }
    }

    fn stray_newline(&self) -> Fault {
        let (message, hint) = match self.syntax.csv {
            None => ("literal newline found in data", "Use \"\\n\" to represent newline."),
            Some(_) => ("unquoted newline found in data", "Use quoted CSV field to represent newline."),
        };
        Fault { hint: Some(hint), ..Fault::format(message) }
    }

    fn stray_return(&self) -> Fault {
        let (message, hint) = match self.syntax.csv {
            None => ("literal carriage return found in data", "Use \"\\r\" to represent carriage return."),
            Some(_) => (
                "unquoted carriage return found in data",
                "Use quoted CSV field to represent carriage return.",
            ),
        };
        Fault { hint: Some(hint), ..Fault::format(message) }
    }
}
