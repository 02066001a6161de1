//! Rows of COPY's binary format.
//!
//! Source: PostgreSQL 15 documentation, COPY, "Binary Format"; `copyfromparse.c`, `ReceiveCopyBinaryHeader`,
//! `NextCopyFrom`.

use std::ops::Range;

use router_config::key::{KeyType, KeyValue};

use super::{Fault, KeyField, Step, key_fault};

const SIGNATURE: &[u8; 11] = b"PGCOPY\n\xff\r\n\0";

/// Signature, flags, length of the extension.
const HEADER_BYTES: usize = 19;

/// Bytes of the header's extension; no version of PostgreSQL writes any.
const EXTENSION_MAX_BYTES: usize = 1 << 20;

/// Finds tuples and the key field in each.
#[derive(Debug)]
pub(super) struct Tuples {
    columns: usize,
    key_field: usize,
    state: State,
    row: u64,
    /// Bytes of the current row that have been scanned, and which field comes next.
    scanned: usize,
    field: usize,
    key: Option<Range<usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    Rows,
    /// After the trailer.
    Trailed,
}

impl Tuples {
    pub(super) fn new(columns: usize, key_field: usize) -> Self {
        Self { columns, key_field, state: State::Header, row: 0, scanned: 0, field: 0, key: None }
    }

    /// Number of the row that was looked at last.
    pub(super) fn row(&self) -> u64 {
        self.row
    }

    /// What is at the start of `rest`.
    pub(super) fn next<'b>(&mut self, rest: &'b [u8], eof: bool) -> Result<Step<'b>, Fault> {
        let step = match self.state {
            State::Header => self.header(rest)?,
            State::Rows => self.tuple(rest)?,
            State::Trailed if rest.is_empty() => Step::More,
            State::Trailed => return Err(Fault::format("received copy data after EOF marker")),
        };
        match step {
            Step::More if eof && self.state == State::Header => {
                Err(Fault::format("COPY file signature not recognized"))
            }
            Step::More if eof && !rest.is_empty() => Err(Fault::format("unexpected EOF in COPY data")),
            step => Ok(step),
        }
    }

    fn header(&mut self, rest: &[u8]) -> Result<Step<'static>, Fault> {
        let known = rest.len().min(SIGNATURE.len());
        if rest.get(..known) != SIGNATURE.get(..known) {
            return Err(Fault::format("COPY file signature not recognized"));
        }
        let Some(extension) = int(rest, HEADER_BYTES - 4) else { return Ok(Step::More) };
        let extension = usize::try_from(extension).ok().filter(|&bytes| bytes <= EXTENSION_MAX_BYTES);
        let Some(extension) = extension else {
            return Err(Fault::format("invalid COPY file header (wrong length)"));
        };
        if rest.len() < HEADER_BYTES + extension {
            return Ok(Step::More);
        }
        self.state = State::Rows;
        Ok(Step::All(HEADER_BYTES + extension))
    }

    fn tuple<'b>(&mut self, rest: &'b [u8]) -> Result<Step<'b>, Fault> {
        if self.scanned == 0 {
            let Some(&[high, low]) = rest.get(..2) else { return Ok(Step::More) };
            let count = i16::from_be_bytes([high, low]);
            if count == -1 {
                self.state = State::Trailed;
                return Ok(Step::All(2));
            }
            self.row += 1;
            if usize::try_from(count).ok() != Some(self.columns) {
                let message = format!("row field count is {count}, expected {}", self.columns);
                return Err(Fault::format(message));
            }
            self.scanned = 2;
        }
        while self.field < self.columns {
            let Some(length) = int(rest, self.scanned) else { return Ok(Step::More) };
            let start = self.scanned + 4;
            let end = match length {
                -1 => start,
                length => {
                    let length = usize::try_from(length).map_err(|_| Fault::format("invalid field size"))?;
                    start + length
                }
            };
            if rest.len() < end {
                return Ok(Step::More);
            }
            if self.field == self.key_field && length >= 0 {
                self.key = Some(start..end);
            }
            (self.scanned, self.field) = (end, self.field + 1);
        }
        let total = self.scanned;
        let key = self.key.take().and_then(|range| rest.get(range)).map_or(KeyField::Null, KeyField::Binary);
        (self.scanned, self.field) = (0, 0);
        Ok(Step::Row { bytes: total, key, times: false })
    }
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The key in a field. Unlike in a Bind, its width must be the column's own.
pub(super) fn key(key_type: KeyType, bytes: &[u8]) -> Result<KeyValue, Fault> {
    let width = match key_type {
        KeyType::Int2 => Some(2),
        KeyType::Int4 => Some(4),
        KeyType::Int8 => Some(8),
        _ => None,
    };
    if width.is_some_and(|width| width != bytes.len()) {
        let message = "incorrect binary data format";
        return Err(Fault { sqlstate: "22P03", message: message.into(), hint: None });
    }
    key_type.parse_binary(0, bytes).map_err(|error| key_fault(key_type, &error))
}
