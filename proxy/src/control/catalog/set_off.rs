//! Reads what the use of a relation sets off: triggers, rules, foreign keys, policies, checks.

use std::collections::HashSet;

use futures_util::future::try_join;
use router_config::topology::Topology;
use tokio_postgres::{Row, Transaction};

use super::load::split_search_path;
use super::place::Draft;
use super::triggers::{Expression, ForeignKey, Rule, SetOff, Trigger};
use crate::sql::schema::{Deed, Function, Placement, Touches};

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

const TRIGGERS: &str = "SELECT t.tgrelid, t.tgname::text, p.proname::text, t.tgtype::int4, l.lanname::text, p.prosrc, \
     pg_catalog.pg_get_triggerdef(t.oid), (SELECT pg_catalog.substr(c, 13) FROM unnest(p.proconfig) c \
      WHERE c LIKE 'search\\_path=%' LIMIT 1) \
     FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
     JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
     WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' ORDER BY t.oid";

const RULES: &str = "SELECT ev_class, rulename::text, ev_type::text, pg_catalog.pg_get_ruledef(oid) \
     FROM pg_catalog.pg_rewrite WHERE ev_type <> '1' AND ev_enabled <> 'D' AND ev_class >= 16384 ORDER BY oid";

const FOREIGN_KEYS: &str = "SELECT c.conname::text, c.conrelid, c.confrelid, c.confupdtype::text, c.confdeltype::text, \
     ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a \
           WHERE a.attrelid = c.conrelid AND a.attnum = ANY (c.conkey)) \
     FROM pg_catalog.pg_constraint c WHERE c.contype = 'f' ORDER BY c.oid";

/// Policies and checks; the last column is empty for a policy's condition, `c` for its WITH CHECK and for checks.
const EXPRESSIONS: &str = "SELECT p.polrelid, 'the policy ' || p.polname, e.text, e.kind \
     FROM pg_catalog.pg_policy p JOIN pg_catalog.pg_class r ON r.oid = p.polrelid AND r.relrowsecurity, \
     LATERAL (VALUES (pg_catalog.pg_get_expr(p.polqual, p.polrelid), ''), \
                     (pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), 'c')) e (text, kind) \
     WHERE e.text IS NOT NULL \
     UNION ALL SELECT conrelid, 'the check ' || conname, pg_catalog.pg_get_expr(conbin, conrelid), 'c' \
     FROM pg_catalog.pg_constraint WHERE contype = 'c' AND conrelid >= 16384";

/// Reads it all. `functions` are those of the schema.
pub(crate) async fn read(
    tx: &Transaction<'_>,
    drafts: &[Draft],
    functions: &std::collections::HashMap<String, Function>,
    topology: &Topology,
) -> Result<SetOff> {
    let triggers_and_rules = try_join(tx.query(TRIGGERS, &[]), tx.query(RULES, &[]));
    let keys_and_expressions = try_join(tx.query(FOREIGN_KEYS, &[]), tx.query(EXPRESSIONS, &[]));
    let ((triggers, rules), (keys, expressions)) = try_join(triggers_and_rules, keys_and_expressions).await?;
    let mut set_off = SetOff {
        triggers: triggers.iter().map(trigger).collect::<Result<_>>()?,
        rules: rules.iter().map(rule).collect::<Result<_>>()?,
        foreign_keys: keys.iter().map(foreign_key).collect::<Result<_>>()?,
        expressions: expressions.iter().map(expression).collect::<Result<_>>()?,
        parts: Vec::new(),
        trusted: topology.functions.iter().map(|rule| rule.name.clone()).collect::<HashSet<_>>(),
    };
    for draft in drafts.iter().filter(|draft| !draft.system) {
        let own = draft.relation.oid;
        set_off.parts.extend(draft.parents.iter().map(|&parent| (parent, own)));
        set_off.parts.extend(draft.view.iter().flat_map(|(_, bases)| bases.iter().map(|&base| (own, base))));
        set_off.expressions.extend(defaults(draft, functions));
    }
    Ok(set_off)
}

/// Defaults of a sharded table's columns that call a function which may reach tables. That of the key is drawn on the home
/// shard.
fn defaults(draft: &Draft, functions: &std::collections::HashMap<String, Function>) -> Vec<Expression> {
    let Placement::Sharded { key_column, .. } = draft.relation.placement else { return Vec::new() };
    let columns = draft.relation.columns.iter().enumerate().filter(|(at, _)| *at != key_column);
    let of_column = |(_, column): (usize, &crate::sql::schema::Column)| {
        let text = column.default.clone()?;
        let reaches = super::scan::tokens(&text).iter().filter_map(super::scan::Token::name).any(|name| {
            functions
                .get(name)
                .is_some_and(|known| !known.built_in && known.touches_sharded == Touches::Unknown)
        });
        let what = format!("the default of the column {}", column.name);
        let deeds = vec![Deed::Insert, Deed::Update];
        reaches.then_some(Expression { relation: draft.relation.oid, what, text, deeds })
    };
    columns.filter_map(of_column).collect()
}

fn trigger(row: &Row) -> Result<Trigger> {
    Ok(Trigger {
        relation: row.try_get(0)?,
        name: row.try_get(1)?,
        function: row.try_get(2)?,
        bits: row.try_get(3)?,
        language: row.try_get(4)?,
        body: row.try_get(5)?,
        definition: row.try_get(6)?,
        search_path: row.try_get::<_, Option<&str>>(7)?.map(split_search_path),
    })
}

fn rule(row: &Row) -> Result<Rule> {
    Ok(Rule {
        relation: row.try_get(0)?,
        name: row.try_get(1)?,
        event: row.try_get(2)?,
        definition: row.try_get(3)?,
    })
}

fn foreign_key(row: &Row) -> Result<ForeignKey> {
    Ok(ForeignKey {
        name: row.try_get(0)?,
        child: row.try_get(1)?,
        parent: row.try_get(2)?,
        actions: [row.try_get(3)?, row.try_get(4)?],
        columns: row.try_get(5)?,
    })
}

fn expression(row: &Row) -> Result<Expression> {
    let writes = vec![Deed::Insert, Deed::Update];
    let deeds = if row.try_get::<_, &str>(3)? == "c" { writes } else { Deed::ALL.to_vec() };
    Ok(Expression { relation: row.try_get(0)?, what: row.try_get(1)?, text: row.try_get(2)?, deeds })
}
