//! DDL that makes a table and fills it, or changes names, columns or the key of one that exists: what the table will be, for the
//! planner to hold against the rules of the configuration.

use std::sync::Arc;

use super::Context;
use crate::sql::clocks::is_clock;
use crate::sql::facts::{Facts, Reshaped};
use crate::sql::schema::{Placement, Relation, RelationKind};
use crate::sql::tokens::Tokens;
use router_config::key::KeyType;

/// Adds to `facts` what the DDL makes of tables.
pub(super) fn note(t: &Tokens<'_>, ctx: &Context<'_>, facts: &mut Facts) {
    if t.is(0, "create") {
        facts.reshaped.extend(created(t, ctx));
    } else if t.is(0, "alter") && t.is_any(1, &["table", "foreign"]) {
        let at = 2 + usize::from(t.is(1, "foreign"));
        alter_table(t, ctx, at, facts);
    } else if t.is(0, "alter") && t.is(1, "schema") && t.is(3, "rename") {
        let (Some(old), Some(new)) = (t.name(2), t.name(5)) else { return };
        let inside = ctx.schema.relations.values().filter(|relation| relation.schema == *old);
        facts.reshaped.extend(inside.map(|relation| Reshaped { schema: new.to_string(), ..as_is(relation) }));
        facts.reshaped.retain(|table| table.relation.as_ref().is_some_and(|relation| is_table(relation)));
    }
}

/// CREATE TABLE … AS, unless it makes no rows.
fn created(t: &Tokens<'_>, ctx: &Context<'_>) -> Option<Reshaped> {
    let mut at = 1;
    while t.is_any(at, &["unlogged", "global", "local"]) {
        at += 1;
    }
    if !t.is(at, "table") {
        return None;
    }
    at += 1;
    while t.is_any(at, &["if", "not", "exists"]) {
        at += 1;
    }
    let (schema, name, next) = t.qualified(at)?;
    let empty = t.len() > 2 && t.is(t.len() - 1, "data") && t.is(t.len() - 2, "no");
    let fills = (next..t.len()).any(|at| {
        let query = ["select", "with", "values", "table", "execute"];
        t.is(at, "as") && (t.is_any(at + 1, &query) || t.is_mark(at + 1, "("))
    });
    // Of a column's definition (`GENERATED ALWAYS AS (…)`) it is none.
    let columns_only = t.is_mark(next, "(") && t.closing(next).is_none_or(|close| close + 1 >= t.len());
    if !fills || empty || columns_only {
        return None;
    }
    let mut made = filled(t, ctx, (schema, &name), false)?;
    if let Some(close) = t.closing(next).filter(|_| t.is_mark(next, "(")) {
        made.columns = (next + 1..close).filter_map(|at| t.name(at)).map(|name| name.into_owned()).collect();
    }
    Some(made)
}

/// A table made out of a query. Its columns may be all that the statement names, and with `*` all of those of the tables read.
pub(super) fn filled(
    t: &Tokens<'_>,
    ctx: &Context<'_>,
    (schema, name): (Option<String>, &str),
    temporary: bool,
) -> Option<Reshaped> {
    if temporary {
        return None;
    }
    let schema = schema.unwrap_or_else(|| {
        let known = ctx.schema.schemas();
        let first = ctx.search_path.iter().find(|schema| known.contains(&schema.as_str()));
        first.or(ctx.search_path.last()).cloned().unwrap_or_default()
    });
    let mut columns: Vec<String> =
        (0..t.len()).filter_map(|at| t.name(at)).map(|name| name.into_owned()).collect();
    let star = (0..t.len()).any(|at| t.is_mark(at, "*") || t.is(at, "table") || t.is(at, "execute"));
    if star {
        let named: Vec<String> = columns.clone();
        let read = ctx.schema.relations.values().filter(|relation| named.contains(&relation.name));
        columns.extend(read.flat_map(|relation| relation.columns.iter().map(|column| column.name.clone())));
    }
    Some(Reshaped { relation: None, schema, name: name.to_owned(), columns })
}

fn as_is(relation: &Arc<Relation>) -> Reshaped {
    Reshaped {
        relation: Some(Arc::clone(relation)),
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        columns: relation.columns.iter().map(|column| column.name.clone()).collect(),
    }
}

fn is_table(relation: &Relation) -> bool {
    matches!(relation.kind, RelationKind::Table | RelationKind::Foreign)
}

fn alter_table(t: &Tokens<'_>, ctx: &Context<'_>, mut at: usize, facts: &mut Facts) {
    while t.is_any(at, &["if", "exists", "only", "table"]) {
        at += 1;
    }
    let Some((schema, name, mut at)) = t.qualified(at) else { return };
    let found = ctx.schema.lookup(ctx.search_path, schema.as_deref(), &name);
    facts.unknown_name |= found.is_none();
    let Some(relation) = found.filter(|relation| is_table(relation)) else { return };
    at += usize::from(t.is_mark(at, "*"));
    let mut table = as_is(&relation);
    for (from, to) in t.items(at, t.len()) {
        if let Some(why) = action(t, ctx, (from, to), &mut table) {
            facts.barred.get_or_insert(why);
        }
    }
    let detached = t.is(at, "detach") || (t.is(at, "no") && t.is(at + 1, "inherit"));
    if detached {
        let child = if t.is(at, "detach") { t.qualified(at + 2) } else { None };
        let child = child.and_then(|(s, n, _)| ctx.schema.lookup(ctx.search_path, s.as_deref(), &n));
        table = as_is(&child.unwrap_or(relation));
    }
    facts.reshaped.push(table);
}

/// Applies one action; why it is barred, if it is.
fn action(
    t: &Tokens<'_>,
    ctx: &Context<'_>,
    (from, to): (usize, usize),
    table: &mut Reshaped,
) -> Option<String> {
    let skip = |mut at: usize, words: &[&str]| {
        while t.is_any(at, words) {
            at += 1;
        }
        at
    };
    match t.keyword(from).as_str() {
        "rename" if t.is(from + 1, "to") => table.name = t.name(from + 2)?.into_owned(),
        "rename" if !t.is(from + 1, "constraint") => {
            let at = skip(from + 1, &["column"]);
            let (old, new) = (t.name(at)?, t.name(at + 2)?);
            table.columns.iter_mut().filter(|column| **column == *old).for_each(|c| *c = new.to_string());
        }
        "set" if t.is(from + 1, "schema") => table.schema = t.name(from + 2)?.into_owned(),
        "add" => {
            let constraint = ["constraint", "primary", "unique", "foreign", "check", "exclude"];
            if !t.is_any(from + 1, &constraint) {
                if let Some(why) = filled_apart(t, ctx, (from, to), table) {
                    return Some(why);
                }
                let at = skip(from + 1, &["column", "if", "not", "exists"]);
                table.columns.push(t.name(at)?.into_owned());
            }
        }
        "drop" if !t.is(from + 1, "constraint") => {
            let name = t.name(skip(from + 1, &["column", "if", "exists"]))?;
            table.columns.retain(|column| *column != *name);
        }
        "alter" if !t.is(from + 1, "constraint") => {
            let at = skip(from + 1, &["column"]);
            let name = t.name(at)?;
            let at = at + 1 + if t.is(at + 1, "set") && t.is(at + 2, "data") { 2 } else { 0 };
            if t.is(at, "type") {
                return retyped(t, (at + 1, to), table, &name);
            }
        }
        "attach" | "inherit" => {
            let at = from + if t.is(from, "attach") { 2 } else { 1 };
            let (schema, name, _) = t.qualified(at)?;
            let other = ctx.schema.lookup(ctx.search_path, schema.as_deref(), &name)?;
            let own = table.relation.as_ref()?;
            let alike = std::mem::discriminant(&own.placement) == std::mem::discriminant(&other.placement)
                && own.key_type() == other.key_type();
            return (!alike).then(|| {
                format!("{} and {} are tables of different kinds", own.full_name(), other.full_name())
            });
        }
        _ => {}
    }
    None
}

/// ADD COLUMN whose default the shards would draw each for itself for the rows that are there. What serial and identity columns of
/// sharded tables draw is put right behind the statement.
fn filled_apart(
    t: &Tokens<'_>,
    ctx: &Context<'_>,
    (from, to): (usize, usize),
    table: &Reshaped,
) -> Option<String> {
    const DRAWN: [&str; 8] =
        ["serial", "serial2", "serial4", "serial8", "bigserial", "smallserial", "identity", "nextval"];
    let relation = table.relation.as_ref()?;
    let reference = match relation.placement {
        Placement::Reference => true,
        Placement::Sharded { .. } => false,
        Placement::View { .. } | Placement::Unsharded | Placement::Catalog => return None,
    };
    let volatile = |at: usize, name: &str| {
        t.is_mark(at + 1, "(") && ctx.schema.function(name).is_some_and(|function| function.volatile)
    };
    let differs = |at: &usize| {
        let name = t.keyword(*at);
        let default = (from..*at).any(|before| t.is(before, "default"));
        let varies = default && !name.is_empty() && (is_clock(&name) || volatile(*at, &name));
        let clock = default && is_clock(&name);
        name == "nextval" || clock || (reference && (DRAWN.contains(&name.as_str()) || varies))
    };
    let at = (from..to).find(differs)?;
    Some(format!(
        "{} gives the rows of {} that are there other values on each shard: add the column without it, and set the default then",
        t.keyword(at),
        relation.full_name()
    ))
}

/// ALTER COLUMN … TYPE of the key: equal values must hash alike before and after.
fn retyped(t: &Tokens<'_>, (from, to): (usize, usize), table: &Reshaped, column: &str) -> Option<String> {
    let relation = table.relation.as_ref()?;
    let Placement::Sharded { key_column, key_type } = relation.placement else { return None };
    if relation.columns.get(key_column)?.name != column {
        return None;
    }
    let written = t.source(from, to.checked_sub(1)?).to_lowercase();
    let same: &[&str] = match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => {
            &["smallint", "int2", "integer", "int", "int4", "bigint", "int8"]
        }
        KeyType::Text => &["text", "varchar", "character varying"],
        KeyType::Numeric => &["numeric", "decimal"],
        KeyType::Bpchar => &["bpchar"],
        KeyType::Uuid => &["uuid"],
        KeyType::Date => &["date"],
        KeyType::Timestamptz => &["timestamptz", "timestamp with time zone"],
    };
    (!same.contains(&written.as_str())).then(|| {
        format!(
            "the new type of the shard key of {} may change the keys of rows or their hash",
            relation.full_name()
        )
    })
}
