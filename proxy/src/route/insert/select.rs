//! INSERT … SELECT that reads no table (unnest of arrays, VALUES in FROM): the home shard computes the keys of its rows, then
//! each shard inserts its own of them.
//!
//! Invariant: the source gives the same rows in the same order whenever it runs; the extractor gives no shape otherwise.

use std::ops::Range;

use router_config::topology::ShardId;

use super::super::origins::Origins;
use super::super::place::Case;
use super::super::plan::{Draw, Part, Reason, Target};
use super::super::refusal::Refusal;
use super::super::splice::quote;
use crate::sql::facts::{Command, DrawShape, Modify, SelectKey, SelectShape, Sharded};

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
    let here = |range: &Range<usize>| case.values.here(range.start)..case.values.here(range.end);
    let source = here(&shape.source);
    let columns = (1..=shape.columns).map(|n| format!("c{n}")).collect::<Vec<_>>().join(", ");
    let query =
        Query { text, rows: text.get(source.clone()).ok_or_else(Refusal::insert_select)?, source, columns };
    let Some(keys) = drawn else {
        let draw = Draw { sql: query.keys(shape), rows: 0, with_params: shape.has_params };
        return Ok((Target::Draw(draw), Reason::Rows { count: 0 }));
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
    let as_it_is = matches!(shape.key, SelectKey::Column(_));
    match owned.as_slice() {
        // Nothing to insert: the home shard says so.
        [] => return Ok((Target::One(case.home()), reason)),
        [(shard, _)] if as_it_is => return Ok((Target::One(*shard), reason)),
        [_] => {}
        _ => super::may_split(case, sharded)?,
    }
    let literal = |range: &Range<usize>| text.get(here(range)).unwrap_or("NULL");
    let mut items: Vec<String> = (1..=shape.columns).map(|n| format!("c{n}")).collect();
    for (position, range) in &shape.literals {
        if let Some(item) = items.get_mut(*position) {
            literal(range).clone_into(item);
        }
    }
    let params = (1..=case.values.params.map_or(0, |params| params.len() as u16)).collect::<Vec<_>>();
    let parts = owned.into_iter().map(|(shard, numbers)| {
        let drawn: Option<Vec<&str>> = (!as_it_is)
            .then(|| numbers.iter().filter_map(|row| keys.get(*row as usize)).map(String::as_str).collect());
        let head = query.head(case, &shape.key);
        let text = query.part((&head, &items), &numbers, drawn.as_deref(), &shape.key);
        Part { shard, text, params: params.clone(), rows: numbers, origins: Origins::default() }
    });
    Ok((Target::Split(parts.collect()), reason))
}

/// The statement taken apart.
struct Query<'a> {
    text: &'a str,
    /// The query whose rows are inserted.
    rows: &'a str,
    source: Range<usize>,
    /// Names given to its columns.
    columns: String,
}

impl Query<'_> {
    /// What gives the key of each row.
    fn keys(&self, shape: &SelectShape) -> String {
        let key = match &shape.key {
            SelectKey::Column(position) => format!("c{}", position + 1),
            SelectKey::Default(draw) => format!("({})", draw.default),
        };
        // The empty arm holds the source to as many columns as the INSERT lists.
        let nulls = vec!["NULL"; shape.columns].join(", ");
        let (rows, columns) = (self.rows, &self.columns);
        format!(
            "SELECT {key}::text FROM ((SELECT {nulls} WHERE false) UNION ALL ({rows})) AS gavel_rows({columns})"
        )
    }

    /// Everything in front of the query.
    fn head(&self, case: &Case<'_>, key: &SelectKey) -> String {
        let head = &self.text[..self.source.start];
        let SelectKey::Default(DrawShape { column_at: Some((at, column)), overriding_at, .. }) = key else {
            return head.to_owned();
        };
        let (before, behind) = head.split_at(case.values.here(*at).min(head.len()));
        let behind = behind.strip_prefix(')').unwrap_or(behind);
        let overriding = if overriding_at.is_some() { " OVERRIDING SYSTEM VALUE" } else { "" };
        format!("{before}{column}){overriding}{behind}")
    }

    /// One shard's rows.
    fn part(
        &self,
        (head, items): (&str, &[String]),
        numbers: &[u32],
        drawn: Option<&[&str]>,
        key: &SelectKey,
    ) -> String {
        let (rows, columns, tail) = (self.rows, &self.columns, &self.text[self.source.end..]);
        let wanted = numbers.iter().map(|row| (row + 1).to_string()).collect::<Vec<_>>().join(",");
        let items = items.join(", ");
        let numbered = format!(
            "(SELECT *, pg_catalog.row_number() OVER () AS gavel_row FROM ({rows}) AS gavel_source({columns})) AS gavel_rows"
        );
        match (drawn, key) {
            (Some(drawn), SelectKey::Default(draw)) => {
                let keys: Vec<String> = drawn.iter().map(|key| quote(key, &draw.type_name)).collect();
                format!(
                    "{head} SELECT {items}, gavel_key FROM {numbered} JOIN ROWS FROM (pg_catalog.unnest('{{{wanted}}}'::bigint[]), \
                     pg_catalog.unnest(ARRAY[{}])) AS gavel_keys(gavel_row, gavel_key) USING (gavel_row) \
                     ORDER BY gavel_row {tail}",
                    keys.join(", ")
                )
            }
            _ => format!(
                "{head} SELECT {items} FROM {numbered} WHERE gavel_row = ANY ('{{{wanted}}}'::bigint[]) \
                 ORDER BY gavel_row {tail}"
            ),
        }
    }
}
