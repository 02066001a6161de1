//! What one side answers, and whether two answers are the same.

use std::collections::HashMap;
use std::fmt::Write as _;

use tests::wire::{Frame, Login, PATIENCE, Wire};
use tests::wire_message as message;

use crate::case::{Order, Step};
use crate::expr::Form;

/// What sessions begin with: whoever waits for a lock waits in vain, since statements are sent one after the other.
const BEGINNING: &str = "set lock_timeout = '250ms'";

/// OID of numeric, as a description names it.
const NUMERIC: &str = "1700/";

/// One session of one side.
#[derive(Debug)]
pub(crate) struct Side {
    wire: Wire,
    /// Names of the types of this side's own, by OID.
    types: HashMap<u32, String>,
}

/// What was said to one statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Name, type and format of each column.
    columns: Vec<(String, String, u16)>,
    rows: Vec<Vec<Option<Vec<u8>>>>,
    tags: Vec<String>,
    /// SQLSTATE and message.
    error: Option<(String, String)>,
    /// Whether data were asked for.
    copying: bool,
    /// What COPY TO sent.
    copied: Vec<u8>,
    /// Of ReadyForQuery.
    pub(crate) status: u8,
}

impl Answer {
    /// The reason, if the statement is one that is not supported.
    pub(crate) fn refusal(&self) -> Option<&str> {
        self.error.as_ref().filter(|(code, _)| code == "0A000").map(|(_, message)| message.as_str())
    }

    /// Whether it is an error.
    pub(crate) fn failed(&self) -> bool {
        self.error.is_some()
    }

    fn code(&self) -> Option<&str> {
        self.error.as_ref().map(|(code, _)| code.as_str())
    }

    /// Whether the two are one answer.
    /// `picks`: of rows that are equal to PostgreSQL any one is shown.
    pub(crate) fn same(&self, other: &Self, order: Order, picks: bool) -> bool {
        if self.status != other.status || !(self.code() == other.code() || self.sooner(other)) {
            return false;
        }
        if self.failed() {
            return true;
        }
        let rows = match order {
            Order::Total => {
                let same_rows = picks || sorted(&self.rows) == sorted(&other.rows);
                self.plain() == other.plain() && same_rows
            }
            Order::Any if picks => sorted(&self.plain()) == sorted(&other.plain()),
            Order::Any => sorted(&self.rows) == sorted(&other.rows),
            Order::Count => self.rows.len() == other.rows.len(),
        };
        rows && self.columns == other.columns
            && self.tags == other.tags
            && match order {
                Order::Total => self.copied == other.copied,
                Order::Any | Order::Count => lines(&self.copied) == lines(&other.copied),
            }
    }

    /// The rows without what tells equal values apart: `1.0` and `1.00` have one place in an order, and are one value to DISTINCT.
    fn plain(&self) -> Vec<Vec<Option<Vec<u8>>>> {
        let stripped = |value: &Vec<u8>, (_, ty, format): &(String, String, u16)| match format {
            _ if !ty.starts_with(NUMERIC) => value.clone(),
            0 if value.contains(&b'.') => {
                let end = value.iter().rposition(|byte| *byte != b'0').map_or(0, |at| at + 1);
                value[..end].strip_suffix(b".").unwrap_or(&value[..end]).to_vec()
            }
            // The scale is shown, and nothing else.
            1 if value.len() >= 8 => [&value[..6], &[0, 0], &value[8..]].concat(),
            _ => value.clone(),
        };
        let row = |row: &Vec<Option<Vec<u8>>>| {
            let values = row.iter().zip(&self.columns);
            values.map(|(value, column)| value.as_ref().map(|value| stripped(value, column))).collect()
        };
        self.rows.iter().map(row).collect()
    }

    /// Whether this is the duplicate of a COPY of which a later line is wrong. PostgreSQL inserts in batches, of up to 1,000 rows
    /// or 64 kB, and so reads that line before it inserts the duplicate; a shard is sent its own lines, and may be first.
    fn sooner(&self, other: &Self) -> bool {
        let wrong = |code: &str| code.starts_with("22") || ["23502", "23514"].contains(&code);
        self.copying && self.code() == Some("23505") && other.code().is_some_and(wrong)
    }

    /// For people.
    pub(crate) fn shown(&self) -> String {
        let mut text = String::new();
        for (name, ty, _) in &self.columns {
            let _ = write!(text, "{name} {ty}, ");
        }
        for row in self.rows.iter().take(12) {
            let values = row.iter().map(|value| value.as_ref().map(|value| String::from_utf8_lossy(value)));
            let _ = write!(text, "\n      {:?}", values.collect::<Vec<_>>());
        }
        if !self.copied.is_empty() {
            let shown: String = String::from_utf8_lossy(&self.copied).chars().take(400).collect();
            let _ = write!(text, "\n      {shown:?}");
        }
        let _ = write!(
            text,
            "\n      {} rows {:?} {:?} {}",
            self.rows.len(),
            self.tags,
            self.error,
            char::from(self.status)
        );
        text
    }

    fn read(&mut self, frame: &Frame, types: &HashMap<u32, String>) {
        match frame.tag {
            b'T' => self.columns.extend(columns(&frame.body, types)),
            b'G' => self.copying = true,
            b's' => self.tags.push("suspended".to_owned()),
            b'D' => self.rows.push(row(&frame.body)),
            b'C' => self.tags.push(String::from_utf8_lossy(&frame.body).trim_end_matches('\0').to_owned()),
            b'd' => self.copied.extend(&frame.body),
            b'Z' => self.status = frame.body[0],
            b'E' => {
                let text = |field: u8| {
                    let mut fields = frame.body.split(|byte| *byte == 0);
                    let found = fields.find(|found| found.first() == Some(&field));
                    String::from_utf8_lossy(found.map_or(b"", |found| &found[1..])).into_owned()
                };
                self.error = Some((text(b'C'), text(b'M')));
            }
            _ => {}
        }
    }
}

impl Side {
    pub(crate) fn login(login: &Login) -> Self {
        let mut wire = Wire::login(login).expect("login");
        let named = wire.rows("select oid, typname from pg_type where oid >= 16384").expect("the types");
        let types = named.into_iter().filter_map(|row| {
            let [oid, name] = <[Option<String>; 2]>::try_from(row).ok()?;
            Some((oid?.parse().ok()?, name?))
        });
        wire.rows(BEGINNING).expect("a setting");
        Self { types: types.collect(), wire }
    }

    /// Ends the transaction, if there is one, and what outlives transactions.
    pub(crate) fn end(&mut self) {
        // Outside of a transaction the first is a warning.
        for sql in ["rollback", "discard all", BEGINNING] {
            let answer = self.run(&Step::simple(sql)).expect("an answer");
            assert!(!answer.failed(), "{sql}: {}", answer.shown());
        }
    }

    /// Runs a statement; `Err`: the connection is gone or stuck.
    pub(crate) fn run(&mut self, step: &Step) -> std::io::Result<Answer> {
        let bytes = match step.form {
            Form::Simple => message::query(&step.sql),
            Form::Extended { .. } => {
                let parts = std::iter::once(step).chain(&step.more).flat_map(extended);
                parts.chain(message::sync()).collect()
            }
        };
        self.wire.send(&bytes)?;
        let mut answer = Answer::default();
        while answer.status == 0 {
            let frame = self.wire.frame(PATIENCE)?.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            if frame.tag == b'G' {
                self.wire.send(&[message::copy_data(&step.data), message::copy_done()].concat())?;
            }
            answer.read(&frame, &self.types);
        }
        Ok(answer)
    }
}

/// The messages of one statement.
fn extended(step: &Step) -> Vec<u8> {
    let binary = i16::from(step.form == Form::Extended { binary: true });
    let executes = if step.page == 0 { 1 } else { 3 };
    let mut bytes = [
        message::parse("", &step.sql, &[]),
        message::bind("", "", &step.params, &[binary]),
        message::describe(b'P', ""),
    ]
    .concat();
    for _ in 0..executes {
        bytes.extend(message::execute("", step.page));
    }
    bytes
}

/// The rows in an order of their own.
fn sorted(rows: &[Vec<Option<Vec<u8>>>]) -> Vec<&Vec<Option<Vec<u8>>>> {
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort();
    rows
}

/// The lines of a COPY in an order of their own; tuples of the binary format.
fn lines(copied: &[u8]) -> Vec<&[u8]> {
    const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
    let mut all = Vec::new();
    if let Some(mut rest) = copied.strip_prefix(SIGNATURE).and_then(|rest| rest.get(8..)) {
        while let Some((count, _)) = rest.split_first_chunk::<2>() {
            let mut at = 2;
            for _ in 0..i16::from_be_bytes(*count).max(0) {
                let length = rest[at..].first_chunk::<4>().map_or(0, |length| i32::from_be_bytes(*length));
                at += 4 + length.max(0) as usize;
            }
            all.push(&rest[..at]);
            rest = &rest[at..];
        }
    } else {
        all.extend(copied.split(|byte| *byte == b'\n'));
    }
    all.sort_unstable();
    all
}

pub(crate) fn columns(body: &[u8], types: &HashMap<u32, String>) -> Vec<(String, String, u16)> {
    let mut all = Vec::new();
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        let fields = &rest[end + 1..end + 19];
        let oid = u32::from_be_bytes([fields[6], fields[7], fields[8], fields[9]]);
        let ty = types.get(&oid).cloned().unwrap_or_else(|| oid.to_string());
        let modifier = i32::from_be_bytes([fields[12], fields[13], fields[14], fields[15]]);
        all.push((name, format!("{ty}/{modifier}"), u16::from_be_bytes([fields[16], fields[17]])));
        rest = &rest[end + 19..];
    }
    all
}

pub(crate) fn row(body: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut values = Vec::new();
    let mut rest = &body[2..];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let (value, after) = after.split_at(length.max(0) as usize);
        values.push((length >= 0).then(|| value.to_vec()));
        rest = after;
    }
    values
}
