//! UPDATE, DELETE and MERGE that read rows of other shards than those of the rows that they write: the tables that they read are put
//! into the statement as values, whole, so that each shard has all of them.
//!
//! Invariant: every shard gets the same rows in the same order; but for the target nothing is read that is not the same everywhere.

use std::ops::Range;

use super::combine::check_words;
use super::extract::{Analysis, Context, analysis};
use super::facts::{Command, Facts, Modify, Scope};
use super::insert_rows::literal;
use super::schema::Placement;
use super::sources::{Mention, Sources};
use super::spelling::quote_ident;
use super::tokens::Tokens;

/// A statement with the places where rows are put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broadcast {
    text: String,
    /// Mentions in order: where, which of the tables, and its name where the statement gives no alias.
    places: Vec<(Range<usize>, usize, Option<String>)>,
    /// The tables that are read.
    pub tables: Vec<Table>,
}

/// A table that is read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `"schema"."name"`.
    pub name: String,
    /// Its rows are on all shards; otherwise on the home shard.
    pub sharded: bool,
}

impl Table {
    /// The query that reads it on one shard: an array of its rows as a text, NULL where that has more than so many bytes, and how many
    /// rows there are.
    pub fn query(&self, limit: usize) -> String {
        format!(
            "SELECT CASE WHEN pg_catalog.sum(pg_catalog.octet_length(gavel_rows::pg_catalog.text)) <= {limit} \
             THEN pg_catalog.array_agg(gavel_rows)::pg_catalog.text END, pg_catalog.count(*) FROM {} AS gavel_rows",
            self.name
        )
    }
}

/// What a statement needs; the error says what stands in the way.
pub fn shape(text: &str, ctx: &Context<'_>) -> Result<Broadcast, String> {
    let Analysis { facts, sources, .. } = analysis(text.as_bytes(), ctx);
    let tokens = Tokens::new(text.as_bytes(), ctx.standard_conforming_strings);
    let (name, only) = target(&tokens).ok_or("its target is not found")?;
    let is_target = |mention: &&Mention| mention.at.start == name;
    let written = sources.mentions.iter().find(is_target).map(|mention| &mention.relation);
    let reference = written.is_some_and(|written| written.placement == Placement::Reference);
    fit(&facts, &sources, reference)?;
    check_words(&tokens, &sources.mentions, only)?;
    let mut broadcast = Broadcast { text: text.to_owned(), places: Vec::new(), tables: Vec::new() };
    for mention in sources.mentions.iter().filter(|mention| !is_target(mention)) {
        broadcast.place(mention, &tokens)?;
    }
    broadcast.places.sort_by_key(|(at, ..)| at.start);
    broadcast.places.dedup();
    if broadcast.places.is_empty() { Err("it reads no other table".to_owned()) } else { Ok(broadcast) }
}

impl Broadcast {
    /// The statement with these rows, an array as a text for each table.
    pub fn with(&self, rows: &[String]) -> String {
        let mut out = String::with_capacity(self.text.len() + rows.iter().map(String::len).sum::<usize>());
        let mut copied = 0;
        for (at, table, alias) in &self.places {
            out.push_str(self.text.get(copied..at.start).unwrap_or_default());
            let (Some(rows), Some(table)) = (rows.get(*table), self.tables.get(*table)) else { continue };
            let (rows, name) = (literal(rows), &table.name);
            out.push_str(&format!("(SELECT * FROM pg_catalog.unnest({rows}::{name}[]))"));
            if let Some(alias) = alias {
                out.push_str(&format!(" AS {}", quote_ident(alias)));
            }
            copied = at.end;
        }
        out.push_str(self.text.get(copied..).unwrap_or_default());
        out
    }

    fn place(&mut self, mention: &Mention, tokens: &Tokens<'_>) -> Result<(), String> {
        let relation = &mention.relation;
        let sharded = match &relation.placement {
            Placement::Sharded { .. } | Placement::View { key_column: Some(_), .. } => true,
            Placement::Unsharded => false,
            Placement::Reference => return Ok(()),
            Placement::View { key_column: None, .. } | Placement::Catalog => {
                return Err(format!("{} has other rows on each shard", relation.full_name()));
            }
        };
        if mention.at.is_empty() {
            return Err(format!("the place of {} is not known", relation.full_name()));
        }
        let named = is_named(mention, tokens);
        if mention.qualified && !named && has_whole_names(mention, tokens) {
            return Err(format!("columns of {} are named with its schema", relation.full_name()));
        }
        let name = format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name));
        let table = match self.tables.iter().position(|table| table.name == name) {
            Some(known) => known,
            None => {
                self.tables.push(Table { name, sharded });
                self.tables.len() - 1
            }
        };
        let alias = (!named).then(|| relation.name.clone());
        self.places.push((mention.at.clone(), table, alias));
        Ok(())
    }
}

/// `reference`: it writes a reference table, the same rows on every shard.
fn fit(facts: &Facts, sources: &Sources, reference: bool) -> Result<(), String> {
    let why = match (&facts.command, &facts.scope) {
        (Command::Modify(Modify::Update | Modify::Delete | Modify::Merge), Scope::Sharded(sharded)) => {
            match sharded {
                _ if sharded.writes_reference && !reference => "it writes a reference table",
                _ if sharded.updates_key => "it updates the shard key",
                _ if sources.locks => "it locks rows",
                _ if sources.functions_read => "it calls a function that reads tables",
                _ => return Ok(()),
            }
        }
        (Command::Modify(Modify::Update | Modify::Delete | Modify::Merge), Scope::Unknown { .. })
            if sources.mixed_keys && !sources.locks && !sources.functions_read =>
        {
            return Ok(());
        }
        _ => "it is no UPDATE or DELETE of a sharded table",
    };
    Err(why.to_owned())
}

/// First byte of the name of the table that is written, and the index of ONLY in front of it.
fn target(t: &Tokens<'_>) -> Option<(usize, Option<usize>)> {
    let verb = if t.is(0, "with") {
        let mut depth = 0_usize;
        (0..t.len()).find(|&at| {
            depth += usize::from(t.is_mark(at, "("));
            depth = depth.saturating_sub(usize::from(t.is_mark(at, ")")));
            depth == 0 && t.is_any(at, &["update", "delete", "merge"])
        })?
    } else {
        0
    };
    let name = if t.is(verb, "update") { verb + 1 } else { verb + 2 };
    let only = t.is(name, "only").then_some(name);
    let name = name + usize::from(only.is_some());
    Some((t.list.get(name)?.start, only))
}

/// Whether `schema.table.column` occurs.
fn has_whole_names(mention: &Mention, t: &Tokens<'_>) -> bool {
    let relation = &mention.relation;
    (0..t.len()).any(|at| {
        t.name(at).is_some_and(|name| name == relation.schema)
            && t.is_mark(at + 1, ".")
            && t.name(at + 2).is_some_and(|name| name == relation.name)
            && t.is_mark(at + 3, ".")
    })
}

/// Whether an alias stands behind the name.
fn is_named(mention: &Mention, t: &Tokens<'_>) -> bool {
    let next = t.list.partition_point(|token| token.start < mention.at.end);
    let same = || t.name(next).is_some_and(|name| name == mention.alias);
    mention.renamed || mention.alias != mention.relation.name || t.is(next, "as") || same()
}

#[cfg(test)]
mod tests;
