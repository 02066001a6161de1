//! Facts of commands that the parser never sees: session commands, DDL, LOCK, DO, CALL.

use super::calls::{node_call, of_node};
use super::{Context, base, scan};
use crate::sql::clocks::is_clock;
use crate::sql::defining::block_writes;
use crate::sql::facts::{Access, Command, DdlKind, Effects, Facts, PinCause, Scope};
use crate::sql::leavings::block_leaves;
use crate::sql::lexer::Lexer;
use crate::sql::normalise::{identifier, identifiers};
use crate::sql::schema::{Deed, Function, Placement, Relation, Touches};
use crate::sql::stored::{Token, tokens};
use crate::sql::tokens::Tokens;
use std::sync::Arc;

/// Facts of a session command.
pub(super) fn session(command: Command) -> Facts {
    let (scope, access, pins, rows) = match &command {
        Command::Listen(_) => (Scope::Home, Access::Write, Some(PinCause::Listen), false),
        Command::Unlisten(_) | Command::Notify(_) | Command::TwoPhase => {
            (Scope::Home, Access::Write, None, false)
        }
        Command::Show(name) if of_node(name) => {
            let why = "a setting that a standby has otherwise".to_string();
            (Scope::Nothing, Access::ReadPrimary(why), None, true)
        }
        Command::Show(_) | Command::Fetch(_) | Command::Execute(_) => {
            (Scope::Nothing, Access::Read, None, true)
        }
        _ => (Scope::Nothing, Access::Read, None, false),
    };
    let mut facts = base(command, scope);
    facts.access = access;
    facts.returns_rows = rows;
    facts.effects = Effects { pins, ..Effects::default() };
    facts
}

/// Facts of a statement that nobody looks into: the home shard's primary answers it.
pub(super) fn other(tokens: &Tokens<'_>) -> Facts {
    let mut facts = base(Command::Other, Scope::Home);
    facts.access = Access::Write;
    if tokens.is(0, "load") {
        facts.effects.pins = Some(PinCause::Library);
    }
    facts
}

/// Relations whose names occur in the statement outside of literals.
fn mentioned(t: &Tokens<'_>, ctx: &Context<'_>, from: usize) -> Vec<Arc<Relation>> {
    let mut found: Vec<Arc<Relation>> = Vec::new();
    let mut at = from;
    while at < t.len() {
        let Some((schema, name, next)) = t.qualified(at) else {
            at += 1;
            continue;
        };
        if let Some(relation) = ctx.schema.lookup(ctx.search_path, schema.as_deref(), &name) {
            let known = relation.placement == Placement::Catalog
                || found.iter().any(|f| f.oid == relation.oid && f.name == relation.name);
            if !known {
                found.push(relation);
            }
        }
        at = next;
    }
    found
}

/// LOCK TABLE: where the tables are.
pub(super) fn lock(t: &Tokens<'_>, ctx: &Context<'_>) -> Facts {
    let tables = mentioned(t, ctx, 1);
    let everywhere = tables.iter().any(|r| r.placement != Placement::Unsharded);
    let mut facts = base(Command::Lock, if everywhere { Scope::Everywhere } else { Scope::Home });
    facts.access = Access::Write;
    facts.tables = tables.iter().take(16).map(|r| r.full_name()).collect();
    facts
}

/// DO: what its body names decides. DDL in it is for every shard.
pub(super) fn anonymous_block(t: &Tokens<'_>, ctx: &Context<'_>) -> Facts {
    const DDL: [&str; 8] = ["create", "alter", "drop", "grant", "revoke", "comment", "reassign", "security"];
    let (mut scope, tables) = scan::scope(t, ctx, "the body of a DO block");
    let (mut defines, mut computes) = (false, None);
    identifiers(t.text, ctx.standard_conforming_strings, true, &mut |name| {
        defines |= DDL.contains(&name);
        if matches!(name, "execute" | "search_path" | "set_config") {
            computes = Some(format!("a DO block with {name}, which is not followed"));
        }
    });
    let mut facts = base(Command::Call, Scope::Nothing);
    facts.access = Access::Write;
    let text = String::from_utf8_lossy(t.text);
    facts.effects.pins = block_leaves(&text, ctx.schema).then_some(PinCause::Settings);
    match (&scope, computes) {
        (Scope::Home, Some(why)) => scope = Scope::Unknown { why },
        (Scope::Home, None) if defines && tables.is_empty() => {
            facts.barred = block_writes(&text, ctx.schema).map(|what| {
                format!("a DO block with DDL runs on every shard, and each would do its {what} again: send them apart")
            });
            facts.barred = facts.barred.or_else(|| ctx.schema.event_trigger.clone());
            facts.command = Command::Ddl(DdlKind::Transactional);
            facts.effects.changes_catalog = true;
            facts.effects.pins = None;
            scope = Scope::Everywhere;
        }
        (Scope::Home, None) if defines => {
            scope = Scope::Unknown { why: "a DO block with DDL that also names tables".to_string() };
        }
        _ => {}
    }
    facts.scope = scope;
    facts.tables = tables;
    facts
}

/// The first function of a text that must not run separately on several shards.
pub(super) fn unrepeatable_name(ctx: &Context<'_>, text: &[u8]) -> Option<String> {
    Lexer::new(text, true).find_map(|token| {
        let name = identifier(token.kind, &text[token.start..token.end]);
        let varies = |f: &Function| (f.volatile && !f.aggregate) || f.reach.stable || f.reach.clock;
        let volatile = ctx.schema.function(&name).is_some_and(varies);
        (volatile || is_clock(&name)).then(|| name.into_owned())
    })
}

/// What makes the default of a column another value on each shard. A computed text that becomes a date may name the time; PostgreSQL
/// stores it with parentheses around.
pub(super) fn varying_default(ctx: &Context<'_>, default: &str) -> Option<String> {
    let cast = [")::date", ")::time", ")::daterange", ")::ts"].iter().any(|cast| default.contains(cast));
    let named = cast.then(|| "a text that becomes a date or time".to_owned());
    unrepeatable_name(ctx, default.as_bytes()).or_else(|| node_call(default)).or(named)
}

/// What in a default is one value for all rows of a statement, and another one on each shard.
pub(super) fn clock_of_default(ctx: &Context<'_>, default: &str) -> Option<String> {
    let varies = |name: &str| {
        let own = ctx.schema.function(name).is_some_and(|f| f.reach.stable || f.reach.clock);
        is_clock(name) || own
    };
    let tokens = tokens(default);
    let found = tokens.iter().filter_map(Token::name).find(|name| varies(name)).map(str::to_owned);
    found.or_else(|| varying_default(ctx, default).filter(|what| what.contains(' ')))
}

/// CREATE, ALTER, DROP, GRANT, TRUNCATE, VACUUM, …
pub(super) fn ddl(t: &Tokens<'_>, ctx: &Context<'_>) -> Facts {
    let kind = ddl_kind(t, ctx);
    let tables = mentioned(t, ctx, 1);
    let scope = match kind {
        DdlKind::Transactional | DdlKind::NonTransactional => Scope::Everywhere,
        DdlKind::Temporary | DdlKind::Home => Scope::Home,
    };
    let mut facts = base(Command::Ddl(kind), scope);
    facts.access = Access::Write;
    facts.returns_rows = false;
    facts.tables = tables.iter().take(16).map(|r| r.full_name()).collect();
    // Defaults, expressions of indexes and queries are evaluated by some commands.
    let called = (0..t.len()).any(|at| t.is(at, "set_config") || t.keyword(at).contains("advisory"));
    facts.effects.spoils = called || ctx.schema.functions.values().any(|function| function.reach.leaves);
    // RESTART IDENTITY: sequences are aligned as after DDL.
    let restarts = t.is(0, "truncate") && (1..t.len()).any(|i| t.is(i, "restart"));
    facts.effects.changes_catalog = restarts
        || !matches!(
            t.keyword(0).as_str(),
            "truncate" | "vacuum" | "analyze" | "analyse" | "cluster" | "reindex"
        );
    if kind == DdlKind::Temporary {
        facts.effects.pins = Some(PinCause::Temporary);
        facts.effects.changes_catalog = false;
        shadowing(t, ctx, &mut facts);
        over_sharded(t, ctx, &tables, &mut facts);
        sets_off(t, &mut facts);
    }
    if tables.iter().any(|r| r.placement == Placement::Reference) && rewrites(t) {
        let evaluated = evaluated(t);
        let name = unrepeatable_name(ctx, evaluated.as_bytes()).or_else(|| node_call(&evaluated));
        facts.unrepeatable = name.map(|name| format!("{name}()"));
    }
    reads_in_ddl(t, ctx, &mut facts);
    super::reshape::note(t, ctx, &mut facts);
    if let Some(why) = of_roles(t) {
        facts.barred = Some(format!("{why}; set it by SET, or in the connection's options"));
    }
    if kind == DdlKind::Transactional && (1..t.len()).any(|at| t.is(at, "as") && t.is(at + 1, "execute")) {
        let why = "no statement is prepared on every shard: write the query itself in place of EXECUTE";
        facts.barred = Some(why.to_owned());
    }
    if !fires_no_event_trigger(t) && facts.barred.is_none() {
        facts.barred.clone_from(&ctx.schema.event_trigger);
    }
    if t.is(0, "truncate") {
        facts.barred = tables.iter().find_map(|r| ctx.schema.hazard(r, Deed::Truncate)).map(str::to_owned);
    }
    facts
}

/// Commands about event triggers themselves, and those that PostgreSQL fires none for.
fn fires_no_event_trigger(t: &Tokens<'_>) -> bool {
    let shared = ["database", "tablespace", "role", "user", "group", "system", "event"];
    t.is_any(0, &["truncate", "vacuum", "analyze", "analyse", "cluster", "reindex"]) || t.is_any(1, &shared)
}

/// Why a setting is not one to be kept for a role or a database.
fn of_roles(t: &Tokens<'_>) -> Option<&'static str> {
    if !(t.is(0, "alter") && t.is_any(1, &["role", "user", "database"])) {
        return None;
    }
    let says = |name| (2..t.len()).any(|at| t.is(at, name));
    if says("search_path") {
        Some(
            "sessions that are logged in keep their search_path, others do not: names would mean different tables",
        )
    } else if says("set") && says("gavel") {
        Some("a routing hint is the proxy's, which does not read it there")
    } else {
        None
    }
}

/// ALTER TABLE … ADD COLUMN or TYPE … USING may compute values for existing rows.
fn rewrites(t: &Tokens<'_>) -> bool {
    t.is(0, "alter")
}

/// The statement without the defaults that it sets for rows to come.
fn evaluated(t: &Tokens<'_>) -> String {
    let mut text = String::new();
    for (from, to) in t.items(0, t.len()) {
        let sets = (from + 1..to).find(|&at| t.is(at, "default") && t.is(at - 1, "set"));
        if let Some(last) = sets.unwrap_or(to).checked_sub(1).filter(|last| *last >= from) {
            text.push_str(&t.source(from, last));
            text.push(' ');
        }
    }
    text
}

/// A temporary table named like a sharded or reference one would hide it from the proxy's sight.
fn shadowing(t: &Tokens<'_>, ctx: &Context<'_>, facts: &mut Facts) {
    if !t.is(0, "create") {
        return;
    }
    let mut at = 1;
    let skip = [
        "or",
        "replace",
        "global",
        "local",
        "temp",
        "temporary",
        "recursive",
        "table",
        "view",
        "sequence",
        "if",
        "not",
        "exists",
    ];
    while t.is_any(at, &skip) {
        at += 1;
    }
    let Some((_, name, _)) = t.qualified(at) else { return };
    let hidden = ctx.schema.lookup(ctx.search_path, None, &name);
    if hidden.is_some_and(|r| !matches!(r.placement, Placement::Unsharded | Placement::Catalog)) {
        facts.scope =
            Scope::Unknown { why: format!("a temporary object named {name} would hide the table {name}") };
    }
}

/// What rows of a temporary table set off would run on its shard, whatever tables it is about.
fn sets_off(t: &Tokens<'_>, facts: &mut Facts) {
    let made = |i: usize| t.is_any(i, &["trigger", "rule", "policy"]);
    if t.is(0, "create")
        && let Some(at) = (1..5).find(|&i| made(i))
    {
        let why = format!("what a {} of a temporary table sets off is not followed", t.keyword(at));
        facts.scope = Scope::Unknown { why };
    }
}

/// The first call of a function that may reach sharded tables.
fn unknown_call(t: &Tokens<'_>, ctx: &Context<'_>, from: usize) -> Option<String> {
    (from..t.len()).find_map(|i| {
        let name = t.name(i).filter(|_| t.is_mark(i + 1, "("))?;
        let function = ctx.schema.function(&name)?;
        (!function.built_in && function.touches_sharded == Touches::Unknown).then(|| name.into_owned())
    })
}

/// A temporary view or child of a sharded table is known to one conn alone, and would show the rows of one shard as if they were
/// all. `LIKE` only copies the columns.
fn over_sharded(t: &Tokens<'_>, ctx: &Context<'_>, tables: &[Arc<Relation>], facts: &mut Facts) {
    if !t.is(0, "create") || matches!(facts.scope, Scope::Unknown { .. }) {
        return;
    }
    let copied = |name: &str| {
        (1..t.len()).any(|i| t.is(i - 1, "like") && t.qualified(i).is_some_and(|(_, liked, _)| liked == name))
    };
    let view = (1..7).any(|i| t.is(i, "view"));
    let kind = if view { "view" } else { "object" };
    let why = match tables.iter().find(|r| r.key_type().is_some() && !copied(&r.name)) {
        Some(sharded) => Some(format!(
            "a temporary {kind} over the sharded table {}: make it a permanent one",
            sharded.full_name()
        )),
        None if view => unknown_call(t, ctx, 1)
            .map(|name| format!("a temporary view calls {name}, which may reach sharded tables")),
        None => None,
    };
    if let Some(why) = why {
        facts.scope = Scope::Unknown { why };
    }
}

/// CREATE TABLE AS and the like read tables: not those that are sharded.
fn reads_in_ddl(t: &Tokens<'_>, ctx: &Context<'_>, facts: &mut Facts) {
    let creates = t.is(0, "create") && (1..6).any(|i| t.is_any(i, &["table", "materialized"]));
    let starts = ["select", "with", "values", "table", "execute"];
    let body = (1..t.len()).find(|&i| {
        t.is(i, "as") && (t.is_any(i + 1, &starts) || (t.is_mark(i + 1, "(") && t.is_any(i + 2, &starts)))
    });
    let Some(body) = body.filter(|_| creates) else { return };
    let read = mentioned(t, ctx, body + 1);
    let materialized = (1..4).any(|i| t.is(i, "materialized"));
    if let Some(sharded) = read.iter().find(|r| r.key_type().is_some() && !materialized) {
        let why = format!("CREATE TABLE AS reads the sharded table {}", sharded.full_name());
        facts.scope = Scope::Unknown { why };
    }
    if let Some(name) = unknown_call(t, ctx, body) {
        facts.scope =
            Scope::Unknown { why: format!("CREATE TABLE AS calls {name}, which may reach sharded tables") };
    }
}

fn ddl_kind(t: &Tokens<'_>, ctx: &Context<'_>) -> DdlKind {
    let words: Vec<String> = (0..8).map(|i| t.keyword(i)).collect();
    let word = |i: usize| words[i].as_str();
    let has = |name: &str| words.iter().any(|w| w == name);
    match (word(0), word(1)) {
        ("create" | "drop" | "alter", "database" | "tablespace") => {
            // Settings, owner and limits of the database are the same on every shard, and transactional.
            if word(0) == "alter" && word(1) == "database" && !has("tablespace") && !has("rename") {
                DdlKind::Transactional
            } else {
                DdlKind::Home
            }
        }
        ("alter", "system") => DdlKind::NonTransactional,
        ("create" | "alter" | "drop", "subscription") => DdlKind::Home,
        ("vacuum" | "analyze" | "analyse" | "reindex" | "create" | "drop", _) if temporary_target(t, ctx) => {
            DdlKind::Temporary
        }
        ("vacuum", _) => DdlKind::NonTransactional,
        ("cluster", "") => DdlKind::NonTransactional,
        ("reindex", _) if has("concurrently") || has("database") || has("system") || has("schema") => {
            DdlKind::NonTransactional
        }
        // It makes a temporary table, and so forbids to prepare.
        ("refresh", "materialized") if has("concurrently") => DdlKind::NonTransactional,
        ("create" | "drop", "index" | "unique") if has("concurrently") => DdlKind::NonTransactional,
        ("alter", "table") if detaches(t) => DdlKind::NonTransactional,
        ("create", _) if (1..5).any(|i| t.is_any(i, &["temp", "temporary"])) => DdlKind::Temporary,
        ("drop", "index") if (2..5).any(|i| t.is(i, "concurrently")) => DdlKind::NonTransactional,
        _ if temporary_target(t, ctx) => DdlKind::Temporary,
        _ => DdlKind::Transactional,
    }
}

fn detaches(t: &Tokens<'_>) -> bool {
    let detach = (2..t.len()).any(|i| t.is(i, "detach") && t.is(i + 1, "partition"));
    detach && (2..t.len()).any(|i| t.is(i, "concurrently"))
}

/// Whether the object is one of `pg_temp`, or a table that only the session can know.
fn temporary_target(t: &Tokens<'_>, ctx: &Context<'_>) -> bool {
    if (1..t.len()).any(|i| t.is(i, "pg_temp") && t.is_mark(i + 1, ".")) {
        return true;
    }
    let Some(mut at) = target(t) else { return false };
    while t.is_any(at, &["if", "exists", "only", "table", "concurrently"]) {
        at += 1;
    }
    let name = match t.qualified(at) {
        Some((None, name, _)) => name,
        // COMMENT ON COLUMN
        Some((Some(table), _, end)) if t.is(2, "column") && end == at + 3 => table,
        _ => return false,
    };
    let found = ctx.schema.lookup(ctx.search_path, None, &name);
    ctx.temp_tables && found.is_none_or(|relation| relation.is_temporary())
}

/// Where the name of the first table stands that a command is about, words like ONLY in front of it included.
fn target(t: &Tokens<'_>) -> Option<usize> {
    let behind = |from: usize, word: &str| (from..t.len()).find(|&i| t.is(i, word)).map(|at| at + 1);
    let not_of = |kinds: &[&str], at: usize| (!t.is_any(at, kinds)).then_some(at);
    let kind = (1..t.len()).find(|&i| !t.is_any(i, &["or", "replace", "constraint", "unique"])).unwrap_or(1);
    match (t.keyword(0).as_str(), t.keyword(kind).as_str()) {
        ("drop" | "alter", "table" | "view" | "sequence") => Some(2),
        ("truncate", _) => Some(1),
        ("vacuum" | "analyze" | "analyse" | "cluster", _) if t.is_mark(1, "(") => {
            t.closing(1).map(|at| at + 1)
        }
        ("vacuum" | "analyze" | "analyse" | "cluster", _) => {
            let options = ["full", "freeze", "verbose", "analyze", "analyse"];
            (1..t.len()).find(|&i| !t.is_any(i, &options))
        }
        ("reindex", _) => behind(1, "table"),
        ("create", "index" | "trigger" | "policy") => behind(kind, "on"),
        ("create", "rule") => behind(kind, "to"),
        ("create", "statistics") => behind(kind, "from"),
        ("alter" | "drop", "trigger" | "policy" | "rule") => behind(kind, "on"),
        ("comment", _) => match t.keyword(2).as_str() {
            "table" | "view" | "sequence" | "column" => Some(3),
            "trigger" | "policy" | "rule" | "constraint" => not_of(&["domain"], behind(3, "on")?),
            _ => None,
        },
        ("grant" | "revoke", _) => not_of(&NOT_TABLES, behind(1, "on")?),
        _ => None,
    }
}

/// What follows ON in GRANT where no table does.
const NOT_TABLES: [&str; 14] = [
    "all",
    "database",
    "domain",
    "foreign",
    "function",
    "language",
    "large",
    "parameter",
    "procedure",
    "routine",
    "schema",
    "sequence",
    "tablespace",
    "type",
];
