//! INSERT … SELECT whose rows do not stay where they are read, taken apart: its query is run as any query is, and what it gives is
//! inserted as VALUES, each row where its key belongs. Of VALUES with computed keys all values are computed by one query.
//!
//! Invariant: a value is cast to its column's type where it is read, without the modifier of the type, and becomes an untyped
//! literal: what the column makes of it is what it would have made of the query's value.

use super::extract::Context;
use super::schema::Relation;
use super::spelling::quote_ident;
use super::tokens::Tokens;

/// The pieces of such a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertRows {
    /// WITH in front of it.
    with: String,
    /// `INSERT INTO t (a, b)`.
    head: String,
    /// The query.
    source: String,
    /// ON CONFLICT and RETURNING.
    tail: String,
    /// Types of the columns, in the order of the query's.
    types: Vec<String>,
    /// The statement lists its columns: the query has as many.
    listed: bool,
    /// The query gives the values of all these rows in one.
    values: Option<Rows>,
}

/// Rows of VALUES.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rows {
    /// Values of each.
    width: usize,
    /// Which values are DEFAULT, of one row after the other.
    defaults: Vec<bool>,
}

/// Columns that a select list may have.
const MAX_COLUMNS: usize = 1_600;

/// Takes a statement apart; the error says what stands in the way.
pub fn shape(text: &str, ctx: &Context<'_>) -> Result<InsertRows, String> {
    let t = Tokens::new(text.as_bytes(), ctx.standard_conforming_strings);
    let insert = t.verb().filter(|&at| t.is(at, "insert") && t.is(at + 1, "into"));
    let insert = insert.ok_or("its INSERT is not found")?;
    let (schema, name, next) = t.qualified(insert + 2).ok_or("its table is not found")?;
    let relation = ctx.schema.lookup(ctx.search_path, schema.as_deref(), &name);
    let relation = relation.ok_or_else(|| format!("{name} is not known"))?;
    let next = if t.is(next, "as") { next + 2 } else { next };
    let (types, listed, mut next) = columns(&t, next, &relation)?;
    if t.is(next, "overriding") {
        if !t.is(next + 1, "system") {
            return Err("OVERRIDING USER VALUE".to_owned());
        }
        next += 3;
    }
    let end = end(&t, next);
    let (first, last) = bare(&t, next, end);
    if first >= last || t.is(first, "default") {
        return Err("it has no query".to_owned());
    }
    let piece = |from: usize, to: usize| {
        let start = t.list.get(from).map_or(text.len(), |token| token.start);
        let end = to.checked_sub(1).and_then(|last| t.list.get(last)).map_or(0, |token| token.end);
        text.get(start..end).unwrap_or_default().to_owned()
    };
    let (mut source, mut values) = (piece(first, last), None);
    if t.is(first, "values") {
        let (items, rows) = rows_of_values(&t, first + 1, last)?;
        (source, values) = (format!("SELECT {}", items.join(", ")), Some(rows));
    } else if needs_order(&t, first, last) {
        source.push_str(" OFFSET 0");
    }
    let tail = piece(end, t.len());
    if (end..t.len()).any(|at| t.kind(at) == Some(super::lexer::Kind::Param)) {
        return Err("a parameter stands behind its query".to_owned());
    }
    Ok(InsertRows { with: piece(0, insert), head: piece(insert, next), source, tail, types, listed, values })
}

impl InsertRows {
    /// The query as it is, for the number of its columns.
    pub fn source(&self) -> String {
        format!("{} {}", self.with, self.source)
    }

    /// Whether its rows are those of VALUES.
    pub fn is_of_values(&self) -> bool {
        self.values.is_some()
    }

    /// Columns of each row, if that is known without the query.
    pub fn width(&self) -> Option<usize> {
        match &self.values {
            Some(rows) => Some(rows.width),
            None => self.listed.then_some(self.types.len()),
        }
    }

    /// The query that gives the values, as texts; of rows of so many columns.
    pub fn query(&self, width: usize) -> String {
        let count = self.values.as_ref().map_or(width, |rows| rows.defaults.len());
        let types = self.types.iter().take(width).cycle().take(count).enumerate();
        let items: Vec<String> =
            types.map(|(n, name)| format!("gavel_rows.c{n}::{name}::pg_catalog.text")).collect();
        let names: Vec<String> = (0..items.len()).map(|n| format!("c{n}")).collect();
        let (with, source) = (&self.with, &self.source);
        format!("{with} SELECT {} FROM ({source}) AS gavel_rows ({})", items.join(", "), names.join(", "))
    }

    /// The INSERT of what the query gave.
    pub fn insert(&self, read: &[Vec<Option<String>>]) -> String {
        let mut out = format!("{} VALUES ", self.head);
        let width = self.values.as_ref().map_or(usize::MAX, |rows| rows.width);
        let is_default =
            |at: usize| self.values.as_ref().is_some_and(|rows| rows.defaults.get(at) == Some(&true));
        for (n, row) in read.iter().flat_map(|row| row.chunks(width)).enumerate() {
            out.push_str(if n > 0 { ", (" } else { "(" });
            for (column, value) in row.iter().enumerate() {
                if column > 0 {
                    out.push_str(", ");
                }
                match value {
                    _ if is_default(n.saturating_mul(width).saturating_add(column)) => {
                        out.push_str("DEFAULT")
                    }
                    None => out.push_str("NULL"),
                    Some(value) => out.push_str(&literal(value)),
                }
            }
            out.push(')');
        }
        out.push(' ');
        out.push_str(&self.tail);
        out
    }

    /// The INSERT of no row, for what it says and returns.
    pub fn insert_nothing(&self, width: usize) -> String {
        let types = self.types.iter().take(width);
        let nulls: Vec<String> = types.map(|name| format!("NULL::{name}")).collect();
        format!("{} SELECT {} WHERE false {}", self.head, nulls.join(", "), self.tail)
    }
}

/// A text as a literal, whatever `standard_conforming_strings` is.
pub fn literal(value: &str) -> String {
    let prefix = if value.contains('\\') { " E" } else { "" };
    format!("{prefix}'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Types of the columns listed, or of all; whether they are listed; the token behind.
fn columns(t: &Tokens<'_>, next: usize, relation: &Relation) -> Result<(Vec<String>, bool, usize), String> {
    let query = ["select", "with", "values", "table"];
    if !t.is_mark(next, "(") || t.is_any(next + 1, &query) || t.is_mark(next + 1, "(") {
        return Ok((relation.columns.iter().map(type_of).collect(), false, next));
    }
    let close = t.closing(next).ok_or("its columns are not understood")?;
    let mut types = Vec::new();
    for at in (next + 1..close).step_by(2) {
        let name = t.name(at).filter(|_| at + 1 == close || t.is_mark(at + 1, ","));
        let name = name.ok_or("it lists something else than columns")?;
        let column = relation.columns.iter().find(|column| column.name == *name);
        types.push(type_of(column.ok_or_else(|| format!("it has no column {name}"))?));
    }
    Ok((types, true, close + 1))
}

/// A type by a name that has no modifier: `character` alone would be one character.
pub(super) fn type_of(column: &super::schema::Column) -> String {
    let name = column.type_name.as_str();
    let (element, array) = match name.strip_suffix("[]") {
        Some(element) => (element, "[]"),
        None => (name, ""),
    };
    match element {
        "character" => format!("pg_catalog.bpchar{array}"),
        "bit" => format!("pg_catalog.{}{array}", quote_ident("bit")),
        _ => name.to_owned(),
    }
}

/// Where ON CONFLICT or RETURNING begins.
fn end(t: &Tokens<'_>, source: usize) -> usize {
    let ends = |&at: &usize| t.is(at, "returning") || (t.is(at, "on") && t.is(at + 1, "conflict"));
    t.outermost(source, t.len()).find(ends).unwrap_or(t.len())
}

/// The query without parentheses around it.
fn bare(t: &Tokens<'_>, from: usize, to: usize) -> (usize, usize) {
    let (mut from, mut to) = (from, to);
    while t.is_mark(from, "(") && t.closing(from).is_some_and(|close| close + 1 == to) {
        (from, to) = (from + 1, to - 1);
    }
    (from, to)
}

/// The values of all rows, NULL for each DEFAULT, and what they are.
fn rows_of_values(t: &Tokens<'_>, from: usize, to: usize) -> Result<(Vec<String>, Rows), String> {
    const UNREAD: &str = "its VALUES are not understood";
    let (mut items, mut rows) = (Vec::new(), Rows { width: 0, defaults: Vec::new() });
    let mut at = from;
    while at < to {
        let close = t.closing(at).filter(|close| t.is_mark(at, "(") && *close < to).ok_or(UNREAD)?;
        let before = items.len();
        for (first, last) in t.items(at + 1, close) {
            let default = first + 1 == last && t.is(first, "default");
            items.push(if default { "NULL".to_owned() } else { t.source(first, last - 1) });
            rows.defaults.push(default);
        }
        let width = items.len() - before;
        if width == 0 || (rows.width != 0 && rows.width != width) {
            return Err(UNREAD.to_owned());
        }
        rows.width = width;
        at = close + 1 + usize::from(t.is_mark(close + 1, ","));
    }
    match items.len() {
        0 => Err(UNREAD.to_owned()),
        count if count > MAX_COLUMNS => Err(format!("its rows have more than {MAX_COLUMNS} values")),
        _ => Ok((items, rows)),
    }
}

/// The rows come in an order that a query around it need not keep.
fn needs_order(t: &Tokens<'_>, from: usize, to: usize) -> bool {
    let ordered = t.outermost(from, to).any(|at| t.is(at, "order") && t.is(at + 1, "by"));
    ordered && !t.outermost(from, to).any(|at| t.is_any(at, &["limit", "offset", "fetch", "for"]))
}

#[cfg(test)]
mod tests;
