//! Strides: sequences that generate columns of sharded tables (other than the key) draw from disjoint spaces on the
//! shards, so that a generated primary key is unique over the cluster.
//!
//! Shard number i (from 0) draws values congruent to i + 1 modulo the stride, upwards or downwards as the sequence goes. Idempotent;
//! never moves a sequence back.
//! Sequences of key columns are drawn on the home shard alone and are left as they are.

use std::sync::Arc;

use router_config::topology::{NodeAddress, ShardId};

use super::catalog::{Catalog, Catalogs, TextRow, ask};
use super::error::ControlError;
use super::resolver::primary;
use crate::sql::schema::{Placement, Schema};
use crate::sql::spelling::quote_ident;

/// Stride of bigint sequences: as many shards can be added without touching them again.
const STRIDE: i64 = 1024;

/// Stride of narrower ones, if the shards are not more: a bigger one would exhaust them early.
const NARROW_STRIDE: i64 = 16;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StrideReport {
    /// Sequences changed on some shard, `schema.name`.
    pub changed: Vec<String>,
    /// What the DBA should know.
    pub notes: Vec<StrideNote>,
}

/// A sequence that will not last, or could not be aligned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrideNote {
    /// `schema.name`
    pub sequence: String,
    /// What and what to do.
    pub message: String,
}

/// A sequence and the columns that it generates.
#[derive(Debug)]
pub(super) struct Used {
    schema: String,
    name: String,
    type_name: String,
    increment: i64,
    min: i64,
    max: i64,
    cycles: bool,
    /// `(schema, table)` and column.
    columns: Vec<((String, String), String)>,
}

impl Used {
    /// The stride in the direction in which the sequence goes.
    fn directed(&self, stride: i64) -> i64 {
        if self.increment < 0 { -stride } else { stride }
    }
}

/// What becomes of a sequence.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Generates a column of a sharded table.
    Stride,
    /// Generates a key, or nothing of a sharded table.
    Leave,
}

/// Owned by a column (serial, identity) or drawn from by a column's default.
pub(super) const USED: &str = "SELECT sn.nspname::text, s.relname::text, pg_catalog.format_type(q.seqtypid, NULL), \
     q.seqincrement, q.seqmin, q.seqmax, q.seqcycle, tn.nspname::text, t.relname::text, a.attname::text \
     FROM (SELECT d.objid AS sequence, d.refobjid AS relation, d.refobjsubid::int4 AS number \
           FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass \
           AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') \
           UNION SELECT d.refobjid, f.adrelid, f.adnum::int4 \
           FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef f ON f.oid = d.objid \
           WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass) u \
     JOIN pg_catalog.pg_sequence q ON q.seqrelid = u.sequence JOIN pg_catalog.pg_class s ON s.oid = u.sequence \
     JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace JOIN pg_catalog.pg_class t ON t.oid = u.relation \
     JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = u.number ORDER BY u.sequence";

/// Aligns the sequences of one database on all shards.
pub(super) async fn align(catalogs: &Catalogs, catalog: &Arc<Catalog>) -> Result<StrideReport, ControlError> {
    let shards = catalogs.topology.load().shards.len();
    let mut report = StrideReport::default();
    if shards < 2 {
        return Ok(report);
    }
    let schema = catalog.schema();
    for index in 0..shards {
        let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
        let node = primary(&catalogs.nodes, shard)?;
        let mut client = catalogs.dialer.client(&node, catalog.database()).await?;
        let failed = |error| ControlError::query("reading sequences", &node, &error);
        let tx = client.transaction().await.map_err(failed)?;
        let rows = ask(&tx, USED).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        for used in collect(&rows) {
            let full_name = format!("{}.{}", used.schema, used.name);
            let stride = stride(&used, shards);
            let fate = fate(&schema, &used);
            if index == 0 {
                report.notes.extend(remark(&used, &fate, stride));
            }
            if fate != Fate::Stride {
                continue;
            }
            let residue = i64::from(shard.0) + 1;
            if align_one(&mut client, &node, &used, (stride, residue)).await? {
                report.changed.push(full_name);
            }
        }
    }
    report.changed.sort_unstable();
    report.changed.dedup();
    for note in &report.notes {
        tracing::warn!(database = catalog.database(), sequence = %note.sequence, "{}", note.message);
    }
    Ok(report)
}

pub(super) fn collect(rows: &[TextRow]) -> Vec<Used> {
    let mut list: Vec<Used> = Vec::new();
    for row in rows {
        let (schema, name) = (row.owned(0), row.owned(1));
        let column = ((row.owned(7), row.owned(8)), row.owned(9));
        if let Some(last) = list.last_mut().filter(|last| last.schema == schema && last.name == name) {
            last.columns.push(column);
            continue;
        }
        list.push(Used {
            schema,
            name,
            type_name: row.owned(2),
            increment: row.number(3),
            min: row.number(4),
            max: row.number(5),
            cycles: row.flag(6),
            columns: vec![column],
        });
    }
    list
}

/// For each shard what gives the sequences that `is_new` their stride, in the transaction that has made them; empty when
/// there are none. A sequence that such a transaction alters has storage of its own, so that a rollback takes all back.
pub(super) fn align_new(
    schema: &Schema,
    used: &[Used],
    shards: usize,
    is_new: impl Fn(&str, &str) -> bool,
    is_added: impl Fn(&(String, String), &str) -> bool,
) -> Vec<String> {
    let wanted: Vec<&Used> = used
        .iter()
        .filter(|used| used.increment != used.directed(stride(used, shards)))
        .filter(|used| is_new(&used.schema, &used.name) && fate(schema, used) == Fate::Stride)
        .collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let of_shard = |shard: usize| {
        let texts = wanted.iter().map(|used| align_text(used, (stride(used, shards), shard + 1), &is_added));
        texts.collect::<Vec<_>>().join("; ")
    };
    (0..shards).map(of_shard).collect()
}

/// What gives one sequence its stride on one shard.
fn align_text(
    used: &Used,
    (stride, residue): (i64, usize),
    is_added: &impl Fn(&(String, String), &str) -> bool,
) -> String {
    let name = format!("{}.{}", quote_ident(&used.schema), quote_ident(&used.name));
    let literal = format!("'{}'", name.replace('\'', "''"));
    let added: Vec<_> = used.columns.iter().filter(|(table, column)| is_added(table, column)).collect();
    let refill: String =
        added.iter().map(|(table, column)| refill(&name, (table, column), used, (stride, residue))).collect();
    let up = used.increment > 0;
    let next = match (added.is_empty(), up) {
        (true, true) => "last_value + 1".to_owned(),
        (true, false) => "last_value - 1".to_owned(),
        (false, true) => format!("last_value * {stride} + {residue}"),
        (false, false) => format!("(last_value - 1) * {stride} + {residue}"),
    };
    // The first value from the next one on that is congruent to the shard's number; `false`: still to be drawn, so
    // that it is not the session's currval. Where there is none left, the sequence is at its end.
    let (value, end, beyond) = if up {
        (format!("n + (({residue} - n) % {stride} + {stride}) % {stride}"), used.max, ">")
    } else {
        (format!("n - ((n - {residue}) % {stride} + {stride}) % {stride}"), used.min, "<")
    };
    let nearer = if up { "least" } else { "greatest" };
    let by = used.directed(stride);
    format!(
        "{refill}ALTER SEQUENCE {name} INCREMENT BY {by}; \
         SELECT pg_catalog.setval({literal}, {nearer}(v, {end}), v {beyond} {end}) \
         FROM (SELECT {value} AS v FROM (SELECT CASE WHEN is_called THEN {next} ELSE last_value END AS n FROM {name}) AS s) AS s"
    )
}

/// The first of the sequences that begins again at its end: there it would draw what another shard has drawn.
pub(super) fn cycling(schema: &Schema, used: &[Used]) -> Option<String> {
    let found = used.iter().find(|used| used.cycles && fate(schema, used) == Fate::Stride)?;
    Some(format!("{}.{}", found.schema, found.name))
}

/// A column that was added to a table with rows has been filled from 1 on, on every shard alike: each value moves to the
/// shard's residue; of a sequence that goes down from -1 on, downwards. By a change of type to itself, which fires no trigger.
/// Partitions follow their parent.
fn refill(
    sequence: &str,
    ((schema, table), column): (&(String, String), &str),
    used: &Used,
    (stride, residue): (i64, usize),
) -> String {
    let (type_name, first) = (&used.type_name, i32::from(used.increment > 0));
    let (table, column) = (format!("{}.{}", quote_ident(schema), quote_ident(table)), quote_ident(column));
    let literal = format!("'{}'", table.replace('\'', "''"));
    format!(
        "DO $gavel_refill$ BEGIN IF (SELECT is_called FROM {sequence}) AND NOT EXISTS \
         (SELECT FROM pg_catalog.pg_inherits WHERE inhrelid = {literal}::pg_catalog.regclass) THEN \
         ALTER TABLE {table} ALTER COLUMN {column} TYPE {type_name} USING (({column} - {first}) * {stride}::bigint + {residue}); \
         END IF; END $gavel_refill$; "
    )
}

fn remark(used: &Used, fate: &Fate, stride: i64) -> Option<StrideNote> {
    let sequence = format!("{}.{}", used.schema, used.name);
    let message = match fate {
        Fate::Leave => return None,
        Fate::Stride if used.cycles => String::from(
            "begins again at its end, with values that other shards have drawn: ALTER SEQUENCE ... NO CYCLE",
        ),
        Fate::Stride if stride < STRIDE => format!(
            "generates {} values: a stride of {stride} leaves {} a shard; make the column bigint",
            used.type_name,
            if used.increment > 0 { used.max / stride } else { used.min / -stride }
        ),
        Fate::Stride => return None,
    };
    Some(StrideNote { sequence, message })
}

fn fate(schema: &Schema, used: &Used) -> Fate {
    let (mut key, mut other) = (false, false);
    for (table, column) in &used.columns {
        let Some(table) = schema.relations.get(table) else { continue };
        match &table.placement {
            Placement::Sharded { key_column, .. } if table.columns[*key_column].name == *column => key = true,
            Placement::Sharded { .. } => other = true,
            Placement::Reference | Placement::Unsharded | Placement::Catalog | Placement::View { .. } => {}
        }
    }
    match (key, other) {
        // One that generates keys as well draws them on the home shard, within that shard's residue.
        (_, true) => Fate::Stride,
        (_, false) => Fate::Leave,
    }
}

fn stride(used: &Used, shards: usize) -> i64 {
    let shards = i64::try_from(shards.next_power_of_two()).unwrap_or(STRIDE);
    match used.type_name.as_str() {
        "bigint" => STRIDE.max(shards),
        "integer" => NARROW_STRIDE.max(shards),
        _ => shards,
    }
}

/// One sequence on one shard; true when it was changed.
async fn align_one(
    client: &mut deadpool_postgres::Object,
    node: &NodeAddress,
    used: &Used,
    (stride, residue): (i64, i64),
) -> Result<bool, ControlError> {
    let name = format!("{}.{}", quote_ident(&used.schema), quote_ident(&used.name));
    let doing = format!("setting the stride of sequence {name}");
    let failed = |error: tokio_postgres::Error| ControlError::query(&doing, node, &error);
    let read = format!("SELECT last_value, is_called FROM {name}");
    let by = used.directed(stride);
    if used.increment == by {
        let row = client.query_one(&read, &[]).await.map_err(failed)?;
        let last: i64 = row.get(0);
        let ended = row.get::<_, bool>(1) && last == if by > 0 { used.max } else { used.min };
        if ended || last.rem_euclid(stride) == residue % stride {
            return Ok(false);
        }
    }
    let tx = client.transaction().await.map_err(failed)?;
    // Altering first takes the lock that keeps nextval out until the new position is set.
    tx.batch_execute(&format!("ALTER SEQUENCE {name} INCREMENT BY {by}")).await.map_err(failed)?;
    let row = tx.query_one(&read, &[]).await.map_err(failed)?;
    let (last, called): (i64, bool) = (row.get(0), row.get(1));
    let next = if called { last.saturating_add(by.signum()) } else { last };
    let next = if by > 0 { next_value(next, stride, residue) } else { next_below(next, stride, residue) };
    let restart = if (used.min..=used.max).contains(&next) {
        format!("ALTER SEQUENCE {name} RESTART WITH {next}")
    } else {
        // None is left for this shard: the sequence is at its end.
        let end = if by > 0 { used.max } else { used.min };
        format!("SELECT pg_catalog.setval('{}', {end}, true)", name.replace('\'', "''"))
    };
    tx.batch_execute(&restart).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(true)
}

/// The first value from `at_least` on that is congruent to `residue`.
fn next_value(at_least: i64, stride: i64, residue: i64) -> i64 {
    at_least.saturating_add((residue - at_least).rem_euclid(stride))
}

/// The first value from `at_most` down that is congruent to `residue`.
fn next_below(at_most: i64, stride: i64, residue: i64) -> i64 {
    at_most.saturating_sub((at_most - residue).rem_euclid(stride))
}

#[cfg(test)]
mod unit {
    use super::{Used, align_new, next_below, next_value};
    use crate::sql::schema::{Column, Placement, Relation, RelationKind, Schema, Stored};
    use router_config::key::KeyType;
    use std::sync::Arc;

    #[test]
    fn values_never_go_back_and_keep_their_residue() {
        assert_eq!(next_value(1, 1024, 1), 1);
        assert_eq!(next_value(1, 1024, 3), 3);
        assert_eq!(next_value(2, 1024, 1), 1025);
        assert_eq!(next_value(5000, 1024, 2), 5122);
        assert_eq!(next_value(-7, 16, 3), 3);
        assert_eq!(next_value(-14, 16, 3), -13);
        assert_eq!(next_below(-1, 16, 1), -15);
        assert_eq!(next_below(-1, 16, 2), -14);
        assert_eq!(next_below(-15, 16, 1), -15);
        assert_eq!(next_below(-16, 16, 1), -31);
    }

    #[test]
    fn new_sequences_of_columns_beside_the_key_get_their_stride() {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_name: String::from("bigint"),
            type_oid: 20,
            not_null: true,
            default: None,
            identity_always: false,
            declared: String::new(),
            generated: false,
            stored: Stored::default(),
        };
        let bids = Relation {
            schema: String::from("public"),
            name: String::from("bids"),
            oid: 20_000,
            kind: RelationKind::Table,
            columns: vec![column("auction_id"), column("id")],
            placement: Placement::Sharded { key_column: 0, key_type: KeyType::Int8 },
            definition: None,
        };
        let mut schema = Schema::default();
        schema.relations.insert((String::from("public"), String::from("bids")), Arc::new(bids));
        let used = |name: &str, column: &str, increment| Used {
            schema: String::from("public"),
            name: name.to_owned(),
            type_name: String::from("bigint"),
            increment,
            min: 1,
            max: i64::MAX,
            cycles: false,
            columns: vec![((String::from("public"), String::from("bids")), column.to_owned())],
        };
        let all = [
            used("new", "id", 1),
            used("old", "id", 1),
            used("key", "auction_id", 1),
            used("done", "id", 1024),
        ];
        let texts = align_new(&schema, &all, 2, |_, name| name != "old", |_, _| false);
        assert_eq!(texts.len(), 2);
        assert!(
            texts[1].starts_with("ALTER SEQUENCE \"public\".\"new\" INCREMENT BY 1024; SELECT"),
            "{texts:?}"
        );
        assert!(texts[1].contains("(2 - n) % 1024") && !texts[1].contains("key"), "{texts:?}");
        assert!(align_new(&schema, &all[1..], 2, |_, name| name != "old", |_, _| false).is_empty());
        let filled = align_new(&schema, &all[..1], 2, |_, _| true, |_, column| column == "id");
        assert!(
            filled[1].contains("ALTER COLUMN \"id\" TYPE bigint USING ((\"id\" - 1) * 1024::bigint + 2)")
                && filled[1].contains("THEN last_value * 1024 + 2 ELSE"),
            "{filled:?}"
        );
    }
}
