//! A catalog for a file of statements: its own tables with their columns, placed in one of several ways.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use proxy::sql::schema::{
    Column, Function, Placement, Reach, Relation, RelationKind, Schema, Stored, Touches,
};
use router_config::key::KeyType;
use serde_json::Value;

use crate::tree::{self, field, is, list, range_var, strings, text};

/// How tables and functions are placed in one pass over the corpus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// For messages and the choice of keys.
    pub name: &'static str,
    /// Kinds of tables, dealt out by a hash of the name.
    pub tables: &'static [Kind],
    /// The first column is the key; else any.
    pub first_column: bool,
    /// What functions do.
    pub functions: Functions,
}

/// Placement of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sharded,
    Reference,
    Unsharded,
}

/// What the catalog says of functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Functions {
    /// Built in, not volatile.
    Stable,
    /// Built in, volatile.
    Volatile,
    /// Of the user's, volatile.
    Users,
    /// Not there.
    Unknown,
}

/// All rounds.
pub const ROUNDS: [Round; 6] = [
    Round { name: "sharded", tables: &[Kind::Sharded], first_column: true, functions: Functions::Stable },
    Round { name: "any-key", tables: &[Kind::Sharded], first_column: false, functions: Functions::Volatile },
    Round {
        name: "mixed",
        tables: &[Kind::Sharded, Kind::Reference, Kind::Unsharded],
        first_column: true,
        functions: Functions::Stable,
    },
    Round {
        name: "half",
        tables: &[Kind::Sharded, Kind::Sharded, Kind::Unsharded],
        first_column: false,
        functions: Functions::Users,
    },
    Round { name: "reference", tables: &[Kind::Reference], first_column: true, functions: Functions::Stable },
    Round { name: "unknown", tables: &[Kind::Sharded], first_column: true, functions: Functions::Unknown },
];

/// Aggregates, whatever the round.
pub const AGGREGATES: [&str; 9] =
    ["count", "sum", "avg", "min", "max", "array_agg", "string_agg", "json_agg", "bool_and"];

/// Columns of the tables of a file, by schema and name; `None` where they are not known.
pub type Tables = HashMap<(String, String), Option<Vec<String>>>;

/// Reads the tables that the statements make or name.
pub fn tables(trees: &[&Value]) -> Tables {
    let mut tables = Tables::new();
    for statement in trees {
        if let Some(create) = is(statement, "CreateStmt") {
            let columns = created(create, &tables);
            define(&mut tables, field(create, "relation"), columns);
        } else if let Some(view) = is(statement, "ViewStmt") {
            let aliases = strings(list(view, "aliases"));
            let columns =
                if aliases.is_empty() { outputs(field(view, "query"), &tables) } else { Some(aliases) };
            define(&mut tables, field(view, "view"), columns);
        } else if let Some(create) = is(statement, "CreateTableAsStmt") {
            let into = field(create, "into");
            let names = strings(list(into, "col_names"));
            let columns =
                if names.is_empty() { outputs(field(create, "query"), &tables) } else { Some(names) };
            define(&mut tables, field(into, "rel"), columns);
        }
        tree::each(statement, &mut |map| {
            if let Some((schema, name)) = range_var(&Value::Object(map.clone())) {
                tables.entry((home(schema, &name), name)).or_insert(None);
            }
        });
    }
    tables
}

fn define(tables: &mut Tables, relation: &Value, columns: Option<Vec<String>>) {
    if let Some((schema, name)) = range_var(relation) {
        let slot = tables.entry((home(schema, &name), name)).or_insert(None);
        if slot.is_none() {
            *slot = columns.filter(|c| !c.is_empty());
        }
    }
}

fn home(schema: Option<String>, name: &str) -> String {
    schema.unwrap_or_else(|| if name.starts_with("pg_") { "pg_catalog" } else { "public" }.to_string())
}

fn created(create: &Value, tables: &Tables) -> Option<Vec<String>> {
    let mut columns = Vec::new();
    for parent in list(create, "inh_relations") {
        columns.extend(columns_of(is(parent, "RangeVar")?, tables)?);
    }
    for element in list(create, "table_elts") {
        if let Some(column) = is(element, "ColumnDef") {
            let name = text(column, "colname").to_string();
            if !columns.contains(&name) {
                columns.push(name);
            }
        } else if let Some(like) = is(element, "TableLikeClause") {
            columns.extend(columns_of(field(like, "relation"), tables)?);
        }
    }
    Some(columns)
}

fn columns_of(relation: &Value, tables: &Tables) -> Option<Vec<String>> {
    let (schema, name) = range_var(relation)?;
    tables.get(&(home(schema, &name), name)).cloned().flatten()
}

/// Names of a query's columns, where they are plain.
fn outputs(query: &Value, tables: &Tables) -> Option<Vec<String>> {
    let select = is(query, "SelectStmt")?;
    let mut names = Vec::new();
    for target in list(select, "target_list") {
        let target = is(target, "ResTarget")?;
        if !text(target, "name").is_empty() {
            names.push(text(target, "name").to_string());
            continue;
        }
        let fields = list(is(field(target, "val"), "ColumnRef")?, "fields");
        match fields.last().and_then(|f| is(f, "String")) {
            Some(name) => names.push(text(name, "sval").to_string()),
            None => {
                let [one] = list(select, "from_clause") else { return None };
                names.extend(columns_of(is(one, "RangeVar")?, tables)?);
            }
        }
    }
    Some(names)
}

/// A number from a name, the same on each run.
pub fn pick(parts: &[&str], of: usize) -> usize {
    let mut hasher = std::hash::DefaultHasher::new();
    parts.hash(&mut hasher);
    (hasher.finish() % of.max(1) as u64) as usize
}

/// The catalog of a file in a round.
pub fn schema(tables: &Tables, functions: &[String], round: &Round) -> Schema {
    let mut schema = Schema { default_search_path: vec!["public".into()], ..Schema::default() };
    for (index, ((space, name), columns)) in tables.iter().enumerate() {
        let relation = relation((space, name), columns.as_deref(), round, index as u32);
        schema.relations.insert((space.clone(), name.clone()), Arc::new(relation));
    }
    if round.functions != Functions::Unknown {
        for name in functions {
            // The print calls them where the statement has a clause, which is what it is.
            let clause = ["like_escape", "similar_to_escape"].contains(&name.as_str());
            let kind = if clause { Functions::Stable } else { round.functions };
            schema.functions.insert(name.clone(), function(name, kind));
        }
    }
    schema
}

fn relation(name: (&str, &str), columns: Option<&[String]>, round: &Round, oid: u32) -> Relation {
    let unknown = ["zz_key".to_string()];
    let columns = columns.unwrap_or(&unknown);
    let key = if round.first_column { 0 } else { pick(&[name.1, "key"], columns.len()) };
    let placement = match (name.0, round.tables[pick(&[name.1], round.tables.len())]) {
        ("pg_catalog" | "information_schema", _) => Placement::Catalog,
        ("pg_temp", _) | (_, Kind::Unsharded) => Placement::Unsharded,
        (_, Kind::Sharded) => Placement::Sharded { key_column: key, key_type: KeyType::Int8 },
        (_, Kind::Reference) => Placement::Reference,
    };
    let column = |name: &String| Column {
        name: name.clone(),
        type_name: "bigint".into(),
        type_oid: 20,
        not_null: false,
        default: None,
        identity_always: false,
        declared: String::new(),
        generated: false,
        stored: Stored::default(),
    };
    Relation {
        schema: name.0.to_string(),
        name: name.1.to_string(),
        oid,
        kind: RelationKind::Table,
        columns: columns.iter().map(column).collect(),
        placement,
        definition: None,
    }
}

fn function(name: &str, kind: Functions) -> Function {
    let aggregate = AGGREGATES.contains(&name);
    Function {
        volatile: kind != Functions::Stable && !aggregate,
        built_in: kind != Functions::Users || aggregate,
        aggregate,
        set_returning: false,
        touches_sharded: Touches::No,
        reach: Reach::default(),
        key_argument: None,
    }
}
