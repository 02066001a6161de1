//! Where a text may go that was not understood: by the names that occur in it, literals and bodies included.

use std::collections::HashSet;

use super::Context;
use crate::sql::facts::Scope;
use crate::sql::normalise::identifiers;
use crate::sql::schema::{Function, Placement, Touches};
use crate::sql::tokens::Tokens;

/// Home if no sharded or reference table's name and no function that may reach one occurs in the text, be it inside
/// of a string; else unknown. With it the tables named.
pub(super) fn scope(tokens: &Tokens<'_>, ctx: &Context<'_>, complaint: &str) -> (Scope, Vec<String>) {
    let mut tables: Vec<String> = Vec::new();
    let mut culprit: Option<String> = None;
    let mut looked_up: HashSet<Box<str>> = HashSet::new();
    identifiers(tokens.text, ctx.standard_conforming_strings, true, &mut |name| {
        // A look-up goes through all schemas; a text may say the same word a hundred thousand times.
        if !first_time(&mut looked_up, name) {
            return;
        }
        for relation in relations_named(ctx, name) {
            let full = relation.full_name();
            if relation.placement != Placement::Unsharded && culprit.is_none() {
                culprit = Some(format!("{complaint}; it names {full}"));
            }
            if tables.len() < 16 && !tables.contains(&full) {
                tables.push(full);
            }
        }
        let risky = |f: &Function| !f.built_in && f.touches_sharded == Touches::Unknown;
        if culprit.is_none() && ctx.schema.function(name).is_some_and(risky) {
            culprit = Some(format!("{complaint}; it names the function {name}"));
        }
    });
    if culprit.is_none() {
        culprit = unknown_call(tokens, ctx).map(|name| format!("{complaint}; it calls {name}, not known"));
    }
    match culprit {
        Some(why) => (Scope::Unknown { why }, tables),
        None => (Scope::Home, tables),
    }
}

fn first_time(seen: &mut HashSet<Box<str>>, name: &str) -> bool {
    !seen.contains(name) && seen.insert(name.into())
}

/// Whether a text that was not understood may leave something on the connection: judged by the words in it.
pub(super) fn leaves_state(tokens: &Tokens<'_>, ctx: &Context<'_>) -> bool {
    let mut found = false;
    identifiers(tokens.text, ctx.standard_conforming_strings, true, &mut |name| {
        let words = ["set_config", "temp", "temporary", "pg_temp", "listen", "prepare", "set"];
        let user = || ctx.schema.function(name).is_some_and(|f| !f.built_in && f.volatile);
        found |= words.contains(&name) || name.contains("advisory") || user();
    });
    found && !tokens.is_any(0, &["update", "insert"])
}

/// Relations of this name that are not the catalog's own, in whatever schema.
pub(super) fn relations_named<'c>(
    ctx: &Context<'c>,
    name: &str,
) -> impl Iterator<Item = std::sync::Arc<crate::sql::schema::Relation>> + use<'c> {
    let mut found = Vec::new();
    for schema in ctx.schema.schemas() {
        let relation = ctx.schema.lookup(&[], Some(schema), name);
        found.extend(relation.filter(|r| r.placement != Placement::Catalog));
    }
    found.into_iter()
}

/// A name before a parenthesis that is neither a known function or relation nor a word of the grammar.
fn unknown_call(tokens: &Tokens<'_>, ctx: &Context<'_>) -> Option<String> {
    let mut looked_up: HashSet<Box<str>> = HashSet::new();
    (0..tokens.len()).find_map(|at| {
        if !tokens.is_mark(at + 1, "(") {
            return None;
        }
        let name = tokens.name(at).filter(|name| first_time(&mut looked_up, name))?;
        let known = ctx.schema.function(&name).is_some()
            || relations_named(ctx, &name).next().is_some()
            || super::super::parse::is_keyword(&name);
        (!known).then(|| name.into_owned())
    })
}

/// Holds the extractor to the text: a sharded or reference table's name after FROM and the like must have been read as
/// that table. A difference means that the parser misread the statement.
pub(super) fn audit(t: &Tokens<'_>, ctx: &Context<'_>, seen: &[String]) -> Result<(), String> {
    if seen.len() >= 16 {
        return Ok(());
    }
    let words = ["from", "join", "into", "update", "using", "only", "table"];
    for at in 1..t.len() {
        if !t.is_any(at - 1, &words) {
            continue;
        }
        let Some((schema, name, next)) = t.qualified(at) else { continue };
        if t.is_mark(next, "(") && !t.is(at - 1, "into") {
            continue;
        }
        let Some(relation) = ctx.schema.lookup(ctx.search_path, schema.as_deref(), &name) else { continue };
        let placed = !matches!(relation.placement, Placement::Unsharded | Placement::Catalog);
        if !placed || seen.contains(&relation.full_name()) {
            continue;
        }
        // The name of a WITH query, or `IS DISTINCT FROM column`.
        let defines = |i: usize| {
            t.is_mark(i + 1, "(")
                || (t.is(i + 1, "as") && t.is_any(i + 2, &["materialized", "not"]))
                || (t.is(i + 1, "as") && t.is_mark(i + 2, "("))
        };
        let defined = (0..t.len()).any(|i| i != at && t.name(i).as_deref() == Some(&*name) && defines(i))
            || (at > 1 && t.is(at - 2, "distinct"));
        if !defined {
            return Err(format!("the table {} was not understood", relation.full_name()));
        }
    }
    Ok(())
}
