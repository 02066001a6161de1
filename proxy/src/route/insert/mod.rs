//! INSERT … VALUES on a sharded table: each row goes to the shard of its key.
//!
//! Invariants: the parts of a split hold every row exactly once, in the order of the original; nothing but rows,
//! parameter numbers and drawn keys differs from the text of the application.

use router_config::key::KeyValue;
use router_config::topology::ShardId;

use super::convert;
use super::key::{self, KeyOutcome, Usage};
use super::locate::Located;
use super::place::Case;
use super::plan::{Draw, Part, Reason, Target};
use super::refusal::Refusal;
use super::splice;
use crate::sql::facts::{Access, Command, InsertShape, Modify, Sharded, ValueRef};

/// Places the rows of `shape`. `rest` says where the other tables of the statement are and, on the second call after a
/// draw, the drawn keys.
pub(super) fn place(
    case: &Case<'_>,
    sharded: &Sharded,
    shape: &InsertShape,
    rest: (Located, Option<&[String]>),
) -> Result<(Target, Reason), Refusal> {
    let (located, drawn) = rest;
    let defaults = shape.rows.iter().filter(|row| row.key.value == ValueRef::Default).count();
    let Some(keys) = keys_of_rows(case, sharded, shape, drawn)? else {
        return Ok((Target::One(case.home()), Reason::Rows { count: shape.rows.len() }));
    };
    if defaults > 0 && drawn.is_none() {
        return draw(case, shape, defaults);
    }
    let mut parts: Vec<(ShardId, Vec<usize>)> = Vec::new();
    for (row, key) in keys.iter().enumerate() {
        let shard = key.as_ref().map_or(case.home(), |key| case.topology.owner(key));
        match parts.binary_search_by_key(&shard, |part| part.0) {
            Ok(at) => parts[at].1.push(row),
            Err(at) => parts.insert(at, (shard, vec![row])),
        }
    }
    let elsewhere = match &located {
        Located::Nowhere => false,
        Located::Shards { shards, .. } => !(shards.len() == 1 && parts.len() == 1 && shards[0] == parts[0].0),
        Located::All { .. } | Located::Apart { .. } => true,
    };
    if elsewhere {
        return Err(Refusal::not_joined_on_key(None));
    }
    let reason = match keys.as_slice() {
        [Some(key)] => Reason::Key { key: key.clone(), slot: case.topology.slot_of(key) },
        rows => Reason::Rows { count: rows.len() },
    };
    match parts.as_slice() {
        [] => Err(Refusal::not_placed("INSERT without rows")),
        [(shard, _)] if defaults == 0 => Ok((Target::One(*shard), reason)),
        [_] => Ok((Target::Split(split(case, shape, &parts, drawn)?), reason)),
        _ => {
            may_split(case, sharded)?;
            Ok((Target::Split(split(case, shape, &parts, drawn)?), reason))
        }
    }
}

/// The key of each row; `None` for one that is still to be drawn. `None` for all where one is a NULL that PostgreSQL
/// refuses on any shard.
fn keys_of_rows(
    case: &Case<'_>,
    sharded: &Sharded,
    shape: &InsertShape,
    drawn: Option<&[String]>,
) -> Result<Option<Vec<Option<KeyValue>>>, Refusal> {
    let null_key =
        || if sharded.rejects_null { Ok(None) } else { Err(Refusal::null_key(case.first_table())) };
    let mut drawn = drawn.map(<[String]>::iter);
    let mut keys = Vec::with_capacity(shape.rows.len());
    for (n, row) in shape.rows.iter().enumerate() {
        if row.key.value == ValueRef::Default {
            if shape.draw.is_none() {
                return null_key();
            }
            let key = match &mut drawn {
                None => None,
                Some(drawn) => {
                    let spelled =
                        drawn.next().ok_or_else(|| Refusal::insert_key(n, "no value was drawn for it"))?;
                    Some(drawn_key(sharded, spelled, n)?)
                }
            };
            keys.push(key);
            continue;
        }
        match key::key_of(&row.key, sharded.key_type, case.values, Usage::Assign(sharded.modifier))? {
            KeyOutcome::Key(key) => keys.push(Some(key)),
            KeyOutcome::Null => return null_key(),
            KeyOutcome::NoRow => {
                return Err(Refusal::insert_key(n, "the value is not one of the key column's type"));
            }
            KeyOutcome::Unknown(why) => return Err(Refusal::insert_key(n, why)),
        }
    }
    Ok(Some(keys))
}

fn drawn_key(sharded: &Sharded, spelled: &str, row: usize) -> Result<KeyValue, Refusal> {
    let key = sharded.key_type.parse_text(spelled).map_err(|error| {
        convert::complaint(sharded.key_type, &error)
            .unwrap_or_else(|| Refusal::insert_key(row, "the drawn value depends on the session's settings"))
    })?;
    if key.is_stored_by(sharded.modifier) {
        Ok(key)
    } else {
        Err(Refusal::insert_key(row, convert::CHANGED_BY_STORING))
    }
}

fn draw(case: &Case<'_>, shape: &InsertShape, rows: usize) -> Result<(Target, Reason), Refusal> {
    match &case.facts.command {
        Command::Explain if case.facts.access != Access::Write => {
            return Ok((Target::One(case.home()), Reason::Rows { count: shape.rows.len() }));
        }
        Command::Modify(_) | Command::Query => {}
        _ => return Err(Refusal::insert_key(0, "the key is left to its default, which is not known here")),
    }
    let Some(draw) = &shape.draw else {
        return Err(Refusal::insert_key(0, "the key has no default"));
    };
    let default = &draw.default;
    let sql = match rows {
        1 => format!("SELECT ({default})::text"),
        _ => format!("SELECT ({default})::text FROM pg_catalog.generate_series(1, {rows})"),
    };
    Ok((Target::Draw(Draw { sql, rows, with_params: false }), Reason::Rows { count: shape.rows.len() }))
}

/// Whether rows of one statement may be inserted on several shards.
fn may_split(case: &Case<'_>, sharded: &Sharded) -> Result<(), Refusal> {
    case.fires_for_rows(sharded, "INSERT")?;
    match &case.facts.command {
        Command::Modify(Modify::Insert) => {}
        Command::Explain => {
            return Err(Refusal::several_shards("EXPLAIN", "The rows belong to several shards."));
        }
        _ => return Err(Refusal::several_shards("this INSERT", "The rows belong to several shards.")),
    }
    if !case.session.two_phase {
        return Err(Refusal::two_phase_off("an INSERT of rows of several shards"));
    }
    match case.clock().or_else(|| case.hidden_clock()) {
        Some(what) => Err(Refusal::unrepeatable(
            &what,
            "All rows of one INSERT have the same time; each shard has its own.",
        )),
        None => Ok(()),
    }
}

fn split(
    case: &Case<'_>,
    shape: &InsertShape,
    parts: &[(ShardId, Vec<usize>)],
    drawn: Option<&[String]>,
) -> Result<Vec<Part>, Refusal> {
    let source = splice::Source::new(case.values, shape, drawn.unwrap_or_default())?;
    let parts = parts.iter().map(|(shard, rows)| {
        let (text, params, origins) = source.part(rows);
        let rows = rows.iter().filter_map(|&row| u32::try_from(row).ok()).collect();
        Part { shard: *shard, text, params, rows, origins }
    });
    Ok(parts.collect())
}

pub(super) mod reference;
pub(super) mod select;

pub(super) use splice::quote;
pub use splice::{DrawRewrite, ExtraParam, draw_rewrite};

#[cfg(test)]
mod tests;
