//! DDL in a session with temporary objects, which are on the home shard: what its names mean there and what they mean on the others.
//!
//! Invariant: DDL for every shard names no temporary object of the session's, and DDL for the home shard alone no permanent one.

use router_config::topology::ShardId;

use super::failure::Failure;
use super::session::Session;
use crate::backend::gucs::literal;
use crate::sql::facts::{Command, DdlKind, Facts, PinCause};
use crate::sql::tokens::Tokens;
use crate::wire::backend::Status;

/// What DDL about objects that exist begins with.
const ABOUT: [&str; 12] = [
    "alter", "analyse", "analyze", "cluster", "comment", "create", "drop", "grant", "reindex", "revoke",
    "truncate", "vacuum",
];

impl Session {
    /// Whether a name that the catalog does not know may be that of a temporary table: of one that the session has, or that the
    /// request under way makes.
    pub(super) fn has_temporary(&self) -> bool {
        let makes = |pin: Option<PinCause>| pin == Some(PinCause::Temporary);
        self.temp_tables || self.pending.iter().any(|expected| makes(expected.facts.pin()))
    }

    /// Whether the home shard has to be asked what the names of a statement mean: [`Self::check_temporary`].
    pub(super) fn may_mean_temporary(&self, facts: &Facts, text: &[u8]) -> bool {
        let Command::Ddl(kind) = facts.command else { return false };
        let concerned = match kind {
            DdlKind::Home => false,
            DdlKind::Temporary => !makes_temporary(&Tokens::new(text, self.text_rules().standard_strings)),
            DdlKind::Transactional | DdlKind::NonTransactional => self.has_temporary(),
        };
        concerned && self.is_placed() && self.status() != Status::Failed
    }

    /// Refuses DDL whose names mean temporary objects on the home shard and permanent ones on the others.
    pub(super) async fn check_temporary(&mut self, facts: &Facts, text: &[u8]) -> Result<(), Failure> {
        let t = Tokens::new(text, self.text_rules().standard_strings);
        let names = unqualified(&t);
        if names.is_empty() {
            return Ok(());
        }
        self.leave_all().await?;
        let at = self.acquire(ShardId(0), false).await?;
        let listed = names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT relname, relnamespace = pg_catalog.pg_my_temp_schema() FROM pg_catalog.pg_class \
             WHERE relname IN ({listed}) AND (pg_catalog.pg_table_is_visible(oid) \
             OR relnamespace = pg_catalog.pg_my_temp_schema())"
        );
        let found = self.ask_rows(at, &sql).await?;
        let of = |temporary: bool| found.iter().find(|row| row.flag(1) == temporary).map(|row| row.text(0));
        let (temporary, permanent) = (of(true), of(false));
        let here = matches!(facts.command, Command::Ddl(DdlKind::Temporary));
        match (temporary, permanent) {
            (Some(name), _) if !here => Err(Failure::unsupported(
                format!("{name} is a temporary object of this session, and the statement is for every shard"),
                format!(
                    "Write pg_temp.{name} for the temporary object, or name the schema of the permanent one."
                ),
            )),
            (temporary, Some(name)) if here && (names_several(&t) || temporary.is_none()) => {
                Err(Failure::unsupported(
                    format!(
                        "{name} is not a temporary object, and the statement is for the session's own alone"
                    ),
                    "Use one statement for temporary objects and another one for the others.",
                ))
            }
            _ => Ok(()),
        }
    }
}

/// CREATE TEMPORARY TABLE and the like, whose names are new.
fn makes_temporary(t: &Tokens<'_>) -> bool {
    let about = |at: usize| t.is_any(at, &["index", "statistics", "trigger", "policy", "rule"]);
    !t.is_any(0, &ABOUT) || (t.is(0, "create") && !(1..5).any(about))
}

/// Whether it does the same to several tables, or joins one to another.
fn names_several(t: &Tokens<'_>) -> bool {
    let lists = ["analyse", "analyze", "drop", "grant", "revoke", "truncate", "vacuum"];
    t.is_any(0, &lists) || (t.is(0, "alter") && (3..t.len()).any(|at| t.is(at, "inherit")))
}

/// Names without a schema that stand in a statement.
fn unqualified(t: &Tokens<'_>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut at = 1;
    while let Some(next) = (at..t.len()).find(|&at| t.name(at).is_some()) {
        let (schema, name, behind) = match t.qualified(next) {
            Some(found) => found,
            None => break,
        };
        // What is qualified once may be a column.
        let table = if behind == next + 3 { schema } else { None };
        names.extend(table.into_iter().chain((behind == next + 1).then_some(name)));
        at = behind;
    }
    names.sort_unstable();
    names.dedup();
    names
}
