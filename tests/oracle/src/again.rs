//! The same statement in PostgreSQL's own spelling must have the same facts.
//!
//! Its tree is printed by PostgreSQL's parser library (all parentheses, casts, quotes and keywords in one form) and read
//! again: what a spelling hides from the proxy's reader shows as a difference.

use proxy::sql::Context;
use proxy::sql::analyse;
use proxy::sql::facts::{Command, Facts, KeyTerm, Pin, Scope, Sharded, ValueRef};
use proxy::sql::normalise::normalise;

/// The statement as PostgreSQL's library prints it.
pub fn printed(sql: &str) -> Option<String> {
    pg_query::parse(sql, 0).ok()?.deparse(pg_query::DeparseOptions::default()).ok()
}

/// What differs between the facts of a statement and of its print; `None` if nothing does, or one of them is refused.
pub fn difference(sql: &str, facts: &Facts, print: &str, context: &Context<'_>) -> Option<String> {
    let other = analyse(print, context);
    let refused = |f: &Facts| {
        matches!(f.scope, Scope::Unknown { .. }) || matches!(f.command, Command::Unreadable { .. })
    };
    if refused(facts) || refused(&other) {
        return None;
    }
    // Forms of the grammar are printed as calls, and what a `U&` string says is not read.
    let called = print.contains("pg_catalog.") && !sql.contains("pg_catalog.");
    if called || sql.to_lowercase().contains("u&") || weaker(facts, &other) {
        return None;
    }
    let (ours, theirs) = (signature(sql, facts), signature(print, &other));
    (ours != theirs).then(|| format!("printed as {print}\n        {ours}\n        {theirs}"))
}

/// Whether the first knows less of keys than the second: it is refused, or asks more shards.
fn weaker(facts: &Facts, other: &Facts) -> bool {
    let (Scope::Sharded(ours), Scope::Sharded(theirs)) = (&facts.scope, &other.scope) else { return false };
    let open = |s: &Sharded| s.groups.iter().all(|pin| *pin == Pin::Any);
    let refused = ours.no_concat.is_some() && ours.select.is_none() && open(ours);
    ours.groups.len() >= theirs.groups.len() && open(ours) && (!open(theirs) || refused)
}

fn signature(sql: &str, facts: &Facts) -> String {
    let mut tables = facts.tables.clone();
    tables.sort();
    let scope = match &facts.scope {
        Scope::Sharded(sharded) => placed(sql, sharded),
        other => format!("{other:?}"),
    };
    let access = std::mem::discriminant(&facts.access);
    format!(
        "{:?} {scope} {access:?} {:?} {tables:?} rows {} unrepeatable {}",
        std::mem::discriminant(&facts.command),
        facts.effects,
        facts.returns_rows,
        facts.unrepeatable.is_some(),
    )
}

fn placed(sql: &str, s: &Sharded) -> String {
    let mut groups: Vec<String> = s.groups.iter().map(|pin| pinned(sql, pin)).collect();
    groups.sort();
    let insert = s.insert.as_ref().map(|shape| {
        let rows: Vec<String> =
            shape.rows.iter().map(|row| format!("{} {:?}", term(sql, &row.key), row.params)).collect();
        format!("{rows:?} outside {:?} draw {}", shape.outside_params, shape.draw.is_some())
    });
    format!(
        "{groups:?} concat {} merge {:?} home {} reference {} key {} insert {insert:?} select {} colocated {}",
        s.no_concat.is_none(),
        s.gather.as_ref().map(|g| (g.keys.len(), g.folds.len(), g.limit.is_some(), g.offset.is_some())),
        s.needs_home.is_some(),
        s.writes_reference,
        s.updates_key,
        s.select.is_some(),
        s.colocated_insert_select,
    )
}

fn pinned(sql: &str, pin: &Pin) -> String {
    match pin {
        Pin::Keys(terms) => {
            let mut all: Vec<String> = terms.iter().map(|t| term(sql, t)).collect();
            all.sort();
            format!("{all:?}")
        }
        Pin::Array(array) => format!("array {}", term(sql, array)),
        other => format!("{other:?}"),
    }
}

fn term(sql: &str, term: &KeyTerm) -> String {
    let value = match term.value {
        // Printed as `true`.
        ValueRef::Literal(_) if term.cast.as_deref().is_some_and(|c| c.starts_with("bool")) => {
            return "Computed".to_string();
        }
        ValueRef::Literal(n) => {
            let literals = normalise(sql.as_bytes(), true).literals;
            let value = literals.get(n as usize).and_then(|l| l.value(sql.as_bytes(), true));
            format!("{value:?}")
        }
        ref other => format!("{other:?}"),
    };
    format!("{}{value}{}", if term.negated { "-" } else { "" }, if term.cast.is_some() { "::" } else { "" })
}
