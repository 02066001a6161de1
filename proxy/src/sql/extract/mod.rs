//! From a statement's text to its facts.
//!
//! Stages: tokens → what kind of command (`command`) → for SELECT, INSERT, UPDATE, DELETE and MERGE the parser's tree →
//! levels, scopes and groups (`level`, `join`, `predicate`, `groups`) → [`Facts`]. Whatever a stage does not know ends
//! in `Scope::Unknown` or in facts that pin nothing: never in a guess.

pub use self::defaults::is_default;
use self::reader::Reader;
use super::command::{Head, recognise};
use super::facts::{Access, Command, DdlKind, Effects, Facts, KeyTerm, Pin, PinCause, Scope, ValueRef};
use super::parse::{ast, with_tree};
use super::prepass::{Piece, prepare};
use super::schema::{Placement, Relation, Schema};
use super::sources::Sources;
use super::tokens::Tokens;

mod calls;
mod clause_spans;
mod clauses;
mod condition;
mod conflict;
mod copy;
mod defaults;
mod expr;
mod filters;
mod finish;
mod from;
mod gather;
mod groups;
mod insert;
mod query;
mod reader;
mod reshape;
mod scan;
mod scope;
#[cfg(test)]
mod tests;
mod time_texts;
mod utility;
mod write;

/// What facts depend on besides the text.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The catalog.
    pub schema: &'a Schema,
    /// The session's effective search path.
    pub search_path: &'a [String],
    /// The session has temporary tables: a name that the catalog does not know may be one.
    pub temp_tables: bool,
    /// The session's setting.
    pub standard_conforming_strings: bool,
    /// Longer statements are not parsed (settings: `limits.statement_parse_bytes`).
    pub statement_parse_bytes: usize,
    /// From [`super::cache::Cache::context_id`], for the fields above and `schema.generation`.
    pub id: u32,
}

/// Facts, and whether the value of a literal decided any of them.
#[derive(Debug)]
pub struct Analysis {
    /// The facts.
    pub facts: Facts,
    /// Texts that differ in literals do not share these facts.
    pub by_value: bool,
    /// What it reads.
    pub sources: Sources,
}

impl Analysis {
    /// Facts that one text alone has.
    fn own(facts: Facts) -> Self {
        Self { facts, by_value: true, sources: Sources::default() }
    }
}

/// The facts of one statement.
pub fn analyse(statement: impl AsRef<[u8]>, ctx: &Context<'_>) -> Facts {
    analysis(statement.as_ref(), ctx).facts
}

/// As [`analyse`], telling also whether the facts hold for all values of the literals.
pub fn analysis(statement: &[u8], ctx: &Context<'_>) -> Analysis {
    let tokens = Tokens::new(statement, ctx.standard_conforming_strings);
    analyse_tokens(&tokens, ctx, 0)
}

/// Statements inside of statements (EXPLAIN of PREPARE of …).
const MAX_NESTED_STATEMENTS: usize = 4;

/// `depth` counts statements inside statements (EXPLAIN, PREPARE).
fn analyse_tokens(t: &Tokens<'_>, ctx: &Context<'_>, depth: usize) -> Analysis {
    let by_value = Analysis::own;
    if t.text.len() > ctx.statement_parse_bytes {
        let why = "the statement is longer than limits.statement_parse_bytes: write fewer rows at a time, use COPY, or raise it";
        return by_value(opaque(t, ctx, why));
    }
    if depth > MAX_NESTED_STATEMENTS {
        return by_value(opaque(t, ctx, "statements inside of statements"));
    }
    match recognise(t) {
        Head::Empty => Analysis { by_value: false, ..Analysis::own(base(Command::Empty, Scope::Nothing)) },
        Head::Session(command) => by_value(utility::session(command)),
        Head::Constraints => by_value(base(Command::Other, Scope::Everywhere)),
        Head::Dml => dml(t, ctx, 0),
        Head::Explain { gavel, analyze, inner } => explain(t, ctx, (gavel, analyze, inner), depth),
        Head::Prepare { name, inner } => by_value(prepared(t, ctx, name, (inner, depth))),
        Head::Declare { name, hold, inner } => declared(t, ctx, (name, hold), (inner, depth)),
        Head::Copy => copy::copy(t, ctx, depth),
        Head::Lock => by_value(utility::lock(t, ctx)),
        Head::Call => by_value(call(t, ctx)),
        Head::Do => by_value(utility::anonymous_block(t, ctx)),
        Head::Ddl => by_value(utility::ddl(t, ctx)),
        Head::Opaque => by_value(utility::other(t)),
    }
}

/// SELECT, INSERT, UPDATE, DELETE, MERGE: through the parser.
fn dml(t: &Tokens<'_>, ctx: &Context<'_>, first: usize) -> Analysis {
    let read = prepare(t, first).and_then(|mut prepared| {
        if first > 0 {
            prepared.pieces.insert(0, Piece::Word("SELECT"));
        }
        with_tree(t, &prepared, |statement| {
            let mut reader = Reader::new(ctx, t, &prepared.quirks);
            match statement {
                ast::Statement::Query(query) => reader.query(query, true).map(|_| ())?,
                ast::Statement::Insert(_)
                | ast::Statement::Update(_)
                | ast::Statement::Delete(_)
                | ast::Statement::Merge(_) => reader.writer(statement, true).map(|_| ())?,
                _ => return Err("a statement of an unknown form".to_string()),
            }
            scan::audit(t, ctx, &reader.seen.tables)?;
            let mut analysis = reader.finish();
            // A SELECT returns rows even if a WITH query of it writes.
            analysis.facts.returns_rows |= matches!(statement, ast::Statement::Query(q) if selects(&q.body));
            Ok(match &prepared.quirks.select_into {
                Some((name, temporary)) => {
                    let mut analysis = select_into(analysis, name, *temporary, ctx);
                    analysis.facts.reshaped.extend(reshape::filled(t, ctx, (None, name), *temporary));
                    analysis
                }
                None => analysis,
            })
        })
    });
    read.unwrap_or_else(|complaint| Analysis::own(opaque(t, ctx, &complaint)))
}

/// Whether the body of a query is not a writing statement behind WITH.
fn selects(body: &ast::SetExpr) -> bool {
    use ast::SetExpr::{Delete, Insert, Merge, Query, Update};
    match body {
        Query(inner) => selects(&inner.body),
        Insert(_) | Update(_) | Delete(_) | Merge(_) => false,
        _ => true,
    }
}

/// SELECT … INTO is CREATE TABLE AS.
fn select_into(inner: Analysis, name: &str, temporary: bool, ctx: &Context<'_>) -> Analysis {
    let mut facts = inner.facts;
    let hides = ctx.schema.lookup(ctx.search_path, None, name);
    facts.scope = match facts.scope {
        Scope::Unknown { why } => Scope::Unknown { why },
        Scope::Sharded(_) => Scope::Unknown { why: "SELECT INTO reads a sharded table".to_string() },
        _ if temporary && hides.is_some_and(|r| r.placement != Placement::Unsharded) => {
            Scope::Unknown { why: format!("a temporary table named {name} would hide the table {name}") }
        }
        _ if temporary => Scope::Home,
        _ => Scope::Everywhere,
    };
    facts.command = Command::Ddl(if temporary { DdlKind::Temporary } else { DdlKind::Transactional });
    facts.effects.changes_catalog = !temporary;
    if temporary {
        facts.effects.pins = Some(PinCause::Temporary);
    }
    facts.access = Access::Write;
    facts.returns_rows = false;
    Analysis::own(facts)
}

fn explain(t: &Tokens<'_>, ctx: &Context<'_>, how: (bool, bool, usize), depth: usize) -> Analysis {
    let (gavel, analyze, inner) = how;
    let Analysis { facts: mut inner, .. } = analyse_tokens(&t.part(inner, t.len()), ctx, depth + 1);
    if gavel {
        let unknown_name = inner.unknown_name;
        let mut facts = base(Command::ExplainGavel(Box::new(inner)), Scope::Nothing);
        facts.unknown_name = unknown_name;
        facts.returns_rows = true;
        return Analysis::own(facts);
    }
    if let Scope::Sharded(sharded) = &mut inner.scope {
        sharded.no_concat.get_or_insert("EXPLAIN".to_string());
    }
    if !analyze {
        inner.effects = Effects::default();
        inner.access = Access::Read;
        inner.unrepeatable = None;
        inner.defaults = None;
    }
    if !matches!(inner.command, Command::Unreadable { .. }) {
        inner.command = Command::Explain;
    }
    inner.returns_rows = true;
    Analysis::own(inner)
}

/// PREPARE: parameters are not known yet, so they pin nothing.
fn prepared(t: &Tokens<'_>, ctx: &Context<'_>, name: String, (inner, depth): (usize, usize)) -> Facts {
    let mut facts = analyse_tokens(&t.part(inner, t.len()), ctx, depth + 1).facts;
    if let Scope::Sharded(sharded) = &mut facts.scope {
        let by_param = |term: &KeyTerm| matches!(term.value, ValueRef::Param(_));
        for pin in &mut sharded.groups {
            let open = match pin {
                Pin::Keys(terms) => terms.iter().any(by_param),
                Pin::Array(term) => by_param(term),
                Pin::Insert => true,
                Pin::Any | Pin::Never => false,
            };
            if open {
                *pin = Pin::Any;
            }
        }
        sharded.no_concat.get_or_insert("PREPARE in SQL".to_string());
        sharded.insert = None;
    }
    if !matches!(facts.command, Command::Unreadable { .. }) {
        facts.command = Command::Prepare(name);
    }
    facts.effects.pins = Some(PinCause::SqlPrepare);
    facts.returns_rows = false;
    facts
}

fn declared(
    t: &Tokens<'_>,
    ctx: &Context<'_>,
    cursor: (String, bool),
    (inner, depth): (usize, usize),
) -> Analysis {
    let (name, hold) = cursor;
    let Analysis { mut facts, sources, .. } = analyse_tokens(&t.part(inner, t.len()), ctx, depth + 1);
    let scrolls = (0..t.len()).any(|at| t.is(at, "scroll") && at > 0 && !t.is(at - 1, "no") && at < inner);
    // The proxy puts rows together by texts, and OIDs in binary values are those of one shard.
    let binary = (2..inner).any(|at| t.is(at, "binary"));
    if let Scope::Sharded(sharded) = &mut facts.scope
        && (hold || scrolls || binary)
    {
        let what = match (hold, scrolls) {
            (true, _) => "a cursor WITH HOLD",
            (false, true) => "a SCROLL cursor",
            (false, false) => "a BINARY cursor",
        };
        sharded.no_concat.get_or_insert(what.to_string());
    }
    if !matches!(facts.command, Command::Unreadable { .. }) {
        facts.command = Command::Declare { name, hold };
    }
    if hold {
        facts.effects.pins = Some(PinCause::HoldCursor);
    }
    facts.returns_rows = false;
    Analysis { sources, ..Analysis::own(facts) }
}

/// CALL p(…) is placed as SELECT p(…) would be.
fn call(t: &Tokens<'_>, ctx: &Context<'_>) -> Facts {
    let mut facts = dml(t, ctx, 1).facts;
    if !matches!(facts.command, Command::Unreadable { .. }) {
        facts.command = Command::Call;
    }
    if matches!(facts.scope, Scope::Nothing | Scope::Reference) {
        facts.scope = Scope::Home;
    }
    facts.access = Access::Write;
    facts
}

/// Why a deed to a relation is barred, for messages.
fn barred(relation: &Relation, schema: &Schema, why: &str) -> String {
    match schema.refused.contains_key(&relation.oid) {
        true => format!("the table {} cannot be sharded: {why}", relation.full_name()),
        false => why.to_owned(),
    }
}

/// Facts with nothing in them but the command and its scope.
fn base(command: Command, scope: Scope) -> Facts {
    Facts {
        command,
        scope,
        access: Access::Read,
        effects: Effects::default(),
        tables: Vec::new(),
        returns_rows: false,
        unrepeatable: None,
        barred: None,
        unknown_name: false,
        times: false,
        by_clock: None,
        reshaped: Vec::new(),
        defaults: None,
    }
}

/// Facts of a statement that could not be read: the scan says where it may go.
fn opaque(tokens: &Tokens<'_>, ctx: &Context<'_>, complaint: &str) -> Facts {
    let command = Command::Unreadable { complaint: complaint.to_string() };
    let (scope, tables) = scan::scope(tokens, ctx, complaint);
    let mut facts = base(command, scope);
    facts.tables = tables;
    facts.access = Access::Write;
    facts.effects.pins = scan::leaves_state(tokens, ctx).then_some(PinCause::Settings);
    facts
}
