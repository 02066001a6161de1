//! Whether the proxy's answer to one batch of messages is PostgreSQL's.

use std::collections::HashMap;
use std::fmt::Write as _;

use tests::wire::Frame;
use tests::wire_print;

use super::drawn::{Drawn, Whose, without_oids};
use tests::answer;

/// A row, as it came.
type Row = Vec<Option<Vec<u8>>>;

/// Types whose values are OIDs: `oid`, `oidvector`, `oid[]`.
const OIDS: [u32; 3] = [26, 30, 1028];
/// Of an error or a notice: severity, SQLSTATE, message, detail, schema, table, column, type, constraint.
const FIELDS: &[u8] = b"SCMDstcdn";

/// A part of an answer.
enum Part {
    /// Rows that came one after the other.
    Rows(Vec<Row>),
    /// Any other message, for people too.
    Said(String),
}

/// What PostgreSQL and the proxy say, and what was asked.
pub(crate) struct Answers<'a> {
    /// The text of each statement that was executed.
    pub(crate) asked: &'a [String],
    pub(crate) theirs: &'a [Frame],
    pub(crate) ours: &'a [Frame],
}

impl Answers<'_> {
    /// Keys that are said for the first time are learnt.
    ///
    /// # Errors
    /// What differs, for people.
    pub(crate) fn compare(&self, drawn: &mut Drawn) -> Result<(), String> {
        let theirs = parts(self.theirs, Whose::Theirs, drawn);
        let ours = parts(self.ours, Whose::Ours, drawn);
        let mut asked = self.asked.iter();
        let mut sql = asked.next();
        for (theirs, ours) in theirs.iter().zip(&ours) {
            match (theirs, ours) {
                (Part::Said(theirs), Part::Said(ours)) if theirs == ours => {
                    if ["CommandComplete", "EmptyQuery", "PortalSuspended"]
                        .iter()
                        .any(|end| theirs.starts_with(end))
                    {
                        sql = asked.next().or(sql);
                    }
                }
                (Part::Rows(theirs), Part::Rows(ours)) => {
                    rows(sql.map_or("", String::as_str), theirs, ours, drawn)?;
                }
                _ => return Err(format!("    theirs {}\n    ours   {}", shown(theirs), shown(ours))),
            }
        }
        match theirs.len().cmp(&ours.len()) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(format!("    ours goes on: {}", shown(&ours[theirs.len()]))),
            std::cmp::Ordering::Greater => Err(format!("    theirs goes on: {}", shown(&theirs[ours.len()]))),
        }
    }
}

fn shown(part: &Part) -> String {
    match part {
        Part::Said(text) => text.clone(),
        Part::Rows(rows) => list(rows),
    }
}

fn list(rows: &[Row]) -> String {
    const SHOWN: usize = 8;
    let mut text = format!("{} rows", rows.len());
    for row in rows.iter().take(SHOWN) {
        let values =
            row.iter().map(|value| value.as_ref().map_or("null".into(), |value| wire_print::bytes(value)));
        _ = write!(text, "\n      {}", values.collect::<Vec<_>>().join(" | "));
    }
    text
}

/// The messages, rows together, keys as PostgreSQL would say them but in rows.
fn parts(frames: &[Frame], whose: Whose, drawn: &Drawn) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut oids = Vec::new();
    for frame in frames {
        let row = match frame.tag {
            b'D' => answer::row(&frame.body)
                .into_iter()
                .enumerate()
                .map(
                    |(at, value)| {
                        if oids.contains(&at) { value.map(|value| without_oids(&value)) } else { value }
                    },
                )
                .collect(),
            b'd' => vec![Some(frame.body.clone())],
            tag => {
                if tag == b'T' {
                    oids = oid_columns(&frame.body);
                }
                parts.extend(said(frame, whose, drawn).map(Part::Said));
                continue;
            }
        };
        match parts.last_mut() {
            Some(Part::Rows(rows)) => rows.push(row),
            _ => parts.push(Part::Rows(vec![row])),
        }
    }
    parts
}

/// Type and name of each column.
fn columns(body: &[u8]) -> Vec<(String, String, u16)> {
    answer::columns(body, &HashMap::new())
}

fn oid_columns(body: &[u8]) -> Vec<usize> {
    let is_oid = |ty: &str| OIDS.iter().any(|oid| ty.split('/').next() == Some(&oid.to_string()));
    columns(body).iter().enumerate().filter(|(_, (_, ty, _))| is_oid(ty)).map(|(at, _)| at).collect()
}

/// A message that is no row. `None`: it may differ.
fn said(frame: &Frame, whose: Whose, drawn: &Drawn) -> Option<String> {
    let text = match frame.tag {
        b'K' => return None,
        b'E' | b'N' => {
            let fields = wire_print::error_fields(&frame.body).into_iter();
            let fields = fields.filter(|(code, _)| FIELDS.contains(code));
            // Details list the values of a row.
            let plain =
                |text: &str| String::from_utf8_lossy(&drawn.plain(whose, text.as_bytes())).into_owned();
            let fields =
                fields.map(|(code, text)| (code, text.split(", ").map(plain).collect::<Vec<_>>().join(", ")));
            let name = if frame.tag == b'E' { "ErrorResponse" } else { "NoticeResponse" };
            fields.fold(name.to_owned(), |text, (code, field)| format!("{text} {}={field}", code as char))
        }
        b'T' => {
            let plain = |(name, ty, format): (String, String, u16)| {
                let ty = without_oids(ty.as_bytes());
                format!("{name} {} {format}", String::from_utf8_lossy(&ty))
            };
            format!(
                "RowDescription {}",
                columns(&frame.body).into_iter().map(plain).collect::<Vec<_>>().join(", ")
            )
        }
        b't' => String::from_utf8_lossy(&without_oids(wire_print::print(frame).as_bytes())).into_owned(),
        _ => wire_print::print(frame),
    };
    Some(String::from_utf8_lossy(&drawn.plain(whose, text.as_bytes())).into_owned())
}

/// Rows are the same, in the same order if the statement says one.
fn rows(sql: &str, theirs: &[Row], ours: &[Row], drawn: &mut Drawn) -> Result<(), String> {
    let plain = |whose: Whose, rows: &[Row]| -> Vec<Row> {
        let row = |row: &Row| {
            row.iter().map(|value| value.as_ref().map(|value| drawn.plain(whose, value))).collect()
        };
        rows.iter().map(row).collect()
    };
    let (left, right) = (plain(Whose::Theirs, theirs), plain(Whose::Ours, ours));
    let differ =
        |how: &str| Err(format!("    {how}\n    theirs {}\n    ours   {}", list(&left), list(&right)));
    let in_order = |rows: &[Row]| {
        let mut places: Vec<_> = (0..rows.len()).collect();
        places.sort_by_key(|at| &rows[*at]);
        places
    };
    let ordered = is_ordered(sql);
    let (from, to) = if left == right && ordered {
        ((0..left.len()).collect(), (0..left.len()).collect())
    } else {
        (in_order(&left), in_order(&right))
    };
    if !from.iter().map(|at| &left[*at]).eq(to.iter().map(|at| &right[*at])) {
        return differ("other rows");
    }
    if left != right && ordered {
        return differ("the same rows in another order");
    }
    // Which of equal rows is which, is known by an order alone.
    let is_known = |from: usize| ordered || left.iter().filter(|row| **row == left[from]).count() == 1;
    from.iter()
        .zip(&to)
        .filter(|(from, _)| is_known(**from))
        .try_for_each(|(from, to)| learn(&theirs[*from], &ours[*to], drawn))
}

/// Keys that are in one place of two equal rows.
fn learn(theirs: &Row, ours: &Row, drawn: &mut Drawn) -> Result<(), String> {
    for (theirs, ours) in theirs.iter().zip(ours) {
        let (Some(theirs), Some(ours)) = (theirs, ours) else { continue };
        let pairs = drawn.unknown(Whose::Theirs, theirs).into_iter().zip(drawn.unknown(Whose::Ours, ours));
        for (theirs, ours) in pairs.collect::<Vec<_>>() {
            drawn.learn(theirs, ours)?;
        }
    }
    Ok(())
}

/// Whether the order of the rows is part of the answer: there is an ORDER BY that is not within parentheses, or rows are
/// inserted one after the other.
fn is_ordered(sql: &str) -> bool {
    let sql = sql.to_ascii_lowercase();
    let (mut depth, mut quote, mut outside) = (0_u32, None, String::new());
    for character in sql.chars() {
        match (character, quote) {
            (_, Some(mark)) => quote = Some(mark).filter(|mark| *mark != character),
            ('\'' | '"', None) => quote = Some(character),
            ('(', None) => depth += 1,
            (')', None) => depth = depth.saturating_sub(1),
            _ if depth == 0 => outside.push(if character.is_whitespace() { ' ' } else { character }),
            _ => {}
        }
    }
    // Which rows ON CONFLICT DO NOTHING left out, RETURNING does not say.
    let inserts = outside.trim_start().starts_with("insert") && !outside.contains("do nothing");
    outside.contains("order by") || inserts
}

#[test]
fn an_order_is_that_of_the_whole_statement() {
    assert!(is_ordered("SELECT a FROM (SELECT 1) b\nORDER BY a"));
    assert!(is_ordered("insert into a values (1), (2) returning id"));
    assert!(!is_ordered("insert into a values (1), (2) on conflict do nothing returning id"));
    assert!(!is_ordered("select rank() over (order by a), ' order by ' from b"));
}
