//! What is asked about relations, types and settings, of one database on the home shard.
//!
//! `{first}` is the OID below which objects are left out, `{definition}` what a view's definition is asked with.

use super::printed::{Depends, Printed, print};
use crate::sql::schema::FIRST_USER_OID;

pub(super) const START: &str = "SELECT pg_catalog.set_config('search_path', '', true)";

/// `search_path` of the database, else of the server; not that of the control role.
pub(super) const SETTINGS: &str = "SELECT pg_catalog.getdatabaseencoding()::text, coalesce( \
     (SELECT pg_catalog.substr(c, 13) FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c \
      WHERE s.setrole = 0 AND c LIKE 'search\\_path=%' AND s.setdatabase = \
      (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())), \
     (SELECT setting FROM pg_catalog.pg_file_settings WHERE name = 'search_path' AND applied LIMIT 1), \
     '\"$user\", public')";

/// Without `pg_file_settings`, which needs a superuser or a grant.
pub(super) const SETTINGS_PLAIN: &str = "SELECT pg_catalog.getdatabaseencoding()::text, coalesce( \
     (SELECT pg_catalog.substr(c, 13) FROM pg_catalog.pg_db_role_setting s, unnest(s.setconfig) c \
      WHERE s.setrole = 0 AND c LIKE 'search\\_path=%' AND s.setdatabase = \
      (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())), \
     '\"$user\", public')";

/// Settings of roles, those for this database last: they come before the others. What is set for all roles of the database alone
/// is in [`SETTINGS`].
pub(super) const ROLE_SETTINGS: &str = "SELECT coalesce(r.rolname::text, ''), pg_catalog.lower(pg_catalog.split_part(c, '=', 1)), \
     pg_catalog.substr(c, pg_catalog.strpos(c, '=') + 1) \
     FROM pg_catalog.pg_db_role_setting s LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole, \
     pg_catalog.unnest(s.setconfig) c WHERE (s.setrole = 0) = (r.oid IS NULL) AND s.setdatabase IN \
     (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())) \
     ORDER BY s.setdatabase";

const RELATIONS: &str = "SELECT c.oid, n.nspname::text, c.relname::text, c.relkind::text, \
     ARRAY(SELECT i.inhparent FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid), \
     {definition}, \
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
const COLUMNS: &str = "WITH RECURSIVE made (of, oid) AS ( \
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
pub(super) const DOMAINS: &str = "WITH RECURSIVE d (oid, base, modifier) AS ( \
       SELECT oid, typbasetype, typtypmod FROM pg_catalog.pg_type WHERE typtype = 'd' \
       UNION ALL SELECT d.oid, t.typbasetype, t.typtypmod FROM d \
         JOIN pg_catalog.pg_type t ON t.oid = d.base AND t.typtype = 'd') \
     SELECT d.oid, d.base, d.modifier FROM d \
     JOIN pg_catalog.pg_type b ON b.oid = d.base AND b.typtype <> 'd'";

pub(super) const TYPES: &str = "SELECT t.typname::text, t.oid, n.nspname::text FROM pg_catalog.pg_type t \
     JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
     WHERE t.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp_)' ORDER BY t.oid";

/// The column of [`relations`] that has a view's definition.
pub(super) const DEFINITION: usize = 5;

/// Relations from an OID on, with the definitions of views that are not `printed` yet.
pub(super) fn relations(first: u32, printed: &Printed) -> String {
    let text = "pg_catalog.pg_get_viewdef(c.oid, true)";
    let definition = format!(
        "(SELECT {} FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.ev_type = '1' \
           AND c.relkind IN ('v', 'm') AND c.oid >= 16384)",
        print(text, ("pg_rewrite", "r", ""), Depends::Whole)
    );
    printed.ask(&of_oids(RELATIONS, first).replace("{definition}", &definition))
}

/// Columns of relations from an OID on.
pub(super) fn columns(first: u32) -> String {
    of_oids(COLUMNS, first)
}

/// Relations, without definitions, and columns of the temporary tables of the session that asks.
pub(super) fn temporary() -> [String; 2] {
    [RELATIONS, COLUMNS].map(|sql| {
        let of_session =
            sql.replace("n.nspname !~ '^pg_(toast|temp_)'", "n.oid = pg_catalog.pg_my_temp_schema()");
        of_oids(&of_session, FIRST_USER_OID).replace("{definition}", "NULL")
    })
}

fn of_oids(sql: &str, first: u32) -> String {
    sql.replace("{first}", &first.to_string())
}
