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
use super::functions::{BUILT_IN, FUNCTIONS, Overload, Relations, functions};
use super::place::{Draft, Forbids, KeyFacts, Problem, REFUSED, place_tables, place_views};
use super::rows::{TextRow, ask};
use super::set_off;
use super::triggers::{Judgement, judge};
use crate::sql::concealed::Concealed;
use crate::sql::gather_shape::Comparable;
use crate::sql::schema::{
    Column, FIRST_USER_OID, Function, Placement, Reach, Relation, RelationKind, Schema, Stored, Touches,
};

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

const START: &str = "SELECT pg_catalog.set_config('search_path', '', true)";

/// `search_path` of the database, else of the server; not that of the control role.
const SETTINGS: &str = "SELECT pg_catalog.getdatabaseencoding()::text, coalesce( \
     (SELECT pg_catalog.substr(c, 13) FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c \
      WHERE s.setrole = 0 AND c LIKE 'search\\_path=%' AND s.setdatabase = \
      (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())), \
     (SELECT setting FROM pg_catalog.pg_file_settings WHERE name = 'search_path' AND applied LIMIT 1), \
     '\"$user\", public')";

/// Without `pg_file_settings`, which needs a superuser or a grant.
const SETTINGS_PLAIN: &str = "SELECT pg_catalog.getdatabaseencoding()::text, coalesce( \
     (SELECT pg_catalog.substr(c, 13) FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c \
      WHERE s.setrole = 0 AND c LIKE 'search\\_path=%' AND s.setdatabase = \
      (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())), \
     '\"$user\", public')";

/// Settings of roles, those for this database last: they come before the others. What is set for all roles of the database alone
/// is in [`SETTINGS`].
const ROLE_SETTINGS: &str = "SELECT coalesce(r.rolname::text, ''), pg_catalog.lower(pg_catalog.split_part(c, '=', 1)), \
     pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1) \
     FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, \
     pg_catalog.unnest(s.setconfig) c WHERE (s.setrole = 0) = (r.oid IS NULL) AND s.setdatabase IN \
     (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())) \
     ORDER BY s.setdatabase";

pub(super) const RELATIONS: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, \
     ARRAY(SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid), \
     CASE WHEN c.relkind IN ('v', 'm') AND c.oid >= 16384 THEN pg_catalog.pg_get_viewdef(c.oid, true) END, \
     ARRAY(SELECT DISTINCT d.refobjid FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d \
           ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid \
           AND d.refclassid = 'pg_catalog.pg_class'::regclass \
           WHERE r.ev_class = c.oid AND c.relkind IN ('v', 'm') AND d.refobjid <> c.oid), \
     n.nspname IN ('pg_catalog', 'information_schema'), c.relrowsecurity, c.relispartition \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_(toast|temp_)' AND c.oid >= {first} \
     ORDER BY c.oid";

/// The last ones are the column's number, whether its type is one of dates and times, a range (of whatever), or made of such (an array,
/// a domain, a composite type), whether it belongs to the primary key, its type as a definition writes it, and whether its collation
/// compares bytes. A default names no columns: read without its table, it does not wait for one that a transaction is changing.
pub(super) const COLUMNS: &str = "WITH RECURSIVE made (of, oid) AS ( \
       SELECT typelem, oid FROM pg_catalog.pg_type WHERE typelem <> 0 \
       UNION ALL SELECT typbasetype, oid FROM pg_catalog.pg_type WHERE typtype = 'd' \
       UNION ALL SELECT a.atttypid, t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_attribute a \
         ON a.attrelid = t.typrelid WHERE t.typtype = 'c' AND t.oid >= 16384 AND a.attnum > 0), \
     times (oid) AS (SELECT oid FROM pg_catalog.pg_type WHERE typcategory = 'D' OR typtype IN ('r', 'm') \
       UNION SELECT made.oid FROM made JOIN times ON made.of = times.oid) \
     SELECT a.attrelid, a.attname::text, pg_catalog.format_type(a.atttypid, NULL), a.atttypid, \
     a.attnotnull OR (t.typtype = 'd' AND t.typnotnull), \
     CASE WHEN a.attidentity <> '' THEN 'nextval(' || pg_catalog.quote_literal( \
            pg_catalog.pg_get_serial_sequence(pg_catalog.quote_ident(n.nspname) || '.' || \
            pg_catalog.quote_ident(c.relname), a.attname)) || '::regclass)' \
          WHEN a.attgenerated = '' THEN coalesce(pg_catalog.pg_get_expr(d.adbin, 0), t.typdefault) END, \
     a.attidentity = 'a', a.attgenerated <> '', a.atttypmod, coalesce(l.collisdeterministic, true), a.attnum, \
     a.atttypid IN (SELECT oid FROM times), coalesce(a.attnum = ANY (p.indkey), false), \
     pg_catalog.format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' \
       || l.collnamespace::pg_catalog.regnamespace || '.' || pg_catalog.quote_ident(l.collname) ELSE '' END, \
     coalesce(CASE l.collprovider WHEN 'd' THEN ( \
         SELECT d.datcollate IN ('C', 'POSIX') AND coalesce(pg_catalog.to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' \
         FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) \
       WHEN 'c' THEN l.collcollate IN ('C', 'POSIX') END, false) \
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
     LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation \
     LEFT JOIN pg_catalog.pg_index p ON p.indrelid = a.attrelid AND p.indisprimary \
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') \
     AND n.nspname !~ '^pg_(toast|temp_)' AND c.oid >= {first} ORDER BY a.attrelid, a.attnum";

/// Domains with the type below all of them and its modifier.
const DOMAINS: &str = "WITH RECURSIVE d (oid, base, modifier) AS ( \
       SELECT oid, typbasetype, typtypmod FROM pg_catalog.pg_type WHERE typtype = 'd' \
       UNION ALL SELECT d.oid, t.typbasetype, t.typtypmod FROM d \
         JOIN pg_catalog.pg_type t ON t.oid = d.base AND t.typtype = 'd') \
     SELECT d.oid, d.base, d.modifier FROM d \
     JOIN pg_catalog.pg_type b ON b.oid = d.base AND b.typtype <> 'd'";

const TYPES: &str = "SELECT t.typname::text, t.oid, n.nspname::text FROM pg_catalog.pg_type t \
     JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
     WHERE t.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp_)' ORDER BY t.oid";

/// A schema with what is wrong with it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) schema: Schema,
    pub(crate) problems: Vec<Problem>,
    /// A table that statements in the database's encoding would name in other bytes than the catalog does.
    pub(crate) unreadable_name: Option<String>,
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

/// How many [`questions`] there are.
const QUESTIONS: usize = 7 + set_off::QUESTIONS.len();

/// Reads everything. `tx` is REPEATABLE READ, READ ONLY, and is not used afterwards.
pub(crate) async fn load(
    tx: &Transaction<'_>,
    topology: &Topology,
    generation: u64,
    drift: Option<&Drift<'_>>,
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
    let (relations, columns) = (of_oids(RELATIONS, 0), of_oids(COLUMNS, 0));
    let relations_and_columns = try_join(ask(tx, &relations), ask(tx, &columns));
    let all_functions = try_join(ask(tx, BUILT_IN), ask(tx, FUNCTIONS));
    let all_types = try_join(ask(tx, TYPES), ask(tx, DOMAINS));
    let (((relations, columns), (built_in, functions)), (types, domains)) =
        try_join(try_join(relations_and_columns, all_functions), all_types).await?;
    let set_off = set_off::Answers::ask(tx).await?;
    let answers =
        Answers { settings, role_settings, relations, columns, built_in, functions, types, domains, set_off };
    Ok(assemble(&answers, topology, generation, Beside { committed: None, drift }))
}

/// What to ask on a conn whose search path is empty, each as a statement of its own, for [`of_transaction`]: PostgreSQL's
/// own relations are left out.
pub(crate) fn questions() -> Vec<String> {
    let relations = [SETTINGS_PLAIN, RELATIONS, COLUMNS, BUILT_IN, FUNCTIONS, TYPES, DOMAINS];
    relations.iter().chain(&set_off::QUESTIONS).map(|sql| of_oids(sql, FIRST_USER_OID)).collect()
}

/// The catalog out of the answers to [`questions`]. `committed` is the catalog without what the transaction has changed.
pub(crate) fn of_transaction(
    answers: Vec<Vec<TextRow>>,
    topology: &Topology,
    generation: u64,
    committed: &Schema,
) -> Option<Loaded> {
    let answers: [Vec<TextRow>; QUESTIONS] = answers.try_into().ok()?;
    let [settings, relations, columns, built_in, functions, types, domains, set_off @ ..] = answers;
    let set_off = set_off::Answers(set_off);
    let role_settings = Vec::new();
    let answers =
        Answers { settings, role_settings, relations, columns, built_in, functions, types, domains, set_off };
    Some(assemble(&answers, topology, generation, Beside { committed: Some(committed), drift: None }))
}

pub(super) fn of_oids(sql: &str, first: u32) -> String {
    sql.replace("{first}", &first.to_string())
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
    Loaded { schema, problems, unreadable_name }
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
    let definition = row.optional(5);
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
        body: row.owned(6),
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
