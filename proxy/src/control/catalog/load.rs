//! Reads one database's catalog from the home shard's primary, in one read-only snapshot, the queries pipelined; and, over
//! the conn of a session, the catalog as its open transaction has changed it.
//!
//! The search path of the transaction is empty, so that every name that PostgreSQL prints is qualified. All answers are
//! in text format, as the simple protocol gives them.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::try_join;
use router_config::topology::Topology;
use tokio_postgres::Transaction;

use super::drift::{Drift, concerns_all};
use super::functions::{self, BUILT_IN, Overload, Relations, functions};
use super::place::{Draft, Forbids, KeyFacts, Problem, REFUSED, place_tables, place_views};
use super::printed::Printed;
use super::questions::{DOMAINS, ROLE_SETTINGS, SETTINGS, SETTINGS_PLAIN, START, TYPES};
use super::rows::{TextRow, ask};
use super::triggers::{Judgement, judge};
use super::{DatabaseCatalog, questions, set_off};
use crate::sql::concealed::Concealed;
use crate::sql::gather_shape::Comparable;
use crate::sql::schema::{
    Column, FIRST_USER_OID, Function, Placement, Reach, Relation, RelationKind, Schema, Stored, Touches,
};

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// A schema with what is wrong with it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) schema: Schema,
    pub(crate) problems: Vec<Problem>,
    /// A table that statements in the database's encoding would name in other bytes than the catalog does.
    pub(crate) unreadable_name: Option<String>,
    /// Its definitions as PostgreSQL prints them, for the next reading.
    pub(crate) printed: Printed,
}

/// What the server answers to each question.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    settings: Vec<TextRow>,
    role_settings: Vec<TextRow>,
    relations: Vec<TextRow>,
    columns: Vec<TextRow>,
    built_in: Vec<TextRow>,
    functions: Vec<TextRow>,
    types: Vec<TextRow>,
    domains: Vec<TextRow>,
    set_off: set_off::Answers,
}

impl Answers {
    /// Puts the printed texts in, of which `before` are known.
    fn put_in(&mut self, before: &Printed) -> Printed {
        let mut now = Printed::default();
        before.put_in(&mut self.relations, questions::DEFINITION, &mut now);
        before.put_in(&mut self.functions, functions::PRINTED_BODY, &mut now);
        self.set_off.put_in(before, &mut now);
        now
    }
}

/// How many [`questions`] there are.
const QUESTIONS: usize = 7 + set_off::QUESTIONS;

/// Reads everything but the texts that are known from `before`. `tx` is REPEATABLE READ, READ ONLY, and is not used afterwards.
pub(crate) async fn load(
    tx: &Transaction<'_>,
    topology: &Topology,
    generation: u64,
    drift: Option<&Drift<'_>>,
    before: &Printed,
) -> Result<Loaded> {
    let may_see_files = ask(
        tx,
        "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE') \
         AND pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')",
    );
    let may_see_files = may_see_files.await?.first().is_some_and(|row| row.flag(0));
    let settings = ask(tx, if may_see_files { SETTINGS } else { SETTINGS_PLAIN }).await?;
    let role_settings = ask(tx, ROLE_SETTINGS).await?;
    tx.batch_execute(START).await?;
    let (relations, columns) = (questions::relations(0, before), questions::columns(0));
    let functions = functions::question(before);
    let relations_and_columns = try_join(ask(tx, &relations), ask(tx, &columns));
    let all_functions = try_join(ask(tx, BUILT_IN), ask(tx, &functions));
    let all_types = try_join(ask(tx, TYPES), ask(tx, DOMAINS));
    let (((relations, columns), (built_in, functions)), (types, domains)) =
        try_join(try_join(relations_and_columns, all_functions), all_types).await?;
    let set_off = set_off::Answers::ask(tx, before).await?;
    let mut answers =
        Answers { settings, role_settings, relations, columns, built_in, functions, types, domains, set_off };
    let printed = answers.put_in(before);
    Ok(Loaded { printed, ..assemble(&answers, topology, generation, Beside { committed: None, drift }) })
}

/// What to ask on a conn whose search path is empty, each as a statement of its own, for [`of_transaction`]: PostgreSQL's
/// own relations are left out, and the texts that are known from `committed`.
pub(crate) fn of_transaction_questions(committed: &Printed) -> Vec<String> {
    let first = [
        SETTINGS_PLAIN.to_owned(),
        questions::relations(FIRST_USER_OID, committed),
        questions::columns(FIRST_USER_OID),
        BUILT_IN.to_owned(),
        functions::question(committed),
        TYPES.to_owned(),
        DOMAINS.to_owned(),
    ];
    first.into_iter().chain(set_off::questions(committed)).collect()
}

/// The catalog out of the answers to [`of_transaction_questions`]. `committed` is the catalog without what the transaction has
/// changed.
pub(crate) fn of_transaction(
    answers: Vec<Vec<TextRow>>,
    topology: &Topology,
    generation: u64,
    committed: &DatabaseCatalog,
) -> Option<Loaded> {
    let answers: [Vec<TextRow>; QUESTIONS] = answers.try_into().ok()?;
    let [settings, relations, columns, built_in, functions, types, domains, set_off @ ..] = answers;
    let set_off = set_off::Answers(set_off);
    let role_settings = Vec::new();
    let mut answers =
        Answers { settings, role_settings, relations, columns, built_in, functions, types, domains, set_off };
    let printed = answers.put_in(&committed.printed);
    let beside = Beside { committed: Some(&committed.schema), drift: None };
    Some(Loaded { printed, ..assemble(&answers, topology, generation, beside) })
}

/// What else is known beside the answers of the home shard.
struct Beside<'a> {
    /// The catalog without what the transaction has changed.
    committed: Option<&'a Schema>,
    /// How the other shards differ.
    drift: Option<&'a Drift<'a>>,
}

fn assemble(answers: &Answers, topology: &Topology, generation: u64, beside: Beside<'_>) -> Loaded {
    let Beside { committed, drift } = beside;
    let domains = answers.domains.iter().map(|row| (row.number(0), (row.number(1), row.number(2))));
    let settings = answers.settings.first();
    let utf8 = settings.is_some_and(|row| row.text(0) == "UTF8");
    let mut drafts = drafts(&answers.relations, &answers.columns, &domains.collect(), utf8);
    let mut problems = place_tables(&mut drafts, topology, utf8);
    refuse_differing(&mut drafts, drift, &mut problems);
    refuse_as_before(&mut drafts, committed, &mut problems);
    let (functions, concealed) = known_functions(answers, &drafts, topology, drift);
    place_views(&mut drafts, &functions, &concealed);
    refuse_differing(&mut drafts, drift, &mut problems);
    problems.extend(drift.map(Drift::warnings).unwrap_or_default());

    let default_search_path = match committed {
        // The setting is the database's, which a transaction seldom changes, and not in force before the next login.
        Some(committed) => committed.default_search_path.clone(),
        None => split_search_path(settings.map_or("", |row| row.text(1))),
    };
    let role_settings = match committed {
        Some(committed) => committed.role_settings.clone(),
        None => {
            answers.role_settings.iter().map(|row| ((row.owned(0), row.owned(1)), row.owned(2))).collect()
        }
    };
    let types = type_names(&answers.types, &default_search_path);
    let set_off = answers.set_off.read(&drafts, &functions, topology);
    let unreadable = |draft: &&Draft| {
        let Relation { schema, name, placement, .. } = &draft.relation;
        let key = draft.relation.key().map(|(column, _)| &draft.relation.columns[column].name);
        let plain = schema.is_ascii() && name.is_ascii() && key.is_none_or(|key| key.is_ascii());
        !utf8 && concerns_all(placement) && !plain
    };
    let unreadable_name = drafts.iter().find(unreadable).map(|draft| draft.relation.full_name());
    let refused = refused(&drafts, &problems);
    let system = committed.into_iter().flat_map(|committed| &committed.relations);
    let system = system.filter(|(_, relation)| relation.oid < FIRST_USER_OID);
    let mut relations: HashMap<_, _> =
        system.map(|(name, relation)| (name.clone(), Arc::clone(relation))).collect();
    relations.extend(drafts.into_iter().map(|Draft { relation, .. }| {
        ((relation.schema.clone(), relation.name.clone()), Arc::new(relation))
    }));
    let mut schema = Schema {
        generation,
        relations,
        functions,
        types,
        refused,
        default_search_path,
        utf8,
        role_settings,
        concealed,
        row_security: answers.relations.iter().filter(|row| row.flag(8)).map(|row| row.number(0)).collect(),
        ..Schema::default()
    };
    schema.event_trigger = answers.set_off.event_trigger(&schema.functions);
    let Judgement { hazards, leavings, leaves_unseen, fires, stuck, column_hazards } =
        judge(&schema, &set_off);
    (schema.hazards, schema.leavings, schema.leaves_unseen) = (hazards, leavings, leaves_unseen);
    (schema.fires, schema.stuck, schema.column_hazards) = (fires, stuck, column_hazards);
    schema.unheld = answers.set_off.unheld(&schema, &set_off);
    problems.extend(super::constraints::problems(&schema.unheld));
    Loaded { schema, problems, unreadable_name, printed: Printed::default() }
}

/// Functions, and what runs them without naming them: a function may use operators that run another one.
fn known_functions(
    answers: &Answers,
    drafts: &[Draft],
    topology: &Topology,
    drift: Option<&Drift<'_>>,
) -> (HashMap<String, Function>, Concealed) {
    let overloads: Vec<Overload> = answers.functions.iter().map(overload).collect();
    let built_in: HashMap<String, Function> = answers.built_in.iter().map(known).collect();
    let scanned = scanned_names(drafts);
    let mut concealed = Concealed::default();
    loop {
        let rules = (topology.functions.as_slice(), &concealed);
        let mut functions = functions(built_in.clone(), &overloads, &scanned, rules);
        distrust_differing(&mut functions, drift);
        let found = answers.set_off.concealed(&functions, &concealed);
        if found == concealed {
            return (functions, concealed);
        }
        concealed = found;
    }
}

/// What a function does that is not the same on every shard cannot be told.
fn distrust_differing(functions: &mut HashMap<String, Function>, drift: Option<&Drift<'_>>) {
    for name in drift.map(Drift::functions).unwrap_or_default().keys() {
        if let Some(function) = functions.get_mut(*name) {
            function.touches_sharded = Touches::Unknown;
            function.built_in = false;
            function.key_argument = None;
        }
    }
}

/// Relations that no statement can use, by OID, and why.
fn refused(drafts: &[Draft], problems: &[Problem]) -> HashMap<u32, String> {
    let refused = drafts.iter().filter_map(|draft| {
        let full_name = super::place::full_name(&draft.relation);
        let all = |problem: &&Problem| problem.table == full_name && problem.forbids == Forbids::All;
        let problem = problems.iter().find(all)?;
        Some((draft.relation.oid, problem.message.clone()))
    });
    refused.collect()
}

/// Refuses what is placed by now and must be the same everywhere, but is not.
fn refuse_differing(drafts: &mut [Draft], drift: Option<&Drift<'_>>, problems: &mut Vec<Problem>) {
    let Some(drift) = drift else { return };
    let shared = drafts.iter_mut().filter(|draft| {
        !draft.system && concerns_all(&draft.relation.placement) && draft.relation.placement != REFUSED
    });
    for draft in shared {
        if let Some(message) = drift.table(&draft.relation.schema, &draft.relation.name) {
            problems.push(Problem::refused(draft.relation.full_name(), message));
            draft.relation.placement = REFUSED;
        }
    }
}

/// Inside of a transaction the other shards are not compared: what was refused before it stays so.
fn refuse_as_before(drafts: &mut [Draft], committed: Option<&Schema>, problems: &mut Vec<Problem>) {
    let Some(committed) = committed else { return };
    for draft in drafts.iter_mut().filter(|draft| draft.relation.placement != REFUSED) {
        if let Some(message) = committed.refused.get(&draft.relation.oid) {
            problems.push(Problem::refused(draft.relation.full_name(), message.clone()));
            draft.relation.placement = REFUSED;
        }
    }
}

pub(super) fn drafts(
    relations: &[TextRow],
    columns: &[TextRow],
    domains: &HashMap<u32, (u32, i32)>,
    utf8: bool,
) -> Vec<Draft> {
    let mut by_relation: HashMap<u32, (Vec<Column>, Vec<KeyFacts>)> = HashMap::new();
    for row in columns {
        let (list, keys) = by_relation.entry(row.number(0)).or_default();
        let own = (row.number(3), row.number(8));
        let (base_type, modifier) = domains.get(&own.0).copied().unwrap_or(own);
        list.push(Column {
            name: row.owned(1),
            type_name: row.owned(2),
            declared: row.owned(13),
            type_oid: row.number(3),
            not_null: row.flag(4),
            default: row.optional(5),
            identity_always: row.flag(6),
            generated: row.flag(7),
            stored: Stored {
                number: row.number(10),
                modifier,
                times: row.flag(11),
                identifies: row.flag(12),
                order: Comparable::of(base_type, utf8 && row.flag(14)),
            },
        });
        keys.push(KeyFacts { base_type, modifier, deterministic: row.flag(9) });
    }
    relations.iter().map(|row| draft(row, by_relation.remove(&row.number(0)).unwrap_or_default())).collect()
}

fn draft(row: &TextRow, (columns, keys): (Vec<Column>, Vec<KeyFacts>)) -> Draft {
    let kind = match row.text(3) {
        "v" => RelationKind::View,
        "m" => RelationKind::MaterializedView,
        "S" => RelationKind::Sequence,
        "f" => RelationKind::Foreign,
        _ => RelationKind::Table,
    };
    let definition = row.optional(questions::DEFINITION);
    Draft {
        relation: Relation {
            schema: row.owned(1),
            name: row.owned(2),
            oid: row.number(0),
            kind,
            columns,
            placement: Placement::Unsharded,
            definition: definition.as_deref().filter(|_| kind == RelationKind::View).map(Arc::from),
        },
        keys,
        parents: row.numbers(4),
        view: definition.map(|text| (text, row.numbers(6))),
        system: row.flag(7),
        partition: row.flag(9),
    }
}

/// Names that function bodies are scanned for: tables are placed by now, views count as tables.
fn scanned_names(drafts: &[Draft]) -> Relations {
    let mut names = Relations::default();
    for draft in drafts.iter().filter(|draft| !draft.system) {
        let name = draft.relation.name.clone();
        if draft.view.is_some() {
            // Not placed yet: it may read anything.
            names.sharded.insert(name.clone());
            names.home.insert(name);
            continue;
        }
        let set = match draft.relation.placement {
            Placement::Reference => &mut names.reference,
            Placement::Sharded { .. } | Placement::View { .. } => &mut names.sharded,
            Placement::Unsharded | Placement::Catalog => &mut names.home,
        };
        set.insert(name);
    }
    names
}

fn known(row: &TextRow) -> (String, Function) {
    let function = Function {
        volatile: row.flag(1),
        built_in: true,
        aggregate: row.flag(2),
        set_returning: row.flag(3),
        touches_sharded: Touches::No,
        reach: Reach::default(),
        key_argument: None,
    };
    (row.owned(0), function)
}

fn overload(row: &TextRow) -> Overload {
    Overload {
        name: row.owned(0),
        volatile: row.flag(1),
        immutable: row.flag(2),
        aggregate: row.flag(3),
        set_returning: row.flag(4),
        language: row.owned(5),
        body: row.optional(functions::PRINTED_BODY).unwrap_or_else(|| row.owned(6)),
        extension: row.optional(7),
    }
}

/// `schema.name` for each type, and `name` alone for the first of that name along the search path, or the only one.
fn type_names(rows: &[TextRow], search_path: &[String]) -> HashMap<String, u32> {
    let mut names: HashMap<String, u32> = HashMap::new();
    let mut best: HashMap<&str, (usize, u32)> = HashMap::new();
    for row in rows {
        let (name, oid, schema) = (row.text(0), row.number(1), row.text(2));
        let rank = search_path.iter().position(|entry| *entry == schema).unwrap_or(usize::MAX);
        let entry = best.entry(name).or_insert((rank, oid));
        if rank < entry.0 {
            *entry = (rank, oid);
        }
        names.insert(format!("{schema}.{name}"), oid);
    }
    names.extend(best.into_iter().map(|(name, (_, oid))| (name.to_owned(), oid)));
    names
}

/// Splits a `search_path` setting; `"$user"` stays.
pub(super) fn split_search_path(setting: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut chars = setting.chars().peekable();
    let mut name = String::new();
    let mut finish = |name: &mut String| {
        let name = std::mem::take(name);
        if !name.is_empty() {
            names.push(name);
        }
    };
    while let Some(c) = chars.next() {
        match c {
            ',' => finish(&mut name),
            '"' => {
                while let Some(inner) = chars.next() {
                    if inner == '"' && chars.next_if_eq(&'"').is_none() {
                        break;
                    }
                    name.push(inner);
                }
            }
            c if c.is_whitespace() => {}
            c => name.extend(c.to_lowercase()),
        }
    }
    finish(&mut name);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_paths_are_split_as_postgresql_does() {
        assert_eq!(split_search_path("\"$user\", public"), ["$user", "public"]);
        assert_eq!(split_search_path("App, \"Odd, \"\"One\"\"\" ,x"), ["app", "Odd, \"One\"", "x"]);
        assert!(split_search_path("").is_empty());
    }
}
