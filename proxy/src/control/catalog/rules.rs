//! What the rules of `[[tables]]` do not do: match a table that there is, move rows that there are. Pure.

use std::sync::Arc;

use router_config::topology::{RESERVED_SCHEMAS, TableMatch, Topology};

use super::place::Problem;
use crate::sql::schema::{FIRST_USER_OID, Placement, Relation, RelationKind, Schema};

/// Tables that are named one by one when a reload changes their kind.
const TABLES_NAMED: usize = 10;

/// Rules by name that match no table of any of the databases. Where there is no table yet, rules may come before them.
pub(crate) fn unmatched(topology: &Topology, schemas: &[Arc<Schema>]) -> Vec<Problem> {
    let tables: Vec<&Relation> = schemas.iter().flat_map(|schema| tables(schema)).collect();
    if tables.is_empty() {
        return Vec::new();
    }
    let rules = topology.tables.iter().enumerate();
    let unmatched = rules.filter_map(|(index, rule)| {
        let TableMatch::Name(name) = &rule.matches else { return None };
        let meant = |table: &&Relation| rule.matches.matches(&table.schema, &table.name, &|_| false);
        let message = || {
            format!(
                "no table is named \"{name}\", as this rule has it (names are compared as stored, in lower case unless made in \
                 quotes): a table that was meant is placed by other rules, or unsharded"
            )
        };
        (!tables.iter().any(meant)).then(|| Problem::warning(&format!("tables[{}]", index + 1), message()))
    });
    unmatched.collect()
}

/// What to say of tables that are of another kind than before the rules changed.
pub(crate) fn moved(database: &str, before: &Schema, after: &Schema) -> Vec<String> {
    let mut moved: Vec<String> = tables(after)
        .filter_map(|table| {
            let old = before.relations.get(&(table.schema.clone(), table.name.clone()))?;
            let (was, is) = (kind(old)?, kind(table)?);
            (old.oid == table.oid && was != is).then(|| {
                format!(
                    "table {} of database {database} was {was} and is {is} by the new rules: rows that it has stay where they are",
                    table.full_name()
                )
            })
        })
        .collect();
    moved.sort_unstable();
    let more = moved.len().saturating_sub(TABLES_NAMED);
    moved.truncate(TABLES_NAMED);
    if more > 0 {
        moved.push(format!("so it is with {more} more tables of database {database}"));
    }
    moved
}

/// What rules are about.
fn tables(schema: &Schema) -> impl Iterator<Item = &Relation> {
    schema.relations.values().map(Arc::as_ref).filter(|relation| {
        let is_table = matches!(relation.kind, RelationKind::Table | RelationKind::Foreign);
        let own = relation.oid >= FIRST_USER_OID && relation.placement != Placement::Catalog;
        is_table && own && !RESERVED_SCHEMAS.contains(&relation.schema.as_str())
    })
}

/// In words; nothing for a table that is refused, which is a problem of its own.
fn kind(relation: &Relation) -> Option<String> {
    match relation.placement {
        Placement::Sharded { key_column, .. } => {
            let key = relation.columns.get(key_column).map(|column| column.name.as_str());
            Some(format!("sharded by {}", key.unwrap_or_default()))
        }
        Placement::Reference => Some("reference".to_owned()),
        Placement::Unsharded => Some("unsharded".to_owned()),
        Placement::Catalog | Placement::View { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use router_config::topology::{TableKind, TableRule};

    use super::*;

    fn schema(tables: &[(&str, &str, u32, Placement)]) -> Arc<Schema> {
        let mut schema = Schema::default();
        for (namespace, name, oid, placement) in tables {
            let relation = Relation {
                schema: (*namespace).to_owned(),
                name: (*name).to_owned(),
                oid: *oid,
                kind: RelationKind::Table,
                columns: Vec::new(),
                placement: placement.clone(),
                definition: None,
            };
            schema.relations.insert(((*namespace).to_owned(), (*name).to_owned()), Arc::new(relation));
        }
        Arc::new(schema)
    }

    fn topology(names: &[&str]) -> Topology {
        let mut topology = Topology::new(Vec::new());
        let rule = |name: &&str| TableRule {
            matches: TableMatch::Name((*name).to_owned()),
            kind: TableKind::Reference,
        };
        topology.tables = names.iter().map(rule).collect();
        topology
    }

    #[test]
    fn a_rule_that_matches_nothing_is_told_once_there_are_tables() {
        let topology = topology(&["users", "bidz", "app.bids", "pg_class"]);
        let system = ("pg_catalog", "pg_class", 1259, Placement::Catalog);
        let empty = schema(std::slice::from_ref(&system));
        assert_eq!(unmatched(&topology, &[Arc::clone(&empty)]), []);
        let one = schema(&[system, ("public", "users", 20_000, Placement::Reference)]);
        let told = |schemas: &[Arc<Schema>]| -> Vec<String> {
            unmatched(&topology, schemas).into_iter().map(|problem| problem.table).collect()
        };
        assert_eq!(told(&[Arc::clone(&one), empty]), ["tables[2]", "tables[3]", "tables[4]"]);
        let other = schema(&[("app", "bids", 20_000, Placement::Unsharded)]);
        assert_eq!(told(&[one, other]), ["tables[2]", "tables[4]"], "in any of the databases");
    }

    #[test]
    fn a_table_of_another_kind_is_told_and_a_new_one_is_not() {
        let before = schema(&[
            ("public", "users", 20_000, Placement::Unsharded),
            ("public", "made_anew", 20_001, Placement::Unsharded),
            ("public", "same", 20_002, Placement::Reference),
        ]);
        let after = schema(&[
            ("public", "users", 20_000, Placement::Reference),
            ("public", "made_anew", 20_011, Placement::Reference),
            ("public", "same", 20_002, Placement::Reference),
            ("public", "new", 20_003, Placement::Reference),
        ]);
        assert_eq!(
            moved("auction", &before, &after),
            [
                "table public.users of database auction was unsharded and is reference by the new rules: rows that it has stay \
              where they are"
            ]
        );
    }

    #[test]
    fn many_tables_are_counted() {
        let names: Vec<String> = (0..25).map(|n| format!("t{n}")).collect();
        let all = |placement: &Placement| {
            let rows =
                names.iter().zip(20_000..).map(|(name, oid)| ("s", name.as_str(), oid, placement.clone()));
            schema(&rows.collect::<Vec<_>>())
        };
        let told = moved("d", &all(&Placement::Unsharded), &all(&Placement::Reference));
        assert_eq!(told.len(), TABLES_NAMED + 1);
        assert_eq!(told.last().map(String::as_str), Some("so it is with 15 more tables of database d"));
    }
}
