//! Strides: sequences that generate columns of sharded tables (other than the key) draw from disjoint spaces on the
//! shards, so that a generated primary key is unique over the cluster.
//!
//! Shard number i (from 0) draws values congruent to i + 1 modulo the stride. Idempotent; never moves a sequence back.
//! Sequences of key columns are drawn on the home shard alone and are left as they are.

use std::collections::HashSet;
use std::sync::Arc;

use router_config::topology::{NodeAddress, ShardId};

use super::catalog::{Catalog, Catalogs};
use super::error::ControlError;
use super::resolver::primary;
use crate::sql::schema::{Placement, Schema};

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

/// A sequence that generates a column.
#[derive(Debug)]
struct Owned {
    schema: String,
    name: String,
    table: (String, String),
    column: String,
    type_name: String,
    increment: i64,
    max: i64,
}

const OWNED: &str = "SELECT sn.nspname::text, s.relname::text, tn.nspname::text, t.relname::text, a.attname::text, \
     pg_catalog.format_type(q.seqtypid, NULL), q.seqincrement, q.seqmax \
     FROM pg_catalog.pg_sequence q JOIN pg_catalog.pg_class s ON s.oid = q.seqrelid \
     JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace \
     JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = s.oid \
          AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i') \
     JOIN pg_catalog.pg_class t ON t.oid = d.refobjid \
     JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
     JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid";

/// Aligns the sequences of one database on all shards.
pub(super) async fn align(catalogs: &Catalogs, catalog: &Arc<Catalog>) -> Result<StrideReport, ControlError> {
    let shards = catalogs.topology.load().shards.len();
    let mut report = StrideReport::default();
    if shards < 2 {
        return Ok(report);
    }
    let schema = catalog.schema();
    let mut changed = HashSet::new();
    for index in 0..shards {
        let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
        let node = primary(&catalogs.nodes, shard)?;
        let mut client = catalogs.dialer.client(&node, catalog.database()).await?;
        let failed = |error| ControlError::query("reading sequences", &node, &error);
        for row in client.query(OWNED, &[]).await.map_err(failed)? {
            let owned = Owned {
                schema: row.get(0),
                name: row.get(1),
                table: (row.get(2), row.get(3)),
                column: row.get(4),
                type_name: row.get(5),
                increment: row.get(6),
                max: row.get(7),
            };
            if !strided(&schema, &owned) {
                continue;
            }
            let full_name = format!("{}.{}", owned.schema, owned.name);
            let stride = stride(&owned, shards);
            if owned.increment < 0 {
                if index == 0 {
                    report.note(
                        &full_name,
                        "counts down and is not aligned: values will collide between shards",
                    );
                }
                continue;
            }
            if align_one(&mut client, &node, &owned, (stride, i64::from(shard.0) + 1)).await? {
                changed.insert(full_name.clone());
            }
            if index == 0 && stride < STRIDE {
                let per_shard = owned.max / stride;
                report.note(
                    &full_name,
                    &format!(
                        "generates {} values: a stride of {stride} leaves {per_shard} a shard; make the column bigint",
                        owned.type_name
                    ),
                );
            }
        }
    }
    report.changed = changed.into_iter().collect();
    report.changed.sort_unstable();
    for note in &report.notes {
        tracing::warn!(database = catalog.database(), sequence = %note.sequence, "{}", note.message);
    }
    Ok(report)
}

impl StrideReport {
    fn note(&mut self, sequence: &str, message: &str) {
        self.notes.push(StrideNote { sequence: sequence.to_owned(), message: message.to_owned() });
    }
}

/// Owned by a column of a sharded table that is not the key.
fn strided(schema: &Schema, owned: &Owned) -> bool {
    let Some(table) = schema.relations.get(&owned.table) else { return false };
    match &table.placement {
        Placement::Sharded { key_column, .. } => table.columns[*key_column].name != owned.column,
        Placement::Reference | Placement::Unsharded | Placement::Catalog | Placement::View { .. } => false,
    }
}

fn stride(owned: &Owned, shards: usize) -> i64 {
    let shards = i64::try_from(shards.next_power_of_two()).unwrap_or(STRIDE);
    match owned.type_name.as_str() {
        "bigint" => STRIDE.max(shards),
        "integer" => NARROW_STRIDE.max(shards),
        _ => shards,
    }
}

/// One sequence on one shard; true when it was changed.
async fn align_one(
    client: &mut deadpool_postgres::Object,
    node: &NodeAddress,
    owned: &Owned,
    (stride, residue): (i64, i64),
) -> Result<bool, ControlError> {
    let name = format!("{}.{}", quote(&owned.schema), quote(&owned.name));
    let doing = format!("setting the stride of sequence {name}");
    let failed = |error: tokio_postgres::Error| ControlError::query(&doing, node, &error);
    let read = format!("SELECT last_value, is_called FROM {name}");
    if owned.increment == stride {
        let row = client.query_one(&read, &[]).await.map_err(failed)?;
        let last: i64 = row.get(0);
        if last.rem_euclid(stride) == residue % stride {
            return Ok(false);
        }
    }
    let tx = client.transaction().await.map_err(failed)?;
    // Altering first takes the lock that keeps nextval out until the new position is set.
    tx.batch_execute(&format!("ALTER SEQUENCE {name} INCREMENT BY {stride}")).await.map_err(failed)?;
    let row = tx.query_one(&read, &[]).await.map_err(failed)?;
    let next = if row.get::<_, bool>(1) { row.get::<_, i64>(0).saturating_add(1) } else { row.get(0) };
    let next = next_value(next, stride, residue);
    tx.batch_execute(&format!("ALTER SEQUENCE {name} RESTART WITH {next}")).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(true)
}

/// The first value from `at_least` on that is congruent to `residue`.
fn next_value(at_least: i64, stride: i64, residue: i64) -> i64 {
    at_least.saturating_add((residue - at_least).rem_euclid(stride))
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod unit {
    use super::next_value;

    #[test]
    fn values_never_go_back_and_keep_their_residue() {
        assert_eq!(next_value(1, 1024, 1), 1);
        assert_eq!(next_value(1, 1024, 3), 3);
        assert_eq!(next_value(2, 1024, 1), 1025);
        assert_eq!(next_value(5000, 1024, 2), 5122);
        assert_eq!(next_value(-7, 16, 3), 3 - 16 + 0);
    }
}
