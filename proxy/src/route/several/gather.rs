//! Reads of several shards whose rows are merged: in the order of ORDER BY, from OFFSET to LIMIT.
//!
//! Each shard is sent the statement with the values that it orders by at the end of the select list, where the result does not
//! have them already, and with a LIMIT that lets all rows through which may be among those wanted.

use std::ops::Range;
use std::sync::Arc;

use router_config::key::{KeyType, KeyValue};

use crate::route::key::{self, KeyOutcome, Usage};
use crate::route::origins::Origins;
use crate::route::place::Case;
use crate::route::plan::{Fold, Gather, GatherKey, KeyColumn, Limited, ShardSet, Target};
use crate::route::refusal::Refusal;
use crate::sql::facts::{Access, Command, ValueRef};
use crate::sql::gather_shape::{Bound, FoldShape, GatherShape, KeySource, SortKey};
use crate::sql::normalise::identifiers;

/// How many rows a clause asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    /// It says nothing.
    All,
    /// So many.
    Some(u64),
    /// PostgreSQL will complain.
    Wrong,
}

/// A change of the text.
struct Edit {
    at: Range<usize>,
    text: String,
}

impl Case<'_> {
    /// The rows of these shards, put in order and cut once for all of them.
    pub(super) fn gathered(&self, shape: &GatherShape, shards: ShardSet) -> Result<Target, Refusal> {
        let refused = || Refusal::needs_merge(shape.what());
        let cuts = shape.limit.is_some() || shape.offset.is_some();
        if cuts && !matches!(self.facts.access, Access::Read) && !self.may_lock_more(shape) {
            return self.limited(shape, shards);
        }
        let limit = self.rows(shape.limit.as_ref())?.ok_or_else(refused)?;
        let offset = self.rows(shape.offset.as_ref())?.ok_or_else(refused)?;
        let (limit, offset) = match (limit, offset) {
            (Rows::Wrong, _) | (_, Rows::Wrong) => return Ok(Target::Concat(shards)),
            (Rows::All, offset) => (None, offset.or_none()),
            (Rows::Some(limit), offset) => (Some(limit), offset.or_none()),
        };
        if shape.keys.is_empty() && shape.folds.is_empty() && limit.is_none() && offset == 0 {
            return Ok(Target::Concat(shards));
        }
        let mut hidden = Hidden::default();
        let keys: Option<_> = shape.keys.iter().map(|key| self.key(key, &mut hidden)).collect();
        let folds: Option<_> = shape.folds.iter().map(|fold| self.fold(fold, &mut hidden)).collect();
        let (Some(keys), Some(folds)) = (keys, folds) else { return Err(refused()) };
        let mut edits = Vec::new();
        if hidden.count > 0 {
            let at = self.values.here(shape.list_end);
            edits.push(Edit { at: at..at, text: hidden.list });
        }
        if offset > 0 {
            if let (Some(limit), Some(bound)) = (limit, &shape.limit) {
                let most = limit.saturating_add(offset).min(i64::MAX as u64);
                edits.push(self.bounded(bound, most));
            }
            edits.extend(shape.offset.as_ref().map(|bound| self.bounded(bound, 0)));
        }
        let text = match edits.is_empty() {
            true => None,
            false => Some(self.edited(edits).ok_or_else(refused)?),
        };
        Ok(Target::Gather(
            shards,
            Arc::new(Gather { text, hidden: hidden.count, keys, folds, offset, limit }),
        ))
    }

    /// FOR UPDATE with an order: each shard locks as many rows as are wanted of all, since any of them may be among these. One that
    /// NOWAIT could not lock may not be wanted.
    fn may_lock_more(&self, shape: &GatherShape) -> bool {
        let locks = matches!(&self.facts.access, Access::ReadPrimary(why) if why.starts_with("FOR UPDATE"));
        let mut nowait = false;
        identifiers(self.values.statement(), self.values.rules.standard_strings, false, &mut |name| {
            nowait |= name == "nowait";
        });
        let query = matches!(self.facts.command, Command::Query);
        locks && !nowait && query && !shape.keys.is_empty() && shape.folds.is_empty()
    }

    /// LIMIT with FOR UPDATE or a volatile function: a lock on a row that is not among those wanted would be one too many.
    fn limited(&self, shape: &GatherShape, shards: ShardSet) -> Result<Target, Refusal> {
        let refused = || Refusal::needs_merge("LIMIT or OFFSET with FOR UPDATE or the like");
        let any = shape.keys.is_empty() && shape.folds.is_empty() && shape.offset.is_none();
        let bound = shape.limit.as_ref().filter(|bound| bound.term.is_some()).ok_or_else(refused)?;
        if !any || !matches!(self.facts.command, Command::Query) || self.facts.effects.sequence {
            return Err(refused());
        }
        let limit = match self.rows(Some(bound))?.ok_or_else(refused)? {
            Rows::Some(limit) => limit,
            Rows::All | Rows::Wrong => return Ok(Target::Concat(shards)),
        };
        let whole = std::str::from_utf8(self.values.statement()).map_err(|_| refused())?;
        let at = self.values.here(bound.at.start)..self.values.here(bound.at.end);
        let (head, tail) = (whole.get(..at.start), whole.get(at.end..));
        let (head, tail) = head.zip(tail).ok_or_else(refused)?;
        let (head, tail) = (head.to_owned(), (tail.to_owned(), at.end));
        Ok(Target::Limited(Box::new(Limited { shards, head, param: parameter(bound), tail, limit })))
    }

    /// `None`: it cannot be told.
    fn rows(&self, bound: Option<&Bound>) -> Result<Option<Rows>, Refusal> {
        let Some(bound) = bound else { return Ok(Some(Rows::All)) };
        let Some(term) = &bound.term else { return Ok(Some(Rows::Some(1))) };
        Ok(match key::key_of(term, KeyType::Int8, self.values, Usage::Assign(None))? {
            KeyOutcome::Key(KeyValue::Int(rows)) => Some(u64::try_from(rows).map_or(Rows::Wrong, Rows::Some)),
            KeyOutcome::Null => Some(Rows::All),
            KeyOutcome::Key(_) | KeyOutcome::NoRow | KeyOutcome::Unknown(_) => None,
        })
    }

    /// Where a value is that rows are ordered by.
    fn key(&self, key: &SortKey, hidden: &mut Hidden) -> Option<GatherKey> {
        let SortKey { order, output, source } = key;
        let direct = output.filter(|_| order.kind.is_direct(self.values.rules.utf8));
        let column = match (direct, source) {
            (Some(index), _) => KeyColumn::Output(index),
            (None, KeySource::OutputOnly) => return None,
            (None, KeySource::Text(at)) => {
                let at = self.values.here(at.start)..self.values.here(at.end);
                let e = std::str::from_utf8(self.values.statement().get(at)?).ok()?;
                hidden.add(&order.kind.key_of(&on_its_own_line(e)))
            }
            (None, KeySource::Sql(e)) => hidden.add(&order.kind.key_of(e)),
        };
        Some(GatherKey { order: *order, column })
    }

    fn fold(&self, fold: &FoldShape, hidden: &mut Hidden) -> Option<Fold> {
        Some(match fold {
            FoldShape::Integers => Fold::Integers,
            FoldShape::Numerics => Fold::Numerics,
            FoldShape::First(key) => Fold::First(self.key(key, hidden)?),
        })
    }

    /// Another number of rows in place of the one that is written. What is a parameter stays one.
    fn bounded(&self, bound: &Bound, rows: u64) -> Edit {
        let text = rows_in_sql(parameter(bound), rows);
        Edit { at: self.values.here(bound.at.start)..self.values.here(bound.at.end), text }
    }

    /// The statement with these changes.
    fn edited(&self, edits: Vec<Edit>) -> Option<(String, Origins)> {
        let mut edits = edits;
        edits.sort_by_key(|edit| edit.at.start);
        let whole = std::str::from_utf8(self.values.statement()).ok()?;
        let mut text = String::with_capacity(whole.len() + 64);
        let mut origins = Origins::default();
        let mut copied = 0;
        for edit in edits {
            let piece = whole.get(copied..edit.at.start)?;
            origins.copied(text.len(), piece.len(), copied);
            text.push_str(piece);
            text.push_str(&edit.text);
            copied = edit.at.end;
        }
        let rest = whole.get(copied..)?;
        origins.copied(text.len(), rest.len(), copied);
        text.push_str(rest);
        Some((text, origins))
    }
}

fn parameter(bound: &Bound) -> Option<u16> {
    match bound.term.as_ref()?.value {
        ValueRef::Param(number) => Some(number),
        ValueRef::Literal(_) | ValueRef::Null | ValueRef::Default | ValueRef::Computed => None,
    }
}

/// A number of rows; what is a parameter stays one.
fn rows_in_sql(param: Option<u16>, rows: u64) -> String {
    match param {
        Some(number) => format!(" (${number}::pg_catalog.int8 * 0 + {rows}) "),
        None => format!(" {rows} "),
    }
}

impl Limited {
    /// The statement for so many rows, and where its pieces stand in the original.
    pub fn text(&self, rows: u64) -> (String, Origins) {
        let (tail, at) = &self.tail;
        let front = format!("{}{}", self.head, rows_in_sql(self.param, rows));
        let mut origins = Origins::default();
        origins.copied(0, self.head.len(), 0);
        origins.copied(front.len(), tail.len(), *at);
        (front + tail, origins)
    }
}

impl Rows {
    fn or_none(self) -> u64 {
        match self {
            Self::Some(rows) => rows,
            Self::All | Self::Wrong => 0,
        }
    }
}

/// A comment of the application's ends with its line.
fn on_its_own_line(e: &str) -> String {
    if e.contains("--") { format!("{e}\n") } else { e.to_owned() }
}

/// Columns that are not the application's, as they are put into a select list.
#[derive(Default)]
struct Hidden {
    list: String,
    count: u16,
}

impl Hidden {
    fn add(&mut self, e: &str) -> KeyColumn {
        self.count += 1;
        self.list.push_str(&format!(", {e} AS gavel_key_{}", self.count));
        KeyColumn::Hidden(usize::from(self.count) - 1)
    }
}
