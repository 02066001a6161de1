//! What keeps a statement from running wherever it goes: what it would set off, and DDL after which rows would be looked for
//! where they are not.

use router_config::topology::TableKind;

use super::place::Case;
use super::refusal::Refusal;
use crate::sql::facts::{Command, Reshaped};
use crate::sql::schema::Placement;

/// Refuses what cannot run on several shards whatever its place.
pub(super) fn check(case: &Case<'_>) -> Result<(), Refusal> {
    if let Some(why) = &case.facts.barred {
        return Err(Refusal::barred(why));
    }
    case.facts.reshaped.iter().try_for_each(|table| reshaped(case, table))
}

/// A table keeps its kind and its key, and DDL fills unsharded tables alone.
fn reshaped(case: &Case<'_>, table: &Reshaped) -> Result<(), Refusal> {
    let has_column = |name: &str| table.columns.iter().any(|column| column == name);
    let kind = case.topology.table_kind(&table.schema, &table.name, &has_column);
    let name = format!("{}.{}", table.schema, table.name);
    let Some(relation) = &table.relation else {
        return match kind {
            TableKind::Unsharded => Ok(()),
            TableKind::Sharded { .. } | TableKind::Reference => Err(Refusal::fills(&name)),
        };
    };
    let key = |at: usize| relation.columns.get(at).map(|column| column.name.as_str());
    let same = match (&relation.placement, &kind) {
        (Placement::Sharded { key_column, .. }, TableKind::Sharded { key: wanted, .. }) => {
            key(*key_column) == Some(wanted) && has_column(wanted)
        }
        (Placement::Reference, TableKind::Reference)
        | (Placement::Unsharded, TableKind::Unsharded)
        // Refused as it is: DDL may be the cure.
        | (Placement::View { .. } | Placement::Catalog, _) => true,
        _ => false,
    };
    if same { Ok(()) } else { Err(Refusal::reshapes(&relation.full_name())) }
}

impl Case<'_> {
    /// About no tables but PostgreSQL's own.
    pub(super) fn is_catalog(&self) -> bool {
        let own =
            |table: &String| table.starts_with("pg_catalog.") || table.starts_with("information_schema.");
        self.facts.tables.iter().all(own)
    }

    /// CHECKPOINT and the like: about no table.
    pub(super) fn is_for_the_server(&self) -> bool {
        matches!(self.facts.command, Command::Other) && self.facts.tables.is_empty()
    }
}
