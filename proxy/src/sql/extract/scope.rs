//! Names in sight: tables of the levels of a query, their columns, common table expressions.
//!
//! Invariant: a name resolves to a key column only if PostgreSQL would resolve it to that column; a name that might
//! mean something else resolves to [`Meaning::Other`].

use super::groups::NodeId;
use crate::sql::gather_shape::Comparable;
use crate::sql::parse::ast::{Cte, Ident};

/// What a column reference means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The key column of a node, seen from the level with this index.
    Key { node: NodeId, level: usize },
    /// Anything else, of the level with this index if that is known.
    Other { level: Option<usize> },
}

/// An output column, or a column of a table.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// As stored; `None` when it has no usable name.
    pub(super) name: Option<String>,
    /// The node whose key it carries.
    pub(super) key: Option<NodeId>,
    /// Its type, where the proxy knows how its values are ordered.
    pub(super) kind: Option<Comparable>,
}

/// An item of FROM under the name that it is known by.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) alias: String,
    /// For `schema.table.column`, when there is no alias.
    pub(super) schema: Option<String>,
    /// `None`: not known.
    pub(super) columns: Option<Vec<Column>>,
    /// Number of the mention whose columns these are, in the order of the table's.
    pub(super) mention: Option<usize>,
}

/// A column that USING or NATURAL made of two.
#[derive(Debug, Clone)]
pub(super) struct Merged {
    pub(super) name: String,
    pub(super) key: Option<NodeId>,
    /// Index of the first source that it spans.
    pub(super) start: usize,
}

/// One query level.
#[derive(Debug, Default)]
pub(super) struct Level {
    pub(super) sources: Vec<Source>,
    /// Columns merged by USING or NATURAL.
    pub(super) merged: Vec<Merged>,
    /// A NATURAL JOIN whose columns are not all known: unqualified names mean nothing certain.
    pub(super) unclear: bool,
    /// Not in sight at present: the FROM items beside a subquery that is not LATERAL.
    pub(super) hidden: bool,
    /// Sharded tables read by FROM, those inside of derived tables included.
    pub(super) nodes: Vec<NodeId>,
    /// Sharded tables read by subqueries of expressions.
    pub(super) sub_nodes: Vec<NodeId>,
    /// A query in FROM has an ORDER BY of its own.
    pub(super) ordered: bool,
    /// An aggregate stands in the select list, HAVING or ORDER BY.
    pub(super) aggregate: Option<String>,
    /// A window function; with it the key nodes that every one of them partitions by.
    pub(super) window: Option<Option<NodeId>>,
}

/// A common table expression in sight.
#[derive(Debug, Clone)]
pub(super) struct Named<'q> {
    pub(super) name: String,
    pub(super) body: Body<'q>,
    /// Levels in sight where it was defined.
    pub(super) depth: usize,
}

/// What a WITH name stands for.
#[derive(Debug, Clone)]
pub(super) enum Body<'q> {
    /// A SELECT: read anew wherever it is named.
    Query(&'q Cte),
    /// Already read: a writing one, or one that refers to itself.
    Output { columns: Option<Vec<Column>>, nodes: Vec<NodeId> },
}

/// The name as PostgreSQL stores it.
pub(super) fn fold(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_ascii_lowercase() }
}

/// Outcome of a look-up in one level.
enum Hit {
    Found(Option<NodeId>),
    /// The level has the name, or may have it.
    Unclear,
    Missing,
}

impl Level {
    fn unqualified(&self, name: &str) -> Hit {
        if self.unclear {
            return Hit::Unclear;
        }
        if let Some(merged) = self.merged.iter().rev().find(|m| m.name == name) {
            return Hit::Found(merged.key);
        }
        let mut found: Option<Option<NodeId>> = None;
        let mut opaque = false;
        for source in &self.sources {
            let Some(columns) = &source.columns else {
                opaque = true;
                continue;
            };
            for column in columns.iter().filter(|c| c.name.as_deref() == Some(name)) {
                if found.is_some() {
                    return Hit::Unclear;
                }
                found = Some(column.key);
            }
        }
        match found {
            Some(key) => Hit::Found(key),
            None if opaque => Hit::Unclear,
            None => Hit::Missing,
        }
    }

    fn qualified(&self, schema: Option<&str>, alias: &str, name: &str) -> Hit {
        let named =
            |s: &&Source| s.alias == alias && schema.is_none_or(|want| s.schema.as_deref() == Some(want));
        let mut sources = self.sources.iter().filter(named);
        let Some(source) = sources.next() else { return Hit::Missing };
        if sources.next().is_some() {
            return Hit::Unclear;
        }
        let Some(columns) = &source.columns else { return Hit::Unclear };
        let mut matches = columns.iter().filter(|c| c.name.as_deref() == Some(name));
        match (matches.next(), matches.next()) {
            (Some(column), None) => Hit::Found(column.key),
            _ => Hit::Unclear,
        }
    }
}

impl Level {
    /// Type of the one column of this level that a reference means, where its order is known.
    pub(super) fn kind(&self, parts: &[Ident]) -> Option<Comparable> {
        let names: Vec<String> = parts.iter().map(fold).collect();
        let (schema, alias, name) = match names.as_slice() {
            [name] => return self.unqualified_kind(name),
            [alias, name] => (None, alias, name),
            [schema, alias, name] => (Some(schema), alias, name),
            _ => return None,
        };
        let named =
            |s: &&Source| s.alias == *alias && schema.is_none_or(|want| s.schema.as_ref() == Some(want));
        only(self.sources.iter().filter(named)).and_then(|source| column_kind(source, name))
    }

    fn unqualified_kind(&self, name: &str) -> Option<Comparable> {
        if self.unclear || self.sources.iter().any(|source| source.columns.is_none()) {
            return None;
        }
        let has = |source: &&Source| source.columns.iter().flatten().any(|c| c.name.as_deref() == Some(name));
        let Some(merged) = self.merged.iter().rev().find(|m| m.name == name) else {
            return only(self.sources.iter().filter(has)).and_then(|source| column_kind(source, name));
        };
        // What USING has made of several columns is of their type, if it is the same.
        let mut kinds =
            self.sources.get(merged.start..)?.iter().filter(has).map(|source| column_kind(source, name));
        let first = kinds.next()??;
        kinds.all(|kind| kind == Some(first)).then_some(first)
    }
}

fn column_kind(source: &Source, name: &str) -> Option<Comparable> {
    only(source.columns.iter().flatten().filter(|c| c.name.as_deref() == Some(name)))?.kind
}

/// The item, if it is the only one.
fn only<T>(items: impl Iterator<Item = T>) -> Option<T> {
    let mut items = items;
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

/// What a column name means, searching from the innermost level outwards.
pub(super) fn resolve(levels: &[Level], parts: &[Ident]) -> Meaning {
    let names: Vec<String> = parts.iter().map(fold).collect();
    for (index, level) in levels.iter().enumerate().rev() {
        if level.hidden {
            continue;
        }
        let hit = match names.as_slice() {
            [name] => level.unqualified(name),
            [alias, name] => level.qualified(None, alias, name),
            [schema, alias, name] => level.qualified(Some(schema), alias, name),
            _ => return Meaning::Other { level: None },
        };
        match hit {
            Hit::Found(Some(node)) => return Meaning::Key { node, level: index },
            Hit::Found(None) | Hit::Unclear => return Meaning::Other { level: Some(index) },
            Hit::Missing => {}
        }
    }
    Meaning::Other { level: None }
}

/// The key that an unqualified name carries among the sources from `start` up to `end` of one level, for USING.
pub(super) fn among(level: &Level, start: usize, end: usize, name: &str) -> Option<NodeId> {
    let merged = level.merged.iter().rev().find(|m| m.name == name && m.start >= start && m.start < end);
    if let Some(merged) = merged {
        return merged.key;
    }
    let mut found = None;
    for source in &level.sources[start..end] {
        for column in source.columns.as_ref()?.iter().filter(|c| c.name.as_deref() == Some(name)) {
            if found.is_some() {
                return None;
            }
            found = Some(column.key);
        }
    }
    found.flatten()
}
