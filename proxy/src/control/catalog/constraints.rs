//! Constraints of the catalog that hold on one shard only: UNIQUE, PRIMARY KEY and EXCLUDE without the shard key, and foreign
//! keys between rows that may be on different shards.

use std::collections::HashMap;
use std::sync::Arc;

use super::place::Problem;
use super::rows::TextRow;
use super::triggers::ForeignKey;
use crate::sql::constraints::{Rule, Unheld};
use crate::sql::schema::{Placement, Relation, Schema};

/// Index, table, name, the columns that must be equal for two rows to be in conflict. Of EXCLUDE those compared by `=`.
pub(super) const UNIQUES: &str = "SELECT i.indexrelid, i.indrelid, c.relname::text, \
     pg_catalog.array_to_json(ARRAY(SELECT a.attname::text FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) p \
       JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[p] \
       WHERE NOT i.indisexclusion OR (SELECT o.oprname FROM pg_catalog.pg_constraint k \
         JOIN pg_catalog.pg_operator o ON o.oid = k.conexclop[p + 1] \
         WHERE k.conindid = i.indexrelid AND k.contype = 'x' LIMIT 1) = '=' ORDER BY p)) \
     FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE (i.indisunique OR i.indisexclusion) AND i.indrelid >= 16384 AND n.nspname !~ '^pg_(toast|temp_)' \
     ORDER BY i.indexrelid";

/// Those of the schema that cannot hold.
pub(super) fn unheld(schema: &Schema, uniques: &[TextRow], keys: &[ForeignKey]) -> Vec<Unheld> {
    let by_oid: HashMap<u32, &Arc<Relation>> =
        schema.relations.values().map(|relation| (relation.oid, relation)).collect();
    let uniques = uniques.iter().filter_map(|row| {
        let columns = serde_json::from_str(row.text(3)).unwrap_or_default();
        Unheld::unique(by_oid.get(&row.number(1))?, (row.text(2), row.number(0)), columns)
    });
    let keys = keys.iter().filter_map(|key| {
        let (child, parent) = (by_oid.get(&key.child)?, by_oid.get(&key.parent)?);
        let why = apart(child, parent, &key.columns)?;
        Some(Unheld::of(child, (&key.name, key.oid), Rule::ForeignKey { why }))
    });
    uniques.chain(keys).collect()
}

/// What the DBA is told of those that were not made through the proxy, or accepted by its settings.
pub(super) fn problems(unheld: &[Unheld]) -> impl Iterator<Item = Problem> {
    let told = unheld.iter().filter(|unheld| !unheld.is_generated());
    told.map(|unheld| Problem::warning(&unheld.table, format!("{}. {}", unheld.problem(), unheld.cure())))
}

/// Why the rows of a foreign key may be on different shards, if so. `columns`: those of the child with those of the parent.
fn apart(child: &Relation, parent: &Relation, columns: &[[String; 2]]) -> Option<String> {
    let (of_child, of_parent) = (child.full_name(), parent.full_name());
    let key = |relation: &Relation| Some(relation.columns.get(relation.key()?.0)?.name.clone());
    match (&child.placement, &parent.placement) {
        (_, Placement::Reference) | (Placement::Unsharded, Placement::Unsharded) => None,
        (Placement::Sharded { key_type: own, .. }, Placement::Sharded { key_type: other, .. }) => {
            let (own_key, other_key) = (key(child)?, key(parent)?);
            let on_keys = columns.iter().any(|[own, other]| *own == own_key && *other == other_key);
            (!on_keys || own.family() != other.family()).then(|| {
                format!("rows of {of_child} and {of_parent} are on the same shard only where \"{own_key}\" references \"{other_key}\"")
            })
        }
        // Refused as a whole, or PostgreSQL's own.
        (Placement::View { .. } | Placement::Catalog, _)
        | (_, Placement::View { .. } | Placement::Catalog) => None,
        (_, Placement::Unsharded) => {
            Some(format!("{of_parent} is unsharded: its rows are on the home shard alone"))
        }
        (Placement::Unsharded, Placement::Sharded { .. }) => {
            Some(format!("the rows of {of_child} are on the home shard, those of {of_parent} on all shards"))
        }
        (Placement::Reference, Placement::Sharded { .. }) => {
            Some(format!("the rows of {of_child} are on every shard, each row of {of_parent} on one"))
        }
    }
}
