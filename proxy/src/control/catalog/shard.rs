//! What each shard has: objects by name with their OIDs, and their definitions to compare with those of the home shard.
//!
//! Definitions are compared as texts that PostgreSQL prints under an empty search path, so that every name is qualified
//! and no OID is in them.

use std::collections::{BTreeMap, HashMap};

use futures_util::future::{try_join, try_join4};
use tokio_postgres::{Client, Row};

use super::printed::{Depends, Printed, print};
use super::set_off;
use crate::control::oids::{ShardObjects, TypeShape};

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

const START: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL search_path = ''";

/// Name, OID, types named in its binary form, types held in it.
pub(super) const TYPES: &str = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname), t.oid, \
     CASE WHEN t.typelem <> 0 AND t.typcategory = 'A' AND t.typtype <> 'd' THEN ARRAY[t.typelem] \
          WHEN t.typtype = 'c' THEN ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a \
               WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) ELSE '{}' END, \
     CASE WHEN t.typtype = 'd' THEN ARRAY[t.typbasetype] \
          WHEN t.typtype IN ('r', 'm') THEN ARRAY(SELECT r.rngsubtype FROM pg_catalog.pg_range r \
               WHERE t.oid IN (r.rngtypid, r.rngmultitypid)) ELSE '{}' END \
     FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
     WHERE t.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp_)'";

/// Schema, name, OID, definition in lines: columns in order, row security.
const TABLES: &str = "SELECT n.nspname::text, c.relname::text, c.oid, \
     ARRAY(SELECT 'column ' || pg_catalog.quote_ident(a.attname) || ' ' || \
             pg_catalog.format_type(a.atttypid, a.atttypmod) || \
             CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || (SELECT o.collname \
             FROM pg_catalog.pg_collation o WHERE o.oid = a.attcollation) ELSE '' END || \
             CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END || \
             CASE WHEN a.attgenerated <> '' THEN ' GENERATED' ELSE '' END || \
             CASE WHEN a.attgenerated = '' THEN coalesce(' DEFAULT ' || pg_catalog.pg_get_expr(d.adbin, 0), '') ELSE '' END \
           FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
           LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
           WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) \
     || CASE WHEN c.relrowsecurity THEN ARRAY['row security' || CASE WHEN c.relforcerowsecurity THEN ' FORCE' ELSE '' END] \
        ELSE '{}' END \
     FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp_)'";

/// Further lines of the definitions by OID, in order: what stands in front, and the printed text.
const PRINTED: &str = "SELECT oid, line, text FROM ( \
     SELECT d.adrelid, 1, d.adnum::text, 'column ' || d.adnum || ' AS ', {generated} \
       FROM pg_catalog.pg_attrdef d JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
       WHERE a.attgenerated <> '' \
     UNION ALL SELECT p.polrelid, 2, p.polname::text, 'policy ' || p.polname || ' ' || p.polcmd::text || p.polpermissive \
       || ' ' || e.kind || ' ', e.text \
       FROM pg_catalog.pg_policy p, LATERAL (VALUES ('CHECK', {with check}), ('USING', {using})) e (kind, text) \
     UNION ALL SELECT g.tgrelid, 3, g.tgname::text, 'trigger ' || g.tgname || ' ' || g.tgenabled::text || ' ', {trigger} \
       FROM pg_catalog.pg_trigger g WHERE NOT g.tgisinternal \
     UNION ALL SELECT r.ev_class, 4, r.rulename::text, 'rule ' || r.rulename || ' ', {rule} \
       FROM pg_catalog.pg_rewrite r WHERE r.ev_type <> '1' \
     UNION ALL SELECT r.ev_class, 5, '', 'query ', {view} FROM pg_catalog.pg_rewrite r WHERE r.ev_type = '1' \
     ) AS lines (oid, kind, name, line, text) \
     WHERE oid >= 16384 AND text IS NOT NULL ORDER BY oid, kind, name COLLATE \"C\", line COLLATE \"C\"";

/// Name with the types of the arguments, name, hash of all that its result depends on but what is printed of it.
const FUNCTIONS: &str = "SELECT p.oid::regprocedure::text, p.proname::text, \
     pg_catalog.md5(l.lanname::text || ' ' || p.provolatile::text || p.prosecdef || p.proisstrict || ' ' || \
         coalesce(p.proconfig::text, '') || ' ' || \
         CASE WHEN l.lanname = 'sql' AND p.prokind IN ('f', 'p') AND p.prosrc <> '' \
              THEN pg_catalog.pg_get_functiondef(p.oid) ELSE p.prosrc END), \
     CASE WHEN l.lanname = 'sql' AND p.prokind IN ('f', 'p') AND p.prosrc = '' THEN {body} END \
     FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
     WHERE p.oid >= 16384 AND n.nspname !~ '^pg_temp_'";

fn printed_question(known: &Printed) -> String {
    let [using, with_check] = set_off::policy("p");
    let generated = "pg_catalog.pg_get_expr(d.adbin, d.adrelid)";
    let trigger = "pg_catalog.pg_get_triggerdef(g.oid)";
    let question = PRINTED
        .replace("{generated}", &print(generated, ("pg_attrdef", "d", ""), Depends::Whole))
        .replace("{using}", &using)
        .replace("{with check}", &with_check)
        .replace("{trigger}", &print(trigger, ("pg_trigger", "g", ""), Depends::Used))
        .replace(
            "{rule}",
            &print("pg_catalog.pg_get_ruledef(r.oid)", ("pg_rewrite", "r", ""), Depends::Whole),
        )
        .replace(
            "{view}",
            &print("pg_catalog.pg_get_viewdef(r.ev_class)", ("pg_rewrite", "r", ""), Depends::Whole),
        );
    known.ask(&question)
}

fn functions_question(known: &Printed) -> String {
    let body = print("pg_catalog.pg_get_functiondef(p.oid)", ("pg_proc", "p", ""), Depends::Whole);
    known.ask(&FUNCTIONS.replace("{body}", &body))
}

const SERVER: &str = "SELECT pg_catalog.getdatabaseencoding()::text, d.datcollate::text, d.datctype::text, \
     (pg_catalog.current_setting('server_version_num')::int4 / 10000)::text \
     FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";

/// Name and version of what collations and extensions are.
const VERSIONS: &str = "SELECT 'extension ' || extname, extversion FROM pg_catalog.pg_extension \
     UNION ALL SELECT 'collation ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname), \
         coalesce(pg_catalog.pg_collation_actual_version(c.oid), '') \
     FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace WHERE c.oid >= 16384";

/// A server's own properties that must be equal everywhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServerFacts {
    pub(crate) encoding: String,
    pub(crate) collation: String,
    pub(crate) character_type: String,
    pub(crate) major_version: String,
}

/// A function, for comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FunctionShape {
    pub(crate) name: String,
    pub(crate) hash: String,
    pub(crate) printed: Option<String>,
}

/// One shard's side of a database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShardCatalog {
    pub(crate) objects: ShardObjects,
    /// Definition in lines, by schema and name.
    pub(crate) tables: BTreeMap<(String, String), Vec<String>>,
    /// By name with the types of the arguments.
    pub(crate) functions: BTreeMap<String, FunctionShape>,
    pub(crate) server: ServerFacts,
    /// Versions of extensions and collations.
    pub(crate) versions: BTreeMap<String, String>,
    /// Definitions as the shard has printed them, for the next reading.
    pub(super) printed: Printed,
}

/// Reads one shard, in one snapshot; of the texts, those that are not `known` from before.
pub(super) async fn read(client: &Client, known: Option<&Printed>) -> Result<ShardCatalog> {
    let none = Printed::default();
    let known = known.unwrap_or(&none);
    client.batch_execute(START).await?;
    let (printed, functions) = (printed_question(known), functions_question(known));
    let tables = try_join(client.query(TABLES, &[]), client.query(&printed, &[]));
    let queries = try_join4(
        client.query(TYPES, &[]),
        tables,
        client.query(&functions, &[]),
        client.query_one(SERVER, &[]),
    );
    let read = try_join(queries, client.query(VERSIONS, &[])).await;
    // Also after an error: the connection goes back to its pool.
    client.batch_execute("ROLLBACK").await?;
    let ((types, (tables, printed), functions, server), versions) = read?;
    let mut shard = ShardCatalog::default();
    shard.objects.types = types.iter().map(type_shape).collect::<Result<_>>()?;
    let mut lines: HashMap<u32, Vec<String>> = HashMap::new();
    for row in &printed {
        let (oid, line, text): (u32, String, &str) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        lines.entry(oid).or_default().push(line + &known.text(text, &mut shard.printed));
    }
    for row in &tables {
        let (schema, name, oid): (String, String, u32) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let mut definition: Vec<String> = row.try_get(3)?;
        definition.extend(lines.remove(&oid).unwrap_or_default());
        shard.objects.tables.insert(format!("{schema}.{name}"), oid);
        shard.tables.insert((schema, name), definition);
    }
    for row in &functions {
        let printed: Option<&str> = row.try_get(3)?;
        let printed = printed.map(|text| known.text(text, &mut shard.printed));
        let shape = FunctionShape { name: row.try_get(1)?, hash: row.try_get(2)?, printed };
        shard.functions.insert(row.try_get(0)?, shape);
    }
    shard.server = ServerFacts {
        encoding: server.try_get(0)?,
        collation: server.try_get(1)?,
        character_type: server.try_get(2)?,
        major_version: server.try_get(3)?,
    };
    shard.versions =
        versions.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_>>()?;
    Ok(shard)
}

fn type_shape(row: &Row) -> Result<(String, TypeShape)> {
    Ok((row.try_get(0)?, TypeShape { oid: row.try_get(1)?, names: row.try_get(2)?, holds: row.try_get(3)? }))
}
