//! A statement with INSERT, UPDATE or DELETE in WITH, taken apart: each of them becomes a statement of its own, and what it returns
//! takes its place.
//!
//! PostgreSQL runs all of them over one snapshot: none sees what another has written but for what that returns. Invariant: what is
//! taken apart reads no table that an earlier part has written, so that each part sees what it would have seen.
//! Source: PostgreSQL documentation, "Data-Modifying Statements in WITH".

use std::sync::Arc;

use super::extract::{Context, analysis};
use super::facts::{Access, Command};
use super::insert_rows::literal;
use super::schema::{Deed, Relation, RelationKind};
use super::spelling::quote_ident;
use super::tokens::{Tokens, WithItem};

/// The parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WithWrites {
    recursive: bool,
    items: Vec<Item>,
    /// What stands behind WITH.
    main: Part,
    /// What is written where, in the order of the parts, and what is read afterwards.
    pub writes: Vec<Written>,
}

/// One query of WITH.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    /// Name and columns, as written.
    head: String,
    /// Between AS and the parenthesis.
    how: String,
    part: Part,
    writes: bool,
}

/// A statement of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Its own WITH queries.
    with: Option<String>,
    text: String,
    /// The items that it reads, and those that these read.
    needs: Vec<usize>,
}

/// A relation that a part writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// OID on the home shard.
    pub oid: u32,
    /// Its name.
    pub table: String,
    /// How: `insert`, `update`, `delete` or `merge`.
    pub verb: String,
    /// OIDs of what later parts read.
    pub read_later: Vec<u32>,
}

/// Takes a statement apart; `None`: no query of WITH writes. The error says what stands in the way.
pub fn shape(text: &str, ctx: &Context<'_>) -> Result<Option<WithWrites>, String> {
    let tokens = Tokens::new(text.as_bytes(), ctx.standard_conforming_strings);
    if !tokens.is(0, "with") {
        return Ok(None);
    }
    let mut with = parse(&tokens, text)?;
    if !with.items.iter().any(|item| item.writes) {
        return Ok(None);
    }
    with.check_order()?;
    with.check_again(ctx)?;
    with.writes = written(&with.parts(ctx)?)?;
    Ok(Some(with))
}

impl WithWrites {
    /// Which items write, in order.
    pub fn writers(&self) -> Vec<usize> {
        (0..self.items.len()).filter(|&at| self.items[at].writes).collect()
    }

    /// For each item what takes its place: nothing yet.
    pub fn unmade(&self) -> Vec<Option<String>> {
        vec![None; self.items.len()]
    }

    /// The statement of an item, or of what stands behind WITH (`None`). `made` has what takes the place of items that write.
    pub fn part(&self, which: Option<usize>, made: &[Option<String>]) -> String {
        let part = which.map_or(&self.main, |at| &self.items[at].part);
        let mut with: Vec<String> = Vec::new();
        for &at in &part.needs {
            let Item { head, how, part, .. } = &self.items[at];
            let body = match made.get(at).and_then(Option::as_ref) {
                Some(rows) => rows.clone(),
                None => part.whole(),
            };
            with.push(format!("{head} AS {how} ({body})"));
        }
        with.extend(part.with.clone());
        match with.is_empty() {
            true => part.text.clone(),
            false => {
                let recursive = if self.recursive { "RECURSIVE " } else { "" };
                format!("WITH {recursive}{} {}", with.join(", "), part.text)
            }
        }
    }

    /// What an item has to read must be there: an item that is not written later.
    fn check_order(&self) -> Result<(), String> {
        for at in self.writers() {
            if self.items[at].part.needs.iter().any(|&need| need >= at && self.items[need].writes) {
                return Err("a WITH query that writes reads a later one that does".to_owned());
            }
        }
        Ok(())
    }

    /// What each part reads and writes, in their order; the last is what stands behind WITH.
    fn parts(&self, ctx: &Context<'_>) -> Result<Vec<Deeds>, String> {
        // Rows that are not known yet.
        let made: Vec<Option<String>> =
            self.items.iter().map(|item| item.writes.then(|| "SELECT NULL".to_owned())).collect();
        let order = self.writers().into_iter().map(Some).chain([None]);
        order.map(|which| deeds(&self.part(which, &made), ctx)).collect()
    }

    /// A query that only reads runs again in each part that names it.
    fn check_again(&self, ctx: &Context<'_>) -> Result<(), String> {
        for at in (0..self.items.len()).filter(|&at| !self.items[at].writes) {
            let named = |part: &Part| usize::from(part.needs.contains(&at));
            let writers = self.items.iter().filter(|item| item.writes).map(|item| named(&item.part));
            if writers.sum::<usize>() + named(&self.main) < 2 {
                continue;
            }
            let made: Vec<Option<String>> =
                self.items.iter().map(|item| item.writes.then(|| "SELECT NULL".to_owned())).collect();
            let facts = analysis(self.part(Some(at), &made).as_bytes(), ctx).facts;
            if facts.access != Access::Read || facts.unrepeatable.is_some() {
                return Err(
                    "a WITH query that two of its parts read may give other rows each time".to_owned()
                );
            }
        }
        Ok(())
    }
}

impl Part {
    fn whole(&self) -> String {
        match &self.with {
            Some(with) => format!("WITH {with} {}", self.text),
            None => self.text.clone(),
        }
    }
}

/// A query of these rows, as texts, with columns of these names and types.
pub fn rows_as_query(columns: &[(String, String)], rows: &[Vec<Option<String>>]) -> String {
    if columns.is_empty() {
        return "SELECT NULL".to_owned();
    }
    let cast = |value: &str, (name, type_name): &(String, String)| {
        format!("{value}::{type_name} AS {}", quote_ident(name))
    };
    if rows.is_empty() {
        let items: Vec<String> = columns.iter().map(|column| cast("NULL", column)).collect();
        return format!("SELECT {} WHERE false", items.join(", "));
    }
    let items = columns.iter().enumerate().map(|(n, column)| cast(&format!("gavel_rows.c{n}"), column));
    let items: Vec<String> = items.collect();
    let names: Vec<String> = (0..columns.len()).map(|n| format!("c{n}")).collect();
    let value =
        |value: &Option<String>| value.as_ref().map_or_else(|| "NULL::text".to_owned(), |v| literal(v));
    let rows = rows.iter().map(|row| format!("({})", row.iter().map(value).collect::<Vec<_>>().join(", ")));
    let rows: Vec<String> = rows.collect();
    format!(
        "SELECT {} FROM (VALUES {}) AS gavel_rows ({})",
        items.join(", "),
        rows.join(", "),
        names.join(", ")
    )
}

/// What a part does.
struct Deeds {
    reads: Vec<Arc<Relation>>,
    /// The relation that it writes, how, and whether that fires triggers.
    writes: Option<(Arc<Relation>, String, bool)>,
}

fn deeds(text: &str, ctx: &Context<'_>) -> Result<Deeds, String> {
    let analysis = analysis(text.as_bytes(), ctx);
    if let Command::Unreadable { complaint } = &analysis.facts.command {
        return Err(complaint.clone());
    }
    if analysis.facts.unknown_name {
        return Err("one of its parts names a relation that is not known".to_owned());
    }
    if analysis.sources.functions_read {
        return Err("it calls a function that reads tables".to_owned());
    }
    let mut reads: Vec<Arc<Relation>> =
        analysis.sources.mentions.iter().map(|mention| Arc::clone(&mention.relation)).collect();
    let t = Tokens::new(text.as_bytes(), ctx.standard_conforming_strings);
    let verb = t.verb().ok_or("one of its parts is not understood")?;
    if !t.is_any(verb, &WRITES) {
        return Ok(Deeds { reads, writes: None });
    }
    let name = verb + if t.is(verb, "update") { 1 } else { 2 };
    let name = name + usize::from(t.is(name, "only"));
    let (schema, name, _) = t.qualified(name).ok_or("the table of one of its parts is not found")?;
    let relation = ctx.schema.lookup(ctx.search_path, schema.as_deref(), &name);
    let relation = relation.ok_or_else(|| format!("{name} is not known"))?;
    if t.is(verb, "insert") && (verb..t.len()).any(|at| t.is(at, "conflict")) {
        reads.push(Arc::clone(&relation));
    }
    let deeds = [Deed::Insert, Deed::Update, Deed::Delete];
    let fires = deeds.iter().any(|deed| ctx.schema.fires(&relation, *deed).is_some());
    Ok(Deeds { reads, writes: Some((relation, t.keyword(verb), fires)) })
}

/// What is written, and what is read behind it.
fn written(parts: &[Deeds]) -> Result<Vec<Written>, String> {
    let mut written = Vec::new();
    for (at, Deeds { writes, .. }) in parts.iter().enumerate() {
        let Some((relation, verb, fires)) = writes else { continue };
        let later = || parts.iter().skip(at + 1).flat_map(|part| &part.reads);
        let is_view = |relation: &Arc<Relation>| relation.kind != RelationKind::Table;
        if let Some(view) = later().find(|relation| is_view(relation)) {
            return Err(format!("{} is read behind a part that writes", view.full_name()));
        }
        if later().next().is_some() && (*fires || is_view(relation)) {
            let name = relation.full_name();
            return Err(format!(
                "what is written to {name} may change other tables, and others are read behind it"
            ));
        }
        let mut read_later: Vec<u32> = later().map(|relation| relation.oid).collect();
        read_later.sort_unstable();
        read_later.dedup();
        if read_later.contains(&relation.oid) {
            return Err(format!("a part of it reads {} behind another that writes it", relation.full_name()));
        }
        written.push(Written {
            oid: relation.oid,
            table: relation.name.clone(),
            verb: verb.clone(),
            read_later,
        });
    }
    Ok(written)
}

const WRITES: [&str; 4] = ["insert", "update", "delete", "merge"];

fn parse(t: &Tokens<'_>, text: &str) -> Result<WithWrites, String> {
    const UNREAD: &str = "its WITH is not understood";
    let recursive = t.is(1, "recursive");
    let mut at = 1 + usize::from(recursive);
    let (mut items, mut names, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let WithItem { word, open, close } = t.with_item(at).ok_or(UNREAD)?;
        let name = t.name(at).ok_or(UNREAD)?.into_owned();
        if names.contains(&name) {
            return Err(format!("WITH has two queries of the name {name}"));
        }
        names.push(name);
        spans.push((open + 1, close));
        let how = if open > word + 1 { t.source(word + 1, open - 1) } else { String::new() };
        let part = part(t, text, (open + 1, close))?;
        let writes = t.part(open + 1, close);
        let writes = writes.verb().is_some_and(|verb| writes.is_any(verb, &WRITES));
        items.push(Item { head: t.source(at, word - 1), how, part, writes });
        at = close + 1;
        if t.is_any(at, &["search", "cycle"]) {
            return Err("SEARCH and CYCLE in its WITH are not taken apart".to_owned());
        }
        if !t.is_mark(at, ",") {
            break;
        }
        at += 1;
    }
    let main = part(t, text, (at, t.len()))?;
    spans.push((at, t.len()));
    let mut with = WithWrites { recursive, items, main, writes: Vec::new() };
    with.find_needs(t, &names, &spans);
    Ok(with)
}

/// The statement between two tokens; a query of it in parentheses stays as it is.
fn part(t: &Tokens<'_>, text: &str, (from, to): (usize, usize)) -> Result<Part, String> {
    let inner = t.part(from, to);
    let verb = inner.verb().ok_or("a part of its WITH is not understood")?;
    let with = match verb {
        0 => None,
        _ if inner.is(1, "recursive") => return Err("WITH RECURSIVE inside of a WITH query".to_owned()),
        _ => Some(inner.source(1, verb - 1)),
    };
    let piece = |range: Option<(usize, usize)>| {
        range.and_then(|(start, end)| text.get(start..end)).map(str::to_owned)
    };
    let start = inner.list.get(verb).map(|token| token.start);
    let end = inner.list.last().map(|token| token.end);
    let text = piece(start.zip(end)).ok_or("a part of its WITH is not understood")?;
    Ok(Part { with, text, needs: Vec::new() })
}

impl WithWrites {
    /// Which items each part names, with what these name.
    fn find_needs(&mut self, t: &Tokens<'_>, names: &[String], spans: &[(usize, usize)]) {
        let named = |&(from, to): &(usize, usize)| -> Vec<usize> {
            let words = (from..to).filter_map(|at| t.name(at));
            let mut found: Vec<usize> =
                words.filter_map(|word| names.iter().position(|name| *name == word)).collect();
            found.sort_unstable();
            found.dedup();
            found
        };
        let direct: Vec<Vec<usize>> = spans.iter().map(named).collect();
        let count = self.items.len();
        for (at, own) in direct.iter().enumerate() {
            let visible = |need: usize| self.recursive || need < at;
            let mut needs: Vec<usize> = Vec::new();
            let mut open: Vec<usize> = own.iter().copied().filter(|&need| visible(need)).collect();
            while let Some(need) = open.pop() {
                if needs.contains(&need) {
                    continue;
                }
                needs.push(need);
                // What takes the place of an item that writes names nothing.
                if !self.items[need].writes {
                    let further = direct[need].iter().copied();
                    open.extend(further.filter(|&next| self.recursive || next < need));
                }
            }
            needs.sort_unstable();
            if at < count { self.items[at].part.needs = needs } else { self.main.needs = needs }
        }
    }
}

#[cfg(test)]
mod tests;
