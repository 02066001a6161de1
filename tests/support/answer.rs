//! What a server answers to one statement, and whether two answers are the same.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::wire::{Frame, Wire};

/// OID of numeric, as a description names it.
const NUMERIC: &str = "1700/";

/// What is equal of two answers that are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The rows, in order.
    Total,
    /// The rows, in any order.
    Any,
    /// The number of rows: which ones is PostgreSQL's choice.
    Count,
}

/// Names of the types of a server's own, by OID.
pub type Types = HashMap<u32, String>;

/// Asks a server for its own types.
///
/// # Panics
/// When it does not answer.
pub fn types_of(wire: &mut Wire) -> Types {
    let named = wire.rows("select oid, typname from pg_type where oid >= 16384").expect("the types");
    let types = named.into_iter().filter_map(|row| {
        let [oid, name] = <[Option<String>; 2]>::try_from(row).ok()?;
        Some((oid?.parse().ok()?, name?))
    });
    types.collect()
}

/// What was said to one statement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
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
    pub status: u8,
}

impl Answer {
    /// The reason, if the statement is one that is not supported.
    pub fn refusal(&self) -> Option<&str> {
        self.error.as_ref().filter(|(code, _)| code == "0A000").map(|(_, message)| message.as_str())
    }

    /// Whether it is an error.
    pub fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// The SQLSTATE, of an error.
    pub fn code(&self) -> Option<&str> {
        self.error.as_ref().map(|(code, _)| code.as_str())
    }

    /// Whether the two are one answer.
    /// `picks`: of rows that are equal to PostgreSQL any one is shown.
    pub fn same(&self, other: &Self, order: Order, picks: bool) -> bool {
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

    /// Whether each is an error of a row that is wrong, maybe not the same one: shards look at their own rows at the same time, where
    /// PostgreSQL ends with the first, or waits for the lock of an earlier one.
    pub fn of_another_row(&self, other: &Self) -> bool {
        let of_row = |code: &str| code.starts_with("23");
        self.status == other.status
            && self.code().is_some_and(of_row)
            && other.code().is_some_and(|code| of_row(code) || code == "55P03")
    }

    /// What COPY TO sent.
    pub fn copied(&self) -> &[u8] {
        &self.copied
    }

    /// For people.
    pub fn shown(&self) -> String {
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

    /// Takes in one message of the server.
    pub fn read(&mut self, frame: &Frame, types: &Types) {
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

/// Name, type and format of each column of a RowDescription.
pub fn columns(body: &[u8], types: &Types) -> Vec<(String, String, u16)> {
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

/// The values of a DataRow.
pub fn row(body: &[u8]) -> Vec<Option<Vec<u8>>> {
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
