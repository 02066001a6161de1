//! COPY … FROM STDIN of a sharded table, split by key as it streams.
//!
//! Invariants: however the data is cut into chunks, each shard is given the same bytes; every row goes to exactly one
//! shard, in its order, as the bytes that the application sent; header and trailer go to every shard. At most one row
//! is held in memory. What PostgreSQL would reject and a shard alone might not see (another style of line ends, an
//! end marker in a row) is rejected here, in PostgreSQL's words.
//! Source: PostgreSQL 15, `src/backend/commands/copyfromparse.c`.

mod binary;
mod fields;
mod lines;
mod origins;

use std::borrow::Cow;
use std::sync::Arc;

use router_config::key::{KeyError, KeyType, KeyValue};
use router_config::topology::{ShardId, Topology};

use super::convert;
use super::refusal::Refusal;
use super::values::TextRules;
use crate::sql::copy_shape::{CopyFormat, CopyShape};

/// Bytes of one row; a longer one is refused with `54000`.
pub const COPY_ROW_MAX_BYTES: usize = 256 << 20;

/// Bytes of a value that an error's context shows.
const CONTEXT_MAX_BYTES: usize = 100;

/// Where pieces of the data go, in order for each shard.
pub type Sink<'s> = dyn FnMut(ShardId, &[u8]) + 's;

/// What is wrong with the data: becomes an ErrorResponse, and nothing is loaded anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyError {
    /// Line of the application's data, 1-based (for the binary format: row).
    pub line: u64,
    /// SQLSTATE.
    pub sqlstate: &'static str,
    /// Message, as PostgreSQL words it.
    pub message: String,
    /// The cure, if there is one.
    pub hint: Option<String>,
    /// CONTEXT, as PostgreSQL words it.
    pub context: String,
}

/// A fault whose place the splitter knows.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    sqlstate: &'static str,
    message: Cow<'static, str>,
    hint: Option<&'static str>,
}

impl Fault {
    /// `22P04`, bad_copy_file_format.
    fn format(message: impl Into<Cow<'static, str>>) -> Self {
        Self { sqlstate: "22P04", message: message.into(), hint: None }
    }
}

/// The key field of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum KeyField<'a> {
    Null,
    Text(Cow<'a, [u8]>),
    Binary(&'a [u8]),
    /// The row ends before it.
    Missing,
}

/// The next piece of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step<'a> {
    /// Not yet complete.
    More,
    /// So many bytes for every shard: a header or trailer.
    All(usize),
    /// So many bytes for the shard of the key; `times`: a date or time among them is to be read from the clock.
    Row { bytes: usize, key: KeyField<'a>, times: bool },
    /// The end marker: nothing after it counts.
    End,
}

/// Finds rows.
#[derive(Debug)]
enum Rows {
    Lines(lines::Lines),
    Binary(binary::Tuples),
}

/// Splits the data of one COPY.
#[derive(Debug)]
pub struct CopySplitter {
    topology: Arc<Topology>,
    rows: Rows,
    /// The key's type and its modifier. `None`: every row is every shard's.
    key: Option<(KeyType, Option<i32>)>,
    /// The shard that was given a row with the time in it.
    timed: Option<ShardId>,
    utf8: bool,
    table: String,
    key_column: String,
    /// The beginning of a row whose end has not been seen.
    carry: Vec<u8>,
    /// The end marker has been seen.
    ended: bool,
    /// By shard.
    origins: Vec<origins::Origins>,
}

/// Whether the data can be split at all.
pub(super) fn check(shape: &CopyShape, rules: TextRules) -> Result<(), Refusal> {
    if shape.key_field.is_none() || shape.key_type.is_none() {
        return Err(Refusal::unsupported(
            "COPY FROM that leaves the shard key to its default is not supported",
            "Name the shard key in the column list and give its value in the data.",
        ));
    }
    if shape.force_null_key {
        return Err(Refusal::unsupported(
            "COPY FROM with FORCE_NULL or FORCE_NOT_NULL on the shard key is not supported",
            "Leave the shard key out of the option.",
        ));
    }
    check_encoding(shape, rules)
}

fn check_encoding(shape: &CopyShape, rules: TextRules) -> Result<(), Refusal> {
    let rules = shape.encoding.as_ref().map_or(rules, |name| TextRules::new(name, rules.standard_strings));
    if rules.ascii_safe { Ok(()) } else { Err(Refusal::encoding()) }
}

impl CopySplitter {
    /// A splitter for the rows of `table` (its name, for messages).
    pub fn new(
        shape: &CopyShape,
        table: &str,
        rules: TextRules,
        topology: Arc<Topology>,
    ) -> Result<Self, Refusal> {
        check(shape, rules)?;
        let (Some(key_field), Some(key_type)) = (shape.key_field, shape.key_type) else {
            return Err(Refusal::not_placed("COPY without its shard key"));
        };
        let rows = match shape.format {
            CopyFormat::Text | CopyFormat::Csv => Rows::Lines(lines::Lines::new(shape, Some(key_field))),
            CopyFormat::Binary => Rows::Binary(binary::Tuples::new(shape.columns, key_field)),
        };
        Ok(Self::of_rows(rows, (shape, table, rules), Some((key_type, shape.key_modifier)), topology))
    }

    /// What looks at rows that every shard is given, if there is anything to look for: dates and times that each of them would read
    /// from a clock of its own. It hands on nothing that is of use.
    pub fn watch(
        shape: &CopyShape,
        table: &str,
        rules: TextRules,
        topology: Arc<Topology>,
    ) -> Result<Option<Self>, Refusal> {
        if shape.times.is_empty() {
            return Ok(None);
        }
        check_encoding(shape, rules)?;
        let rows = Rows::Lines(lines::Lines::new(shape, None));
        Ok(Some(Self::of_rows(rows, (shape, table, rules), None, topology)))
    }

    fn of_rows(
        rows: Rows,
        (shape, table, rules): (&CopyShape, &str, TextRules),
        key: Option<(KeyType, Option<i32>)>,
        topology: Arc<Topology>,
    ) -> Self {
        let utf8 = shape.encoding.as_ref().map_or(rules.utf8, |name| TextRules::new(name, true).utf8);
        let table = table.rsplit('.').next().unwrap_or(table).to_owned();
        let key_column = "shard key".to_owned();
        let (carry, ended) = (Vec::new(), false);
        let origins = topology.shards.iter().map(|_| origins::Origins::default()).collect();
        Self { topology, rows, key, timed: None, utf8, table, key_column, carry, ended, origins }
    }

    /// The key column's name, for messages.
    #[must_use]
    pub fn with_key_column(mut self, name: &str) -> Self {
        name.clone_into(&mut self.key_column);
        self
    }

    /// CONTEXT of a shard's error with the line's number in the application's data; `None` when it names no line or the
    /// line is no longer known.
    pub fn rewrite_context(&self, shard: ShardId, context: &str) -> Option<String> {
        let origins = self.origins.get(usize::from(shard.0))?;
        origins::rewrite(context, |line| origins.find(line))
    }

    /// Takes the body of a CopyData, cut anywhere, and hands on all rows that are complete.
    pub fn push(&mut self, chunk: &[u8], out: &mut Sink<'_>) -> Result<(), CopyError> {
        if self.carry.is_empty() {
            let used = self.split(chunk, false, out)?;
            self.carry.extend_from_slice(chunk.get(used..).unwrap_or_default());
        } else {
            let mut buffer = std::mem::take(&mut self.carry);
            buffer.extend_from_slice(chunk);
            let used = self.split(&buffer, false, out)?;
            buffer.drain(..used.min(buffer.len()));
            buffer.shrink_to(chunk.len().max(1 << 16));
            self.carry = buffer;
        }
        if self.carry.len() > COPY_ROW_MAX_BYTES {
            let message = format!("a row of COPY data is longer than {COPY_ROW_MAX_BYTES} bytes");
            return Err(self.error(Fault { sqlstate: "54000", message: message.into(), hint: None }));
        }
        Ok(())
    }

    /// The data is complete (CopyDone): hands on the last row, if it has no line end.
    pub fn finish(&mut self, out: &mut Sink<'_>) -> Result<(), CopyError> {
        let buffer = std::mem::take(&mut self.carry);
        self.split(&buffer, true, out)?;
        Ok(())
    }

    /// Hands on what is complete in `buffer`; answers how many bytes that is.
    fn split(&mut self, buffer: &[u8], eof: bool, out: &mut Sink<'_>) -> Result<usize, CopyError> {
        let mut at = 0;
        // Rows of one shard that follow each other go out in one piece.
        let mut piece: Option<(ShardId, usize)> = None;
        let result = loop {
            let rest = buffer.get(at..).unwrap_or_default();
            let before = self.line();
            let (bytes, shard) = match self.step(rest, eof) {
                Ok(Step::More) => break Ok(at),
                Ok(Step::End) => break Ok(buffer.len()),
                Ok(Step::All(bytes)) => (bytes, None),
                Ok(Step::Row { bytes, key, times }) => match self.place(&key, times) {
                    Ok(shard) => (bytes, shard),
                    Err(fault) => {
                        break Err(self.row_error(fault, &key, rest.get(..bytes).unwrap_or_default()));
                    }
                },
                Err(fault) => break Err(self.error(fault)),
            };
            match (piece, shard) {
                (Some((same, _)), Some(shard)) if same == shard => {}
                (before, shard) => {
                    flush(before, buffer, at, out);
                    piece = shard.map(|shard| (shard, at));
                }
            }
            let lines = before + 1..=self.line();
            match shard {
                Some(shard) => self.came_from(shard, lines),
                None => {
                    for shard in self.topology.shard_ids() {
                        self.came_from(shard, lines.clone());
                        out(shard, rest.get(..bytes).unwrap_or_default());
                    }
                }
            }
            at += bytes;
        };
        // `at` stays where the last complete row ends.
        flush(piece, buffer, at, out);
        result
    }

    fn came_from(&mut self, shard: ShardId, lines: std::ops::RangeInclusive<u64>) {
        if let Some(origins) = self.origins.get_mut(usize::from(shard.0)) {
            origins.push(lines);
        }
    }

    fn step<'b>(&mut self, rest: &'b [u8], eof: bool) -> Result<Step<'b>, Fault> {
        if self.ended {
            return Ok(Step::End);
        }
        let step = match &mut self.rows {
            Rows::Lines(lines) => lines.next(rest, eof)?,
            Rows::Binary(tuples) => tuples.next(rest, eof)?,
        };
        self.ended = step == Step::End;
        Ok(step)
    }

    /// Whose row it is; `None`: every shard's.
    fn place(&mut self, key: &KeyField<'_>, times: bool) -> Result<Option<ShardId>, Fault> {
        let shard = self.key.map(|of| self.owner(of, key)).transpose()?;
        if times && (shard.is_none() || self.timed.is_some_and(|other| Some(other) != shard)) {
            return Err(Fault {
                sqlstate: "0A000",
                message: "'now', or a text of its kind, would be evaluated separately on each shard".into(),
                hint: Some("Compute the time in the application and write it in full."),
            });
        }
        if times {
            self.timed = shard;
        }
        Ok(shard)
    }

    fn owner(
        &self,
        (key_type, modifier): (KeyType, Option<i32>),
        key: &KeyField<'_>,
    ) -> Result<ShardId, Fault> {
        let value = match key {
            KeyField::Null => {
                let message = format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    self.key_column, self.table
                );
                return Err(Fault { sqlstate: "23502", message: message.into(), hint: None });
            }
            KeyField::Missing => {
                return Err(Fault::format(format!("missing data for column \"{}\"", self.key_column)));
            }
            KeyField::Text(bytes) => self.text(key_type, bytes)?,
            KeyField::Binary(bytes) => match key_type {
                KeyType::Text | KeyType::Bpchar => self.text(key_type, bytes)?,
                _ => binary::key(key_type, bytes)?,
            },
        };
        if !value.is_stored_by(modifier) {
            let hint = "Insert the row with a key that its column stores as it is.";
            return Err(Fault {
                sqlstate: "0A000",
                message: convert::CHANGED_BY_STORING.into(),
                hint: Some(hint),
            });
        }
        Ok(self.topology.owner(&value))
    }

    fn text(&self, key_type: KeyType, bytes: &[u8]) -> Result<KeyValue, Fault> {
        const HINT: &str = "Send the data in UTF8, or use the extended protocol's parameters.";
        if !self.utf8 && !bytes.is_ascii() {
            let message = "a shard key that is not ASCII cannot be placed in this client_encoding";
            return Err(Fault { sqlstate: "0A000", message: message.into(), hint: Some(HINT) });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Fault {
            sqlstate: "22021",
            message: "invalid byte sequence for encoding \"UTF8\"".into(),
            hint: None,
        })?;
        key_type.parse_text(text).map_err(|error| key_fault(key_type, &error))
    }

    fn line(&self) -> u64 {
        match &self.rows {
            Rows::Lines(lines) => lines.line(),
            Rows::Binary(tuples) => tuples.row(),
        }
    }

    fn error(&self, fault: Fault) -> CopyError {
        let line = self.line();
        let context = format!("COPY {}, line {line}", self.table);
        let hint = fault.hint.map(str::to_owned);
        CopyError { line, sqlstate: fault.sqlstate, message: fault.message.into_owned(), hint, context }
    }

    fn row_error(&self, fault: Fault, key: &KeyField<'_>, row: &[u8]) -> CopyError {
        let mut error = self.error(fault);
        match key {
            KeyField::Text(bytes) => {
                error.context =
                    format!("{}, column {}: \"{}\"", error.context, self.key_column, shown(bytes));
            }
            KeyField::Binary(_) => error.context = format!("{}, column {}", error.context, self.key_column),
            KeyField::Null | KeyField::Missing if matches!(self.rows, Rows::Lines(_)) => {
                let row = row.strip_suffix(b"\n").unwrap_or(row);
                let row = row.strip_suffix(b"\r").unwrap_or(row);
                error.context = format!("{}: \"{}\"", error.context, shown(row));
            }
            KeyField::Null | KeyField::Missing => {}
        }
        error
    }
}

fn flush(piece: Option<(ShardId, usize)>, buffer: &[u8], end: usize, out: &mut Sink<'_>) {
    if let Some((shard, start)) = piece {
        out(shard, buffer.get(start..end).unwrap_or_default());
    }
}

/// A value as PostgreSQL shows it in a context: its beginning.
fn shown(bytes: &[u8]) -> String {
    let start = bytes.get(..CONTEXT_MAX_BYTES).unwrap_or(bytes);
    let dots = if start.len() < bytes.len() { "..." } else { "" };
    format!("{}{dots}", String::from_utf8_lossy(start))
}

fn key_fault(key_type: KeyType, error: &KeyError) -> Fault {
    match convert::complaint(key_type, error) {
        Some(refusal) => Fault { sqlstate: refusal.sqlstate, message: refusal.message.into(), hint: None },
        None => Fault {
            sqlstate: "0A000",
            message: "the shard key's spelling depends on settings or the server's version".into(),
            hint: Some("Write dates in ISO 8601, times with their offset from UTC."),
        },
    }
}

#[cfg(test)]
mod tests;
