//! UPDATE, DELETE and MERGE that read rows of other shards than those of the rows that they write: the tables that they read are put
//! into the statement as values, whole, so that each shard has all of them.
//!
//! Invariant: every shard gets the same rows in the same order; but for the target nothing is read that is not the same everywhere.

use std::ops::Range;

use super::combine::check_words;
use super::extract::{Analysis, Context, analysis};
use super::facts::{Command, Facts, Modify, Scope};
use super::insert_rows::{literal, type_of};
use super::schema::{Column, Placement};
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
    /// Those of a temporary table.
    columns: Vec<Given>,
}

impl Table {
    /// The query that reads it on one shard: an array of its rows as a text, NULL where that has more than so many bytes, and how many
    /// rows there are. Of a temporary table: an array of the arrays of its columns as texts.
    pub fn query(&self, limit: usize) -> String {
        let (array, bytes) = if self.columns.is_empty() {
            let array = "pg_catalog.array_agg(gavel_rows)".to_owned();
            (array, "gavel_rows::pg_catalog.text".to_owned())
        } else {
            let arrays: Vec<String> = self.columns.iter().map(Given::array).collect();
            let texts: Vec<String> = self.columns.iter().map(Given::text).collect();
            (
                format!("ARRAY[{}]", arrays.join(", ")),
                format!("(ARRAY[{}])::pg_catalog.text", texts.join(", ")),
            )
        };
        format!(
            "SELECT CASE WHEN pg_catalog.sum(pg_catalog.octet_length({bytes})) <= {limit} \
             THEN ({array})::pg_catalog.text END, pg_catalog.count(*) FROM {} AS gavel_rows",
            self.name
        )
    }

    /// In place of its name: its rows out of the text that [`Self::query`] has given.
    fn rows(&self, array: &str) -> String {
        if self.columns.is_empty() {
            return format!("(SELECT * FROM pg_catalog.unnest({}::{}[]))", literal(array), self.name);
        }
        let mut arrays = elements(array).into_iter();
        let given = |column: &Given| column.given(&arrays.next().unwrap_or_else(|| "{}".to_owned()));
        let given: Vec<String> = self.columns.iter().map(given).collect();
        let names: Vec<String> = (1..=self.columns.len()).map(|n| format!("gavel_{n}")).collect();
        let items: Vec<String> =
            self.columns.iter().zip(&names).map(|(column, name)| column.item(name)).collect();
        format!(
            "(SELECT {} FROM ROWS FROM ({}) AS gavel_rows ({}))",
            items.join(", "),
            given.join(", "),
            names.join(", ")
        )
    }
}

/// A column of a temporary table: the type of such a table is not known to the other shards, those of its columns are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    name: String,
    /// Its type, without a modifier.
    type_name: String,
    collation: Option<String>,
    /// Its values travel as an array of its type; otherwise as texts (arrays among them would become one array).
    typed: bool,
}

impl Given {
    fn of(column: &Column) -> Self {
        let odd = ["int2vector", "oidvector", "record"].contains(&column.type_name.as_str());
        let typed = !column.type_name.ends_with("[]") && !odd;
        let collation = column.declared.split_once(" COLLATE ").map(|(_, collation)| collation.to_owned());
        Self { name: column.name.clone(), type_name: type_of(column), collation, typed }
    }

    fn text(&self) -> String {
        format!("gavel_rows.{}::pg_catalog.text", quote_ident(&self.name))
    }

    /// A domain over an array would become part of one array: that has no text which could be read.
    fn array(&self) -> String {
        if !self.typed {
            return format!("pg_catalog.array_agg({})::pg_catalog.text", self.text());
        }
        let all = format!("pg_catalog.array_agg(gavel_rows.{})", quote_ident(&self.name));
        format!("CASE WHEN pg_catalog.array_ndims({all}) = 1 THEN ({all})::pg_catalog.text END")
    }

    fn given(&self, array: &str) -> String {
        let type_name = if self.typed { &self.type_name } else { "pg_catalog.text" };
        format!("pg_catalog.unnest({}::{type_name}[])", literal(array))
    }

    fn item(&self, value: &str) -> String {
        let cast = if self.typed { String::new() } else { format!("::{}", self.type_name) };
        let collation = self.collation.as_ref().map_or(String::new(), |name| format!(" COLLATE {name}"));
        format!("{value}{cast}{collation} AS {}", quote_ident(&self.name))
    }
}

/// The elements of an array of texts of one dimension, as PostgreSQL writes it.
fn elements(array: &str) -> Vec<String> {
    let inner = array.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    let mut found: Vec<String> = Vec::new();
    let (mut element, mut quoted, mut letters) = (String::new(), false, inner.chars());
    while let Some(letter) = letters.next() {
        match letter {
            '"' => quoted = !quoted,
            '\\' => element.extend(letters.next()),
            ',' if !quoted => found.push(std::mem::take(&mut element)),
            other => element.push(other),
        }
    }
    if !inner.is_empty() {
        found.push(element);
    }
    found
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
            out.push_str(&table.rows(rows));
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
                let columns = relation.columns.iter().filter(|_| relation.is_temporary());
                let columns = columns.map(Given::of).collect();
                self.tables.push(Table { name, sharded, columns });
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
    let verb = t.verb()?;
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
