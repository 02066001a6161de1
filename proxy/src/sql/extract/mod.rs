//! From a statement's text to its facts.
//!
//! Stages: tokens → what kind of command (`command`) → for SELECT, INSERT, UPDATE, DELETE and MERGE the parser's tree →
//! levels, scopes and groups (`level`, `join`, `predicate`, `groups`) → [`Facts`]. Whatever a stage does not know ends
//! in `Scope::Unknown` or in facts that pin nothing: never in a guess.

use super::command::{Head, recognise};
use super::facts::{Access, Command, Effects, Facts, PinCause, Scope};
use super::schema::Schema;
use super::tokens::Tokens;

mod scan;
mod utility;

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

/// `depth` counts statements inside statements (EXPLAIN, PREPARE).
fn analyse_tokens(tokens: &Tokens<'_>, ctx: &Context<'_>, depth: usize) -> Analysis {
    let by_value = |facts| Analysis { facts, by_value: true };
    match recognise(tokens) {
        Head::Empty => Analysis { facts: base(Command::Empty, Scope::Nothing), by_value: false },
        Head::Session(command) => by_value(utility::session(command)),
        Head::Constraints => by_value(base(Command::Other, Scope::Everywhere)),
        Head::Dml => dml(tokens, ctx),
        _ if depth > 4 => by_value(opaque(tokens, ctx, "statements nested in statements")),
        Head::Opaque => by_value(utility::other(tokens)),
        _ => by_value(opaque(tokens, ctx, "not yet")),
    }
}

fn dml(tokens: &Tokens<'_>, ctx: &Context<'_>) -> Analysis {
    Analysis { facts: opaque(tokens, ctx, "not yet"), by_value: true }
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
    }
}

/// Facts of a statement that could not be read: the scan says where it may go.
fn opaque(tokens: &Tokens<'_>, ctx: &Context<'_>, complaint: &str) -> Facts {
    let command = Command::Unreadable { complaint: complaint.to_string() };
    let (scope, tables) = scan::scope(tokens, ctx, complaint);
    let mut facts = base(command, scope);
    facts.tables = tables;
    facts.access = Access::Write;
    // What it leaves on the connection is not known either.
    facts.effects = Effects { pins: Some(PinCause::Settings), ..Effects::default() };
    facts
}
