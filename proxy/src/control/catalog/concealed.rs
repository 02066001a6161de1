//! Reads which functions run where no call names them, and keeps those that may read tables.

use std::collections::HashMap;

use super::rows::TextRow;
use crate::sql::concealed::{Concealed, Look};
use crate::sql::schema::{Function, Touches};
use crate::sql::stored::{Token, tokens};

/// Each row: how it looks in a statement (empty: any statement may run it), the word or operator, and SQL that names the functions.
///
/// A function that belongs to a type runs where a value of that type, or of one made of it, may be: where the type is named, a
/// relation with columns of it, a function or an operator that gives or takes it. What concerns types of PostgreSQL's own alone may run
/// anywhere. Functions in C that are IMMUTABLE read no tables.
pub(super) const CONCEALED: &str = "WITH RECURSIVE f (oid, text) AS ( \
       SELECT p.oid, pg_catalog.quote_ident(p.proname) FROM pg_catalog.pg_proc p \
       JOIN pg_catalog.pg_language l ON l.oid = p.prolang WHERE p.oid >= 16384 \
         AND NOT (l.lanname IN ('c', 'internal') AND (p.provolatile = 'i' OR l.lanname = 'internal'))), \
     o AS (SELECT o.oid, o.oprname::text AS name, o.oprleft, o.oprright, o.oprresult, o.oprcode, \
         EXISTS (SELECT FROM pg_catalog.pg_operator b WHERE b.oprname = o.oprname AND b.oid < 16384) AS known \
       FROM pg_catalog.pg_operator o WHERE o.oid >= 16384), \
     runs (type, text) AS ( \
       SELECT pg_catalog.unnest(ARRAY[o.oprleft, o.oprright]), f.text FROM o JOIN f ON f.oid = o.oprcode WHERE o.known \
       UNION SELECT pg_catalog.unnest(ARRAY[m.amoplefttype, m.amoprighttype]), f.text FROM pg_catalog.pg_amop m \
         JOIN o ON o.oid = m.amopopr JOIN f ON f.oid = o.oprcode \
       UNION SELECT pg_catalog.unnest(ARRAY[m.amproclefttype, m.amprocrighttype]), f.text FROM pg_catalog.pg_amproc m \
         JOIN f ON f.oid = m.amproc \
       UNION SELECT CASE WHEN c.castsource >= 16384 THEN c.castsource ELSE c.casttarget END, f.text \
         FROM pg_catalog.pg_cast c JOIN f ON f.oid = c.castfunc \
       UNION SELECT t.oid, f.text FROM pg_catalog.pg_type t \
         JOIN f ON f.oid IN (t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin) WHERE t.oid >= 16384 \
       UNION SELECT r.rngtypid, f.text FROM pg_catalog.pg_range r JOIN f ON f.oid IN (r.rngcanonical, r.rngsubdiff) \
       UNION SELECT c.contypid, pg_catalog.pg_get_constraintdef(c.oid) FROM pg_catalog.pg_constraint c \
         WHERE c.contypid >= 16384 AND c.contype = 'c'), \
     wanted (type, text) AS (SELECT type, text FROM runs WHERE type >= 16384 \
       UNION SELECT 0, r.text FROM runs r WHERE r.type < 16384 AND r.type <> 0 AND NOT EXISTS ( \
         SELECT FROM runs s WHERE s.text = r.text AND s.type >= 16384)), \
     made (of, oid) AS ( \
       SELECT typelem, oid FROM pg_catalog.pg_type WHERE typelem <> 0 \
       UNION ALL SELECT typbasetype, oid FROM pg_catalog.pg_type WHERE typtype = 'd' \
       UNION ALL SELECT rngsubtype, rngtypid FROM pg_catalog.pg_range \
       UNION ALL SELECT a.atttypid, t.oid FROM pg_catalog.pg_type t JOIN pg_catalog.pg_attribute a \
         ON a.attrelid = t.typrelid WHERE t.oid >= 16384 AND a.attnum > 0), \
     types (type, text) AS (SELECT type, text FROM wanted WHERE type <> 0 \
       UNION SELECT made.oid, types.text FROM made JOIN types ON made.of = types.type) \
     SELECT '' AS look, '' AS word, text FROM wanted WHERE type = 0 \
     UNION SELECT 'name', t.typname::text, types.text FROM types JOIN pg_catalog.pg_type t ON t.oid = types.type \
     UNION SELECT 'name', p.proname::text, types.text FROM types JOIN pg_catalog.pg_proc p ON p.oid >= 16384 AND ( \
       p.prorettype = types.type OR types.type = ANY (coalesce(p.proallargtypes, p.proargtypes))) \
     UNION SELECT 'sign', o.name, types.text FROM types JOIN o ON o.oprresult = types.type \
     UNION SELECT 'sign', o.name, f.text FROM o JOIN f ON f.oid = o.oprcode \
       WHERE NOT o.known OR (o.oprleft < 16384 AND o.oprright < 16384) \
     UNION SELECT 'attribute', p.proname::text, f.text FROM f JOIN pg_catalog.pg_proc p ON p.oid = f.oid \
       JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0] AND (t.typtype IN ('c', 'p') OR (t.typtype = 'd' AND EXISTS ( \
         SELECT FROM pg_catalog.pg_type b WHERE b.oid = t.typbasetype AND b.typtype IN ('c', 'd')))) \
       WHERE p.prokind = 'f' AND p.pronargs - p.pronargdefaults <= 1";

/// Those of the functions that may read tables.
pub(super) fn concealed(
    rows: &[TextRow],
    functions: &HashMap<String, Function>,
    before: &Concealed,
) -> Concealed {
    let mut found = Concealed::default();
    for row in rows {
        let look = match row.text(0) {
            "name" => Some(Look::Name),
            "sign" => Some(Look::Sign),
            "attribute" => Some(Look::Attribute),
            _ => None,
        };
        if let Some(function) = worst(row.text(2), functions, before) {
            found.add(look, row.text(1), function);
        }
    }
    found
}

/// Of the functions that this SQL runs, the one whose reach is the greatest hindrance.
fn worst<'a>(sql: &str, functions: &'a HashMap<String, Function>, before: &Concealed) -> Option<&'a str> {
    let all = tokens(sql);
    let named = all.iter().filter_map(Token::name);
    let rank = |function: &Function| {
        let unknown = function.touches_sharded == Touches::Unknown;
        [unknown, function.reach.home, function.reach.reads].iter().position(|holds| *holds)
    };
    named
        .chain(before.met_in_stored(sql))
        .filter_map(|name| functions.get_key_value(name))
        .filter(|(_, function)| !function.built_in)
        .filter_map(|(name, function)| Some((rank(function)?, name.as_str())))
        .min()
        .map(|(_, name)| name)
}
