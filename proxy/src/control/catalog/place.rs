//! Where the rows of each relation live: the configuration's rules, checked against the catalog.
//!
//! A table that a rule calls sharded, but whose key cannot be hashed, is *refused*: it gets
//! [`Placement::View`] without a key column, which no statement can be pushed down to, and a [`Problem`]. It is never
//! treated as unsharded.

use std::collections::HashMap;

use router_config::key::KeyType;
use router_config::topology::{TableKind, Topology};

use super::views::{Base, key_output};
use crate::sql::concealed::Concealed;
use crate::sql::schema::{Function, Placement, Relation, RelationKind, Touches};
use crate::sql::stored::{Token, tokens};

/// What a problem forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forbids {
    /// Every statement on the table.
    All,
    /// Statements that write it.
    Writes,
    /// Nothing: it is told.
    Nothing,
}

/// Something that cannot be served as configured, or is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `schema.name` of a table, or what else it is about.
    pub table: String,
    /// What is wrong and what to do.
    pub message: String,
    /// What is refused for it.
    pub forbids: Forbids,
}

impl Problem {
    /// Every statement on the table is refused.
    pub(crate) fn refused(table: String, message: String) -> Self {
        Self { table, message, forbids: Forbids::All }
    }

    /// Nothing is refused.
    pub(crate) fn warning(about: &str, message: String) -> Self {
        Self { table: about.to_owned(), message, forbids: Forbids::Nothing }
    }
}

/// What the catalog says of a column's type, for hashing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyFacts {
    /// OID of the type, of the innermost base type for a domain.
    pub(crate) base_type: u32,
    /// Its modifier (`atttypmod`); -1: none.
    pub(crate) modifier: i32,
    /// False for a nondeterministic collation.
    pub(crate) deterministic: bool,
}

/// A relation on its way to become a [`Relation`].
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) relation: Relation,
    /// Per column of the relation.
    pub(crate) keys: Vec<KeyFacts>,
    /// Partition or inheritance parents.
    pub(crate) parents: Vec<u32>,
    /// Definition and the OIDs of what it reads, of views and materialized views.
    pub(crate) view: Option<(String, Vec<u32>)>,
    /// Belongs to `pg_catalog` or `information_schema`.
    pub(crate) system: bool,
    /// A partition, not another kind of child.
    pub(crate) partition: bool,
}

/// Where a refused table's rows are said to be.
pub(crate) const REFUSED: Placement = Placement::View { key_column: None, key_type: KeyType::Int8 };

/// The key type of a PostgreSQL type.
pub(crate) fn key_type(oid: u32) -> Option<KeyType> {
    match oid {
        20 => Some(KeyType::Int8),
        21 => Some(KeyType::Int2),
        23 => Some(KeyType::Int4),
        25 | 1043 => Some(KeyType::Text),
        1042 => Some(KeyType::Bpchar),
        1082 => Some(KeyType::Date),
        1184 => Some(KeyType::Timestamptz),
        1700 => Some(KeyType::Numeric),
        2950 => Some(KeyType::Uuid),
        _ => None,
    }
}

/// Gives everything but views its placement.
pub(crate) fn place_tables(drafts: &mut [Draft], topology: &Topology, utf8: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    let by_oid = by_oid(drafts);
    let tables: Vec<usize> = (0..drafts.len()).filter(|&index| drafts[index].view.is_none()).collect();
    for &index in &tables {
        let placement = table(&drafts[index], topology, utf8).unwrap_or_else(|message| {
            problems.push(Problem::refused(full_name(&drafts[index].relation), message));
            REFUSED
        });
        drafts[index].relation.placement = placement;
    }
    inherit(drafts, &tables, &by_oid, &mut problems);
    problems
}

/// Gives views theirs, by what they read.
pub(crate) fn place_views(
    drafts: &mut [Draft],
    functions: &HashMap<String, Function>,
    concealed: &Concealed,
) {
    let by_oid = by_oid(drafts);
    // A view may read views: settle those first whose sources are settled.
    let mut open: Vec<usize> = (0..drafts.len()).filter(|&index| drafts[index].view.is_some()).collect();
    let mut settled: Vec<bool> = drafts.iter().map(|draft| draft.view.is_none()).collect();
    while !open.is_empty() {
        let (ready, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|&&index| {
            let sources = drafts[index].view.iter().flat_map(|(_, sources)| sources);
            sources.filter_map(|oid| by_oid.get(oid)).all(|&source| settled[source] || source == index)
        });
        // A circle cannot be made in PostgreSQL; if one is read all the same, it is refused.
        let circle = ready.is_empty();
        let now = if circle { open.clone() } else { ready };
        for &index in &now {
            let placement =
                if circle { REFUSED } else { view(drafts, index, &by_oid, (functions, concealed)) };
            drafts[index].relation.placement = placement;
            settled[index] = true;
        }
        open = if circle { Vec::new() } else { rest };
    }
}

fn by_oid(drafts: &[Draft]) -> HashMap<u32, usize> {
    drafts.iter().enumerate().map(|(index, draft)| (draft.relation.oid, index)).collect()
}

fn table(draft: &Draft, topology: &Topology, utf8: bool) -> Result<Placement, String> {
    let relation = &draft.relation;
    if draft.system {
        return Ok(Placement::Catalog);
    }
    match relation.kind {
        RelationKind::Sequence => return Ok(Placement::Unsharded),
        RelationKind::Table | RelationKind::View | RelationKind::MaterializedView | RelationKind::Foreign => {
        }
    }
    let has_column = |name: &str| relation.columns.iter().any(|column| column.name == name);
    let (key, wanted) = match topology.table_kind(&relation.schema, &relation.name, &has_column) {
        TableKind::Reference => return Ok(Placement::Reference),
        TableKind::Unsharded => return Ok(Placement::Unsharded),
        TableKind::Sharded { key, key_type } => (key, key_type),
    };
    if relation.kind == RelationKind::Foreign {
        return Err(String::from("a foreign table cannot be sharded: its rows are not on this server"));
    }
    let Some(key_column) = relation.columns.iter().position(|column| column.name == key) else {
        return Err(format!("the configuration says it is sharded by \"{key}\", but it has no such column"));
    };
    if relation.columns[key_column].generated {
        return Err(format!(
            "its key column \"{key}\" is GENERATED ALWAYS AS an expression: the value is not known before the row is \
             stored; make it an ordinary column"
        ));
    }
    let facts = draft.keys[key_column];
    let written = &relation.columns[key_column].type_name;
    let Some(found) = key_type(facts.base_type) else {
        return Err(format!(
            "its key column \"{key}\" is of type {written}, which cannot be a shard key (smallint, integer, bigint, \
             text, varchar, char, uuid, numeric, date and timestamptz can)"
        ));
    };
    if let Some(wanted) = wanted.filter(|wanted| !same_hash(*wanted, found)) {
        return Err(format!(
            "its key column \"{key}\" is of type {written}, but the configuration says key_type {wanted}"
        ));
    }
    if matches!(found, KeyType::Text | KeyType::Bpchar) && !(facts.deterministic && utf8) {
        return Err(format!(
            "its key column \"{key}\" is text that cannot be hashed outside of the server: the collation must be \
             deterministic and the database's encoding UTF8"
        ));
    }
    if found.modifier_rounds(facts.modifier) {
        return Err(format!(
            "its key column \"{key}\" is of type {written} with a precision to which values are rounded when they are \
             stored, so that a row would not be where its key says: use the type without the modifier"
        ));
    }
    Ok(Placement::Sharded { key_column, key_type: found })
}

/// All integer types hash alike, as do text and varchar.
fn same_hash(a: KeyType, b: KeyType) -> bool {
    let class = |key_type| match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => KeyType::Int8,
        other => other,
    };
    class(a) == class(b)
}

/// Partitions and children live where their parent does.
fn inherit(
    drafts: &mut [Draft],
    tables: &[usize],
    by_oid: &HashMap<u32, usize>,
    problems: &mut Vec<Problem>,
) {
    // Refused for the sake of their children, who may be well themselves.
    let mut wholes: Vec<usize> = Vec::new();
    // Parents before children, for hierarchies of any depth; a chain longer than this is not met in practice.
    for _round in 0..16 {
        let mut changed = false;
        for &index in tables {
            for parent in drafts[index].parents.clone() {
                let Some(&parent) = by_oid.get(&parent).filter(|parent| !wholes.contains(parent)) else {
                    continue;
                };
                let wanted = of_parent(&drafts[index].relation, &drafts[parent].relation);
                let own = &drafts[index].relation.placement;
                if wanted == *own || *own == REFUSED {
                    continue;
                }
                changed = true;
                if *own == Placement::Unsharded && wanted != REFUSED {
                    drafts[index].relation.placement = wanted;
                } else if wanted == REFUSED {
                    let message =
                        format!("it is a part of {}, which is refused", full_name(&drafts[parent].relation));
                    problems.push(Problem::refused(full_name(&drafts[index].relation), message));
                    drafts[index].relation.placement = REFUSED;
                } else {
                    let message = format!(
                        "the configuration gives it another kind than {}, of which it is a part",
                        full_name(&drafts[parent].relation)
                    );
                    problems.push(Problem::refused(full_name(&drafts[index].relation), message));
                    drafts[index].relation.placement = REFUSED;
                }
            }
        }
        let above = whole_elsewhere(drafts, tables, by_oid, problems);
        changed |= !above.is_empty();
        wholes.extend(above);
        if !changed {
            return;
        }
    }
}

/// Refuses unsharded tables whose children are not: their rows would be looked for on the home shard alone.
fn whole_elsewhere(
    drafts: &mut [Draft],
    tables: &[usize],
    by_oid: &HashMap<u32, usize>,
    problems: &mut Vec<Problem>,
) -> Vec<usize> {
    let mut found = Vec::new();
    for &index in tables {
        if drafts[index].relation.placement == Placement::Unsharded {
            continue;
        }
        for parent in drafts[index].parents.clone() {
            let Some(&parent) = by_oid.get(&parent) else { continue };
            if drafts[parent].relation.placement == Placement::Unsharded {
                let child = full_name(&drafts[index].relation);
                let message =
                    format!("its child {child} is not on the home shard alone, as it would be itself");
                problems.push(Problem::refused(full_name(&drafts[parent].relation), message));
                drafts[parent].relation.placement = REFUSED;
                found.push(parent);
            }
        }
    }
    found
}

fn of_parent(child: &Relation, parent: &Relation) -> Placement {
    match &parent.placement {
        Placement::Sharded { key_column, key_type } => {
            let key = &parent.columns[*key_column].name;
            let position = child.columns.iter().position(|column| column.name == *key);
            position.map_or(REFUSED, |key_column| Placement::Sharded { key_column, key_type: *key_type })
        }
        Placement::Unsharded | Placement::Catalog => child.placement.clone(),
        Placement::Reference | Placement::View { .. } => parent.placement.clone(),
    }
}

fn view(
    drafts: &[Draft],
    index: usize,
    by_oid: &HashMap<u32, usize>,
    (functions, concealed): (&HashMap<String, Function>, &Concealed),
) -> Placement {
    let draft = &drafts[index];
    if draft.system {
        return Placement::Catalog;
    }
    let Some((definition, sources)) = &draft.view else { return REFUSED };
    let bases: Vec<&Relation> =
        sources.iter().filter_map(|oid| by_oid.get(oid)).map(|&source| &drafts[source].relation).collect();
    let mut sharded = None;
    // What is not in sight is PostgreSQL's own.
    let mut elsewhere = bases.len() < sources.len();
    let (mut reference, mut opaque) = (false, false);
    let mut named = Vec::new();
    for base in bases {
        let mut key = None;
        match &base.placement {
            Placement::Sharded { key_column, key_type }
            | Placement::View { key_column: Some(key_column), key_type } => {
                opaque |= sharded.is_some_and(|other| other != *key_type);
                sharded = Some(*key_type);
                key = base.columns.get(*key_column).map(|column| column.name.as_str());
            }
            Placement::View { key_column: None, .. } => opaque = true,
            Placement::Reference => reference = true,
            Placement::Unsharded | Placement::Catalog => elsewhere = true,
        }
        named.push(Base { schema: &base.schema, name: &base.name, key });
    }
    // A function of the user's in the definition may reach any table.
    let tokens = tokens(definition);
    let words = tokens.iter().filter_map(Token::name).chain(concealed.met_in_stored(definition));
    let called = words.filter_map(|name| functions.get(name)).filter(|known| !known.built_in);
    let (mut reaches, mut at_home) = (false, false);
    for known in called {
        reaches |= known.touches_sharded == Touches::Unknown;
        at_home |= known.reach.home;
    }
    if opaque || reaches {
        return REFUSED;
    }
    elsewhere |= at_home;
    let Some(key_type) = sharded else {
        return if reference && !elsewhere { Placement::Reference } else { Placement::Unsharded };
    };
    let plain = |name: &str| functions.get(name).is_none_or(|known| !known.aggregate && !known.set_returning);
    let key_column = if elsewhere { None } else { key_output(definition, &named, &plain) };
    Placement::View { key_column, key_type }
}

/// `schema.name`
pub(crate) fn full_name(relation: &Relation) -> String {
    format!("{}.{}", relation.schema, relation.name)
}
