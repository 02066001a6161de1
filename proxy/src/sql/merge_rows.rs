//! MERGE that inserts rows whose keys come from its source, taken apart: the source is run as any query is, and for each key of its rows
//! there is one MERGE of these rows, in which the key is a literal.
//!
//! Invariant: a row of the source is in one of them, and rows that meet the same row of the target are in the same one.
//! Source: PostgreSQL documentation, "MERGE".

use super::extract::Context;
use super::insert_rows::literal;
use super::tokens::Tokens;
use super::with_writes::rows_as_query;

/// The pieces of such a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeRows {
    /// WITH in front of it.
    with: String,
    /// `MERGE INTO t USING`.
    head: String,
    /// The source with its alias.
    source: String,
    alias: String,
    /// The column of the source that ON compares with the key.
    pub key: String,
    /// From ON to the end, without the places where the key is named.
    rest: Vec<String>,
}

/// Types of which equal values have equal texts.
const EXACT: [&str; 7] = ["smallint", "integer", "bigint", "text", "character varying", "uuid", "date"];

/// Takes a statement apart; the error says what stands in the way.
pub fn shape(text: &str, ctx: &Context<'_>) -> Result<MergeRows, String> {
    let t = Tokens::new(text.as_bytes(), ctx.standard_conforming_strings);
    let merge = t.verb().filter(|&at| t.is(at, "merge") && t.is(at + 1, "into")).ok_or("it is no MERGE")?;
    let (schema, name, next) = t.qualified(merge + 2).ok_or("its target is not found")?;
    let relation = ctx.schema.lookup(ctx.search_path, schema.as_deref(), &name);
    let relation = relation.ok_or_else(|| format!("{name} is not known"))?;
    let (key, _) = relation.key().ok_or("its target has no shard key")?;
    let key = relation.columns.get(key).map(|column| column.name.as_str()).unwrap_or_default();
    let named = next + usize::from(t.is(next, "as"));
    let (target, using) = match t.is(next, "using") {
        true => (name, next),
        false => (t.name(named).map(std::borrow::Cow::into_owned).unwrap_or_default(), named + 1),
    };
    if !t.is(using, "using") {
        return Err("its source is not found".to_owned());
    }
    let on = end_of_source(&t, using + 1).ok_or("its source is not a table or a query with an alias")?;
    let alias = alias(&t, using + 1, on).ok_or("its source has no plain alias")?;
    // What is computed once for all rows would be computed once for each key.
    if (on..t.len()).any(|at| t.is(at, "select")) || !(on..t.len()).any(|at| t.is(at, "insert")) {
        return Err("it has a subquery, or inserts nothing".to_owned());
    }
    let column =
        compared(&t, on, (&target, key), &alias).ok_or("ON does not compare the key with a column")?;
    let piece = |from: usize, to: usize| if from < to { t.source(from, to - 1) } else { String::new() };
    Ok(MergeRows {
        with: piece(0, merge),
        head: piece(merge, using + 1),
        source: piece(using + 1, on),
        rest: around(&t, text, on, (&alias, &column)),
        alias,
        key: column,
    })
}

impl MergeRows {
    /// The query of the source's rows.
    pub fn query(&self) -> String {
        format!("{} SELECT * FROM {}", self.with, self.source)
    }

    /// Where the key is among these columns, as names and types; the error says why it cannot be told.
    pub fn key_at(&self, columns: &[(String, String)]) -> Result<usize, String> {
        let at = columns.iter().position(|(name, _)| *name == self.key);
        let at = at.ok_or_else(|| format!("its source has no column {}", self.key))?;
        let exact = columns.get(at).is_some_and(|(_, name)| {
            EXACT.iter().any(|exact| name.split('(').next().is_some_and(|plain| plain == *exact))
        });
        if exact { Ok(at) } else { Err(format!("equal values of {} may be spelled differently", self.key)) }
    }

    /// The statement for these rows of the source, all of which have this key.
    pub fn part(
        &self,
        columns: &[(String, String)],
        rows: &[Vec<Option<String>>],
        key: Option<&str>,
    ) -> String {
        let at = columns.iter().position(|(name, _)| *name == self.key);
        let type_name = at.and_then(|at| columns.get(at)).map_or("text", |(_, name)| name.as_str());
        let value = key.map_or_else(|| "NULL".to_owned(), |key| literal(key).trim_start().to_owned());
        let (head, rows, alias) = (&self.head, rows_as_query(columns, rows), &self.alias);
        let rest = self.rest.join(&format!("{value}::{type_name}"));
        format!("{head} ({rows}) AS {} {rest}", super::spelling::quote_ident(alias))
    }
}

/// The token ON behind the source.
fn end_of_source(t: &Tokens<'_>, from: usize) -> Option<usize> {
    let on = t.outermost(from, t.len()).find(|&at| t.is(at, "on"))?;
    let joins = (from..on).any(|at| t.is_any(at, &["join", "only", "lateral", "tablesample"]));
    (!joins || t.is_mark(from, "(")).then_some(on)
}

/// The source's name.
fn alias(t: &Tokens<'_>, from: usize, on: usize) -> Option<String> {
    let next = match t.is_mark(from, "(") {
        true => t.closing(from)? + 1,
        false => t.qualified(from)?.2,
    };
    if next == on {
        return t.qualified(from).map(|(_, name, _)| name);
    }
    let at = next + usize::from(t.is(next, "as"));
    let behind = if t.is_mark(at + 1, "(") { t.closing(at + 1)? + 1 } else { at + 1 };
    (behind == on).then(|| t.name(at).map(std::borrow::Cow::into_owned)).flatten()
}

/// The column in `target.key = alias.column`, one way round or the other.
fn compared(t: &Tokens<'_>, on: usize, (target, key): (&str, &str), alias: &str) -> Option<String> {
    let part = |at: usize| {
        let (table, column) = (t.name(at)?, t.name(at + 2)?);
        t.is_mark(at + 1, ".").then_some((table, column))
    };
    (on..t.len()).find_map(|at| {
        let (left, right) = (part(at)?, part(at + 4).filter(|_| t.is_mark(at + 3, "="))?);
        let is_key =
            |side: &(std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)| side.0 == target && side.1 == key;
        match (is_key(&left), is_key(&right)) {
            (true, false) if right.0 == alias => Some(right.1.into_owned()),
            (false, true) if left.0 == alias => Some(left.1.into_owned()),
            _ => None,
        }
    })
}

/// The text from ON to the end around each `alias.column`.
fn around(t: &Tokens<'_>, text: &str, on: usize, (alias, column): (&str, &str)) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut copied = t.list.get(on).map_or(text.len(), |token| token.start);
    for at in on..t.len() {
        let named =
            t.name(at).is_some_and(|name| name == alias) && t.name(at + 2).is_some_and(|name| name == column);
        let whole = t.is_mark(at + 3, ".") || (at > 0 && t.is_mark(at - 1, "."));
        let (Some(first), Some(last)) = (t.list.get(at), t.list.get(at + 2)) else { break };
        if named && t.is_mark(at + 1, ".") && !whole {
            pieces.push(text.get(copied..first.start).unwrap_or_default().to_owned());
            copied = last.end;
        }
    }
    let end = t.list.last().map_or(text.len(), |token| token.end);
    pieces.push(text.get(copied..end).unwrap_or_default().to_owned());
    pieces
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::route::testing::{context, schema};

    fn pieces(text: &str) -> String {
        let (schema, search_path) = (schema(), ["public".to_owned()]);
        match shape(text, &context(&schema, &search_path)) {
            Err(why) => format!("{text}\n  refused: {why}\n"),
            Ok(merge) => {
                let columns = [("k".to_owned(), "bigint".to_owned()), ("n".to_owned(), "text".to_owned())];
                let rows = [vec![Some("5".to_owned()), None]];
                format!("{text}\n  {}\n  {}\n", merge.query(), merge.part(&columns, &rows, Some("5")))
            }
        }
    }

    #[test]
    fn statements_are_taken_apart() {
        let cases = [
            "merge into bids b using (values (5, 'x')) s (k, n) on b.auction_id = s.k and b.user_id = s.n when matched then delete \
             when not matched then insert (auction_id, user_id) values (s.k, s.n)",
            "with s as (select 1 as k) merge into public.bids using s on s.k = bids.auction_id when not matched then insert \
             values (s.k, 1);",
            "merge into bids as b using users as k on k.user_id = b.auction_id when not matched then insert values (k.user_id, 1)",
            "merge into bids b using users k join users u on true on k.user_id = b.auction_id when not matched then do nothing",
            "merge into bids b using (select 1) on b.auction_id = 1 when not matched then insert values (1, 1)",
            "merge into bids b using users k on k.user_id > b.auction_id when not matched then do nothing",
            "merge into only bids b using users k on k.user_id = b.auction_id when not matched then do nothing",
            "merge into bids b using users k on k.user_id = b.auction_id when matched then delete",
            "merge into bids b using users k on k.user_id = b.auction_id when not matched then insert values (k.user_id, (select 1))",
            "delete from bids",
        ];
        expect![[r#"
            merge into bids b using (values (5, 'x')) s (k, n) on b.auction_id = s.k and b.user_id = s.n when matched then delete when not matched then insert (auction_id, user_id) values (s.k, s.n)
               SELECT * FROM (values (5, 'x')) s (k, n)
              merge into bids b using (SELECT gavel_rows.c0::bigint AS "k", gavel_rows.c1::text AS "n" FROM (VALUES ('5', NULL::text)) AS gavel_rows (c0, c1)) AS "s" on b.auction_id = '5'::bigint and b.user_id = s.n when matched then delete when not matched then insert (auction_id, user_id) values ('5'::bigint, s.n)
            with s as (select 1 as k) merge into public.bids using s on s.k = bids.auction_id when not matched then insert values (s.k, 1);
              with s as (select 1 as k) SELECT * FROM s
              merge into public.bids using (SELECT gavel_rows.c0::bigint AS "k", gavel_rows.c1::text AS "n" FROM (VALUES ('5', NULL::text)) AS gavel_rows (c0, c1)) AS "s" on '5'::bigint = bids.auction_id when not matched then insert values ('5'::bigint, 1)
            merge into bids as b using users as k on k.user_id = b.auction_id when not matched then insert values (k.user_id, 1)
               SELECT * FROM users as k
              merge into bids as b using (SELECT gavel_rows.c0::bigint AS "k", gavel_rows.c1::text AS "n" FROM (VALUES ('5', NULL::text)) AS gavel_rows (c0, c1)) AS "k" on '5'::text = b.auction_id when not matched then insert values ('5'::text, 1)
            merge into bids b using users k join users u on true on k.user_id = b.auction_id when not matched then do nothing
              refused: its source is not a table or a query with an alias
            merge into bids b using (select 1) on b.auction_id = 1 when not matched then insert values (1, 1)
              refused: its source has no plain alias
            merge into bids b using users k on k.user_id > b.auction_id when not matched then do nothing
              refused: it has a subquery, or inserts nothing
            merge into only bids b using users k on k.user_id = b.auction_id when not matched then do nothing
              refused: only is not known
            merge into bids b using users k on k.user_id = b.auction_id when matched then delete
              refused: it has a subquery, or inserts nothing
            merge into bids b using users k on k.user_id = b.auction_id when not matched then insert values (k.user_id, (select 1))
              refused: it has a subquery, or inserts nothing
            delete from bids
              refused: it is no MERGE
        "#]].assert_eq(&cases.map(pieces).concat());
    }
}
