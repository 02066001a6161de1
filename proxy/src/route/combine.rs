//! Queries that are no merge of the shards' answers: what each shard delivers, and what PostgreSQL then computes in one place.

use router_config::topology::{ShardId, Topology};

use super::key::{self, Found};
use super::plan::ShardSet;
use super::refusal::Refusal;
use super::values::{ParamValue, Values};
use crate::sql::combine::{CombineShape, NeededTable};
use crate::sql::schema::{Column, FIRST_USER_OID, Placement, Relation};
use crate::sql::sources::{Filter, FilterPart};

/// Types whose binary form holds an OID that means something else on another shard (`regclass` and its kin, and their arrays), or
/// that have none (`aclitem`, `gtsvector`).
const NO_BINARY: [u32; 26] = [
    24, 2202, 2203, 2204, 2205, 2206, 3734, 3769, 4089, 4096, 4191, 1008, 2207, 2208, 2209, 2210, 2211, 3735,
    3770, 4090, 4097, 4192, 1033, 1034, 3642, 3644,
];

/// A query that is computed over gathered rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Combine {
    /// The query, as it runs where the rows have been gathered.
    pub text: String,
    /// What is gathered, each into a temporary table of its own.
    pub tables: Vec<Gathered>,
    /// What makes temporary views over them.
    pub views: Vec<String>,
}

/// A relation that is gathered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gathered {
    /// Its schema.
    pub schema: String,
    /// Its name, and that of the temporary table.
    pub name: String,
    /// Columns: names, and types as definitions write them.
    pub columns: Vec<(String, String)>,
    /// Those of the primary key, if the query may group by it: columns that depend on it must be known to do so.
    pub primary_key: Vec<String>,
    /// The values travel in binary format; otherwise each as text.
    pub binary: bool,
    /// Only rows that fulfil all conditions of one of these; empty: all rows.
    pub filters: Vec<Vec<Condition>>,
    /// Where the rows are.
    pub shards: ShardSet,
}

/// A condition on a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Name of the column.
    pub column: String,
    /// What stands behind it.
    pub parts: Vec<FilterPart>,
}

impl Combine {
    /// What a shape means with these values.
    pub fn of(shape: &CombineShape, topology: &Topology, values: &Values<'_>) -> Result<Self, Refusal> {
        let CombineShape { text, tables, views, groups } = shape;
        let tables_of = Vec::with_capacity(tables.len());
        let mut combine = Self { text: text.clone(), tables: tables_of, views: views.clone() };
        for table in tables {
            combine.tables.push(gathered(table, topology, (*groups, values))?);
        }
        if combine.shards().is_empty()
            && let Some(first) = combine.tables.first_mut()
        {
            // One has to describe the answer.
            first.shards.push(topology.home());
        }
        Ok(combine)
    }

    /// All shards that deliver something.
    pub fn shards(&self) -> ShardSet {
        let mut all = ShardSet::new();
        for shard in self.tables.iter().flat_map(|table| &table.shards) {
            super::locate::insert(&mut all, *shard);
        }
        all
    }
}

fn gathered(
    table: &NeededTable,
    topology: &Topology,
    (groups, values): (bool, &Values<'_>),
) -> Result<Gathered, Refusal> {
    let relation = &table.relation;
    let columns: Vec<&Column> = table.columns.iter().filter_map(|at| relation.columns.get(*at)).collect();
    let identifies = |column: &&Column| column.stored.identifies;
    let key: Vec<String> =
        columns.iter().copied().filter(identifies).map(|column| column.name.clone()).collect();
    let grouped_by = groups && key.len() == relation.columns.iter().filter(identifies).count();
    let usable = |filter: &&Filter| filter.parts.iter().all(|part| is_known(part, values));
    let filters: Vec<Vec<Filter>> =
        table.mentions.iter().map(|rows| rows.filters.iter().filter(usable).cloned().collect()).collect();
    let all_rows = filters.iter().any(Vec::is_empty);
    Ok(Gathered {
        schema: relation.schema.clone(),
        name: relation.name.clone(),
        columns: columns.iter().map(|column| (column.name.clone(), column.declared.clone())).collect(),
        primary_key: if grouped_by { key } else { Vec::new() },
        binary: columns.iter().all(|column| is_binary(column.type_oid)),
        filters: if all_rows {
            Vec::new()
        } else {
            filters.iter().map(|all| all.iter().map(|filter| condition(filter, relation)).collect()).collect()
        },
        shards: shards_of(table, topology, values)?,
    })
}

fn condition(filter: &Filter, relation: &Relation) -> Condition {
    let column = relation.columns.get(filter.column).map_or("", |column| column.name.as_str());
    Condition { column: column.to_owned(), parts: filter.parts.clone() }
}

/// Whether the type of a parameter is the same for the shards as for the query: told, or read out of a text.
fn is_known(part: &FilterPart, values: &Values<'_>) -> bool {
    let FilterPart::Param(number) = part else { return true };
    let Some(params) = values.params else { return false };
    params.type_oid(*number) != 0 || !matches!(params.get(*number), Some(ParamValue::Binary(_)) | None)
}

/// Where the rows are that some mention needs.
fn shards_of(table: &NeededTable, topology: &Topology, values: &Values<'_>) -> Result<ShardSet, Refusal> {
    let all = || (0..topology.shards.len()).filter_map(|n| u16::try_from(n).ok()).map(ShardId).collect();
    let key_type = match &table.relation.placement {
        Placement::Sharded { key_type, .. } | Placement::View { key_type, .. } => *key_type,
        Placement::Reference | Placement::Unsharded | Placement::Catalog => {
            return Ok(std::iter::once(topology.home()).collect());
        }
    };
    let mut shards = ShardSet::new();
    for rows in &table.mentions {
        let mut keys = None;
        for pin in &rows.pins {
            if let Found::Keys { keys: found, .. } = key::found(pin, key_type, values)? {
                keys = Some(found);
                break;
            }
        }
        let Some(keys) = keys else { return Ok(all()) };
        keys.iter().for_each(|key| super::locate::insert(&mut shards, topology.owner(key)));
    }
    Ok(shards)
}

fn is_binary(oid: u32) -> bool {
    oid < FIRST_USER_OID && !NO_BINARY.contains(&oid)
}
