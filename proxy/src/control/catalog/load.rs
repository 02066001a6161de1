//! Reads one database's catalog from the home shard's primary, in one read-only snapshot, the queries pipelined.
//!
//! The search path of the transaction is empty, so that every name that PostgreSQL prints is qualified.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::try_join;
use router_config::topology::Topology;
use tokio_postgres::{Row, Transaction};

use super::drift::{Drift, concerns_all};
use super::functions::{Overload, Relations, functions};
use super::place::{Draft, KeyFacts, Problem, REFUSED, place_tables, place_views};
use crate::sql::schema::{Column, Function, Placement, Relation, RelationKind, Schema, Touches};

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

const RELATIONS: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, \
     EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal) \
     OR EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite w WHERE w.ev_class = c.oid AND w.ev_type <> '1'), \
     ARRAY(SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid), \
     CASE WHEN c.relkind IN ('v', 'm') AND c.oid >= 16384 THEN pg_catalog.pg_get_viewdef(c.oid, true) END, \
     ARRAY(SELECT DISTINCT d.refobjid FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d \
           ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid \
           AND d.refclassid = 'pg_catalog.pg_class'::regclass \
           WHERE r.ev_class = c.oid AND c.relkind IN ('v', 'm') AND d.refobjid <> c.oid), \
     n.nspname IN ('pg_catalog', 'information_schema') \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND n.nspname !~ '^pg_(toast|temp_)' ORDER BY c.oid";

const COLUMNS: &str = "SELECT a.attrelid, a.attname::text, pg_catalog.format_type(a.atttypid, NULL), a.atttypid, \
     a.attnotnull OR (t.typtype = 'd' AND t.typnotnull), \
     CASE WHEN a.attidentity <> '' THEN 'nextval(' || pg_catalog.quote_literal( \
            pg_catalog.pg_get_serial_sequence(pg_catalog.quote_ident(n.nspname) || '.' || \
            pg_catalog.quote_ident(c.relname), a.attname)) || '::regclass)' \
          WHEN a.attgenerated = '' THEN coalesce(pg_catalog.pg_get_expr(d.adbin, d.adrelid), t.typdefault) END, \
     a.attidentity = 'a', a.attgenerated <> '', a.atttypmod, coalesce(l.collisdeterministic, true) \
     FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
     LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation \
     WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') \
     AND n.nspname !~ '^pg_(toast|temp_)' ORDER BY a.attrelid, a.attnum";

/// Domains with the type below all of them and its modifier.
const DOMAINS: &str = "WITH RECURSIVE d (oid, base, modifier) AS ( \
       SELECT oid, typbasetype, typtypmod FROM pg_catalog.pg_type WHERE typtype = 'd' \
       UNION ALL SELECT d.oid, t.typbasetype, t.typtypmod FROM d \
         JOIN pg_catalog.pg_type t ON t.oid = d.base AND t.typtype = 'd') \
     SELECT d.oid, d.base, d.modifier FROM d \
     JOIN pg_catalog.pg_type b ON b.oid = d.base AND b.typtype <> 'd'";

const BUILT_IN: &str = "SELECT proname::text, pg_catalog.bool_or(provolatile = 'v'), \
     pg_catalog.bool_or(prokind IN ('a', 'w')), pg_catalog.bool_or(proretset) FROM pg_catalog.pg_proc \
     WHERE pronamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AND oid < 16384 \
     GROUP BY 1";

const FUNCTIONS: &str = "SELECT p.proname::text, p.provolatile = 'v', p.provolatile = 'i', p.prokind IN ('a', 'w'), \
     p.proretset, l.lanname::text, \
     CASE WHEN l.lanname = 'sql' AND p.prokind IN ('f', 'p') THEN pg_catalog.pg_get_functiondef(p.oid) \
          ELSE p.prosrc END, e.extname::text \
     FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid \
          AND d.deptype = 'e' \
     LEFT JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid WHERE p.oid >= 16384";

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

/// Reads everything. `tx` is REPEATABLE READ, READ ONLY, and is not used afterwards.
pub(crate) async fn load(
    tx: &Transaction<'_>,
    topology: &Topology,
    generation: u64,
    drift: Option<&Drift<'_>>,
) -> Result<Loaded> {
    let may_see_files: bool = tx
        .query_one(
            "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'EXECUTE') \
             AND pg_catalog.has_table_privilege('pg_catalog.pg_file_settings', 'SELECT')",
            &[],
        )
        .await?
        .try_get(0)?;
    let settings = tx.query_one(if may_see_files { SETTINGS } else { SETTINGS_PLAIN }, &[]).await?;
    tx.batch_execute(START).await?;
    let relations_and_columns = try_join(tx.query(RELATIONS, &[]), tx.query(COLUMNS, &[]));
    let all_functions = try_join(tx.query(BUILT_IN, &[]), tx.query(FUNCTIONS, &[]));
    let all_types = try_join(tx.query(TYPES, &[]), tx.query(DOMAINS, &[]));
    let (((relations, columns), (built_in, user)), (types, domains)) =
        try_join(try_join(relations_and_columns, all_functions), all_types).await?;

    let domains = domains.iter().map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?))));
    let mut drafts = drafts(&relations, &columns, &domains.collect::<Result<_>>()?)?;
    let utf8 = settings.try_get::<_, &str>(0)? == "UTF8";
    let mut problems = place_tables(&mut drafts, topology, utf8);
    refuse_differing(&mut drafts, drift, &mut problems);
    let overloads = user.iter().map(overload).collect::<Result<Vec<_>>>()?;
    let built_in = built_in.iter().map(known).collect::<Result<HashMap<_, _>>>()?;
    let mut functions = functions(built_in, &overloads, &scanned_names(&drafts), &topology.functions);
    for name in drift.map(Drift::functions).unwrap_or_default().keys() {
        if let Some(function) = functions.get_mut(*name) {
            function.touches_sharded = Touches::Unknown;
            function.built_in = false;
            function.key_argument = None;
        }
    }
    place_views(&mut drafts, &functions);
    refuse_differing(&mut drafts, drift, &mut problems);
    problems.extend(drift.map(Drift::warnings).unwrap_or_default());

    let unreadable = |draft: &&Draft| {
        let Relation { schema, name, placement, .. } = &draft.relation;
        let key = draft.relation.key().map(|(column, _)| &draft.relation.columns[column].name);
        let plain = schema.is_ascii() && name.is_ascii() && key.is_none_or(|key| key.is_ascii());
        !utf8 && concerns_all(placement) && !plain
    };
    let unreadable_name = drafts.iter().find(unreadable).map(|draft| draft.relation.full_name());
    let search_path = split_search_path(settings.try_get(1)?);
    let types = type_names(&types, &search_path)?;
    let relations = drafts
        .into_iter()
        .map(|Draft { relation, .. }| ((relation.schema.clone(), relation.name.clone()), Arc::new(relation)))
        .collect();
    let schema = Schema { generation, relations, functions, types, default_search_path: search_path };
    Ok(Loaded { schema, problems, unreadable_name })
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

fn drafts(relations: &[Row], columns: &[Row], domains: &HashMap<u32, (u32, i32)>) -> Result<Vec<Draft>> {
    let mut by_relation: HashMap<u32, (Vec<Column>, Vec<KeyFacts>)> = HashMap::new();
    for row in columns {
        let (list, keys) = by_relation.entry(row.try_get(0)?).or_default();
        list.push(Column {
            name: row.try_get(1)?,
            type_name: row.try_get(2)?,
            type_oid: row.try_get(3)?,
            not_null: row.try_get(4)?,
            default: row.try_get(5)?,
            identity_always: row.try_get(6)?,
            generated: row.try_get(7)?,
        });
        let own = (row.try_get(3)?, row.try_get(8)?);
        let (base_type, modifier) = domains.get(&own.0).copied().unwrap_or(own);
        keys.push(KeyFacts { base_type, modifier, deterministic: row.try_get(9)? });
    }
    let mut drafts = Vec::with_capacity(relations.len());
    for row in relations {
        let oid: u32 = row.try_get(0)?;
        let (columns, keys) = by_relation.remove(&oid).unwrap_or_default();
        let kind = match row.try_get(3)? {
            "v" => RelationKind::View,
            "m" => RelationKind::MaterializedView,
            "S" => RelationKind::Sequence,
            "f" => RelationKind::Foreign,
            _ => RelationKind::Table,
        };
        let definition: Option<String> = row.try_get(6)?;
        let sources: Vec<u32> = row.try_get(7)?;
        drafts.push(Draft {
            relation: Relation {
                schema: row.try_get(1)?,
                name: row.try_get(2)?,
                oid,
                kind,
                columns,
                placement: Placement::Unsharded,
                has_user_triggers: row.try_get(4)?,
            },
            keys,
            parents: row.try_get(5)?,
            view: definition.map(|text| (text, sources)),
            system: row.try_get(8)?,
        });
    }
    Ok(drafts)
}

/// Names that function bodies are scanned for: tables are placed by now, views count as tables.
fn scanned_names(drafts: &[Draft]) -> Relations {
    let mut names = Relations { reference: HashSet::new(), other: HashSet::new() };
    for draft in drafts.iter().filter(|draft| !draft.system) {
        let set = match draft.relation.placement {
            Placement::Reference => &mut names.reference,
            Placement::Sharded { .. }
            | Placement::Unsharded
            | Placement::Catalog
            | Placement::View { .. } => &mut names.other,
        };
        set.insert(draft.relation.name.clone());
    }
    names
}

fn known(row: &Row) -> Result<(String, Function)> {
    let function = Function {
        volatile: row.try_get(1)?,
        built_in: true,
        aggregate: row.try_get(2)?,
        set_returning: row.try_get(3)?,
        touches_sharded: Touches::No,
        key_argument: None,
    };
    Ok((row.try_get(0)?, function))
}

fn overload(row: &Row) -> Result<Overload> {
    Ok(Overload {
        name: row.try_get(0)?,
        volatile: row.try_get(1)?,
        immutable: row.try_get(2)?,
        aggregate: row.try_get(3)?,
        set_returning: row.try_get(4)?,
        language: row.try_get(5)?,
        body: row.try_get(6)?,
        extension: row.try_get(7)?,
    })
}

/// `schema.name` for each type, and `name` alone for the first of that name along the search path, or the only one.
fn type_names(rows: &[Row], search_path: &[String]) -> Result<HashMap<String, u32>> {
    let mut names: HashMap<String, u32> = HashMap::new();
    let mut best: HashMap<String, (usize, u32)> = HashMap::new();
    for row in rows {
        let (name, oid, schema): (String, u32, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let rank = search_path.iter().position(|entry| *entry == schema).unwrap_or(usize::MAX);
        let entry = best.entry(name.clone()).or_insert((rank, oid));
        if rank < entry.0 {
            *entry = (rank, oid);
        }
        names.insert(format!("{schema}.{name}"), oid);
    }
    names.extend(best.into_iter().map(|(name, (_, oid))| (name, oid)));
    Ok(names)
}

/// Splits a `search_path` setting; `"$user"` is left out.
fn split_search_path(setting: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut chars = setting.chars().peekable();
    let mut name = String::new();
    let mut finish = |name: &mut String| {
        let name = std::mem::take(name);
        if !name.is_empty() && name != "$user" {
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
        assert_eq!(split_search_path("\"$user\", public"), ["public"]);
        assert_eq!(split_search_path("App, \"Odd, \"\"One\"\"\" ,x"), ["app", "Odd, \"One\"", "x"]);
        assert!(split_search_path("").is_empty());
    }
}
