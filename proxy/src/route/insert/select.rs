//! INSERT … SELECT that reads no table (unnest of arrays, VALUES in FROM): the home shard computes the keys of its rows, then
//! each shard inserts its own of them.
//!
//! Invariant: the source gives the same rows in the same order whenever it runs; the extractor gives no shape otherwise.

use router_config::topology::ShardId;

use super::super::place::Case;
use super::super::plan::{Draw, Part, Reason, Target};
use super::super::refusal::Refusal;
use crate::sql::facts::{Command, Modify, SelectShape, Sharded};

/// Places the rows of `shape`; `drawn` are their keys, on the second call.
pub(in crate::route) fn place(
    case: &Case<'_>,
    sharded: &Sharded,
    shape: &SelectShape,
    drawn: Option<&[String]>,
) -> Result<(Target, Reason), Refusal> {
    if !matches!(case.facts.command, Command::Modify(Modify::Insert)) {
        return Err(Refusal::insert_select());
    }
    let text = std::str::from_utf8(case.values.statement())
        .map_err(|_| Refusal::not_placed("The text is not UTF-8, and its rows belong to several shards."))?;
    let source = case.values.here(shape.source.start)..case.values.here(shape.source.end);
    let rows = text.get(source.clone()).ok_or_else(Refusal::insert_select)?;
    let columns = (1..=shape.columns).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
    let Some(keys) = drawn else {
        // The empty arm holds the source to as many columns as the INSERT lists.
        let nulls = vec!["NULL"; shape.columns].join(", ");
        let sql = format!(
            "SELECT c{}::text FROM ((SELECT {nulls} WHERE false) UNION ALL ({rows})) AS gavel_rows({columns})",
            shape.key + 1
        );
        return Ok((Target::Draw(Draw { sql, rows: 0 }), Reason::Rows { count: 0 }));
    };
    let mut owned: Vec<(ShardId, Vec<u32>)> = Vec::new();
    for (row, key) in (0_u32..).zip(keys) {
        let key = super::drawn_key(sharded, key, row as usize)?;
        let shard = case.topology.owner(&key);
        match owned.binary_search_by_key(&shard, |part| part.0) {
            Ok(at) => owned[at].1.push(row),
            Err(at) => owned.insert(at, (shard, vec![row])),
        }
    }
    let reason = Reason::Rows { count: keys.len() };
    match owned.as_slice() {
        [] => return Ok((Target::One(case.home()), reason)),
        [(shard, _)] => return Ok((Target::One(*shard), reason)),
        _ => super::may_split(case)?,
    }
    let parts = owned.into_iter().map(|(shard, numbers)| {
        let wanted = numbers.iter().map(|row| (row + 1).to_string()).collect::<Vec<_>>().join(", ");
        let text = format!(
            "{} SELECT {columns} FROM (SELECT *, row_number() OVER () AS gavel_row FROM ({rows}) AS gavel_source({columns})) \
             AS gavel_rows WHERE gavel_row IN ({wanted}) ORDER BY gavel_row {}",
            &text[..source.start],
            &text[source.end..]
        );
        Part { shard, text, params: Vec::new(), rows: numbers }
    });
    Ok((Target::Split(parts.collect()), reason))
}
