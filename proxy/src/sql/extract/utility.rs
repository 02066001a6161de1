//! Facts of commands that the parser never sees: session commands and DDL.

use super::base;
use crate::sql::facts::{Access, Command, Effects, Facts, PinCause, Scope};
use crate::sql::tokens::Tokens;

/// Facts of a session command.
pub(super) fn session(command: Command) -> Facts {
    let (scope, access, pins, rows) = match &command {
        Command::Listen(_) => (Scope::Home, Access::Write, Some(PinCause::Listen), false),
        Command::Unlisten(_) | Command::Notify(_) | Command::TwoPhase => {
            (Scope::Home, Access::Write, None, false)
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
